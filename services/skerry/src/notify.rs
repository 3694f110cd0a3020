//! Tells systemd how the process is: ready, alive, stopping.
//!
//! The protocol is one datagram to the socket in `NOTIFY_SOCKET`; without it nothing happens. The
//! watchdog is fed only while `healthy` says so, so that a process that hangs is started again. A
//! datagram that cannot be sent is no reason to stop.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Sends one state line such as `READY=1`.
pub(crate) fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(Path::new(&socket), state)
    {
        tracing::warn!(%error, state, "cannot notify the service manager");
    }
}

fn send(socket: &Path, state: &str) -> std::io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    // A leading `@` is an abstract socket, which has no file.
    if let Some(name) = socket.as_os_str().as_bytes().strip_prefix(b"@") {
        let address = SocketAddr::from_abstract_name(name)?;
        datagram.send_to_addr(state.as_bytes(), &address)?;
    } else {
        datagram.send_to(state.as_bytes(), socket)?;
    }
    Ok(())
}

/// Half of the time within which systemd wants to hear from this process; `None` without a watchdog.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    (ours && micros > 0).then(|| Duration::from_micros(micros / 2))
}

/// Feeds the watchdog as long as `healthy` agrees. Ends never; drop it to stop.
pub(crate) async fn feed(healthy: impl AsyncFn() -> bool) {
    let Some(interval) = watchdog_interval() else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(interval);
    loop {
        tick.tick().await;
        if healthy().await {
            notify("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_state_is_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(&path, "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
