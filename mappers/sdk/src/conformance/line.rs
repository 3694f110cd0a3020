//! A line that can be taken away, for the `cut` of a [`Subject`](super::Subject).

use std::io;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Opens a port of this machine that leads to the port `to`, and is away while the value of the switch is true:
/// connections end then, and new ones are closed at once. It lasts as long as the runtime.
///
/// # Errors
/// When no port can be opened.
pub async fn line(to: u16) -> io::Result<(watch::Sender<bool>, u16)> {
    let (cut, away) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let away = Arc::new(away);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut away = watch::Receiver::clone(&away);
            tokio::spawn(async move {
                if *away.borrow() {
                    return;
                }
                let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = away.wait_for(|away| *away) => {}
                }
            });
        }
    });
    Ok((cut, port))
}
