//! What stands between a node and its broker, and does not always let through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As if it were not there.
    Open,
    /// Takes connections, and nothing comes back; what was open before says nothing any more.
    Mute,
    /// Ends every second connection as soon as it was made.
    EverySecond,
}

/// A TCP proxy.
pub(crate) struct Gate {
    pub(crate) port: u16,
    way: watch::Sender<(Way, u64)>,
    taken: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub(crate) async fn before(port: u16, way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (way, ways) = watch::channel((way, 0));
        let taken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&taken);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(pass(client, port, number, ways.clone()));
            }
        });
        Self { port: own, way, taken, _tasks: tasks }
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_modify(|(now, _)| *now = way);
    }

    /// Ends what is open.
    pub(crate) fn cut(&self) {
        self.way.send_modify(|(_, cuts)| *cuts += 1);
    }

    /// Connections so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, port: u16, number: u64, mut ways: watch::Receiver<(Way, u64)>) {
    let (way, cuts) = *ways.borrow();
    if way == Way::EverySecond && number % 2 == 1 {
        return;
    }
    if way != Way::Mute
        && let Ok(mut broker) = TcpStream::connect(("127.0.0.1", port)).await
    {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => return,
            _ = ways.wait_for(|(way, now)| *way == Way::Mute || *now != cuts) => {}
        }
    }
    // Open, and silent, until somebody else ends it.
    let _ = ways.wait_for(|(way, now)| *way != Way::Mute || *now != cuts).await;
}
