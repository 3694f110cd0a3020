//! A TCP proxy that fails on purpose.
//!
//! It stands between two ends and forwards bytes until told otherwise: a blackhole takes bytes and gives
//! none (a link that drops packets silently), a cut ends the connections, a delay holds every byte back.
//! What it did is counted, so that a test can show that its fault was there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are forwarded at a time.
const CHUNK: usize = 16 * 1024;

/// What the proxy does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forward.
    Pass,
    /// Forward after a delay in each direction.
    Delay(Duration),
    /// Take nothing and give nothing; connections stay open. New ones are accepted and stay silent.
    Blackhole,
    /// End every connection, and each new one at once.
    Cut,
}

/// A proxy to one address; it ends with this value.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl FaultProxy {
    /// Listens on a free port of loopback and forwards to `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (mode, watch) = watch::channel(Mode::Pass);
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(accept(listener, target, watch, counts.clone()));
        Ok(Self { address, mode, counts, task })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the proxy does, for present and later connections.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes forwarded so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    // Dropped with this task, which ends the connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(forward(client, target, mode.clone(), counts.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    // A connection that begins in a blackhole begins when it ends.
    let begun = mode.wait_for(|mode| *mode != Mode::Blackhole).await.map(|mode| *mode);
    if !begun.is_ok_and(|mode| mode != Mode::Cut) {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let cut = async {
        let mut mode = mode.clone();
        let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
    };
    tokio::select! {
        () = copy(client_in, server_out, mode.clone(), &counts) => {}
        () = copy(server_in, client_out, mode.clone(), &counts) => {}
        () = cut => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    counts: &Counts,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return };
        let Ok(now) = mode.wait_for(|mode| *mode != Mode::Blackhole).await.map(|mode| *mode) else { return };
        if let Mode::Delay(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
        counts.bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}
