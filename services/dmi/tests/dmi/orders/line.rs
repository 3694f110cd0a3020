//! A Modbus device on TCP that notes when it is asked: what a restart of somebody else must not be felt by.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Transaction, protocol, length and unit of a frame.
const HEADER: usize = 7;

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    reads: Vec<Instant>,
}

/// The device. Each of its registers holds the same value.
pub(super) struct Line {
    pub(super) port: u16,
    value: Arc<AtomicU16>,
    seen: Arc<Mutex<Seen>>,
    accept: tokio::task::AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Line {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (value, seen) = (Arc::<AtomicU16>::default(), Arc::<Mutex<Seen>>::default());
        let (shown, noted) = (Arc::clone(&value), Arc::clone(&seen));
        let accept = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                noted.lock().unwrap().connections += 1;
                connections.spawn(serve(stream, Arc::clone(&shown), Arc::clone(&noted)));
            }
        });
        Self { port, value, seen, accept: accept.abort_handle() }
    }

    pub(super) fn set(&self, value: u16) {
        self.value.store(value, Ordering::SeqCst);
    }

    /// How often it was connected to.
    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// The longest time without a read since `start`.
    pub(super) fn longest_gap(&self, start: Instant) -> Duration {
        let seen = self.seen.lock().unwrap();
        let times: Vec<Instant> = std::iter::once(start)
            .chain(seen.reads.iter().copied().filter(|at| *at > start))
            .chain([Instant::now()])
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
}

async fn serve(mut stream: TcpStream, value: Arc<AtomicU16>, seen: Arc<Mutex<Seen>>) -> Option<()> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await.ok()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut request = vec![0; length - 1];
        stream.read_exact(&mut request).await.ok()?;
        seen.lock().unwrap().reads.push(Instant::now());
        let [3, _, _, _, count] = request[..] else { panic!("not a read of holding registers: {request:?}") };
        let registers = value.load(Ordering::SeqCst).to_be_bytes().repeat(usize::from(count));
        let mut answer = header[..4].to_vec();
        answer.extend(u16::try_from(registers.len() + 3).unwrap().to_be_bytes());
        answer.extend([header[6], 3, count * 2]);
        answer.extend(registers);
        stream.write_all(&answer).await.ok()?;
    }
}
