//! HTTP/2 by hand: frames as an attacker writes them, and a record of what comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The error code of RFC 9113 for peers that misbehave.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// What the server sent.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Frames by type.
    pub frames: BTreeMap<u8, usize>,
    pub settings: BTreeMap<u16, u32>,
    /// Error codes of GOAWAY frames.
    pub goaway: Vec<u32>,
    /// Error code → count of RST_STREAM frames.
    pub resets: BTreeMap<u32, usize>,
    /// DATA bytes and header blocks, as they came.
    pub payload: Vec<u8>,
    pub closed: bool,
}

impl Seen {
    pub fn count(&self, kind: u8) -> usize {
        self.frames.get(&kind).copied().unwrap_or(0)
    }
}

pub struct Raw {
    write: OwnedWriteHalf,
    seen: Arc<Mutex<Seen>>,
    next_stream: u32,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An HPACK literal that is not indexed, with a name of its own.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        length(&mut bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn length(bytes: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
        return;
    }
    bytes.push(127);
    length -= 127;
    while length >= 128 {
        bytes.push(u8::try_from(length % 128).unwrap() | 128);
        length /= 128;
    }
    bytes.push(u8::try_from(length).unwrap());
}

/// The header block of a gRPC request.
pub fn grpc_headers(path: &str) -> Vec<u8> {
    // Indexed: POST, http.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path));
    block.extend(literal(":authority", "localhost"));
    block.extend(literal("content-type", "application/grpc"));
    block.extend(literal("te", "trailers"));
    block
}

pub const SUBSCRIBE: &str = "/skerry.sync.v1.Source/Subscribe";
pub const LIST: &str = "/skerry.hub.v1.Hub/ListSessions";

impl Raw {
    /// Connects and sends nothing.
    pub async fn tcp(address: SocketAddr) -> Self {
        let (mut read, write) = TcpStream::connect(address).await.unwrap().into_split();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = seen.clone();
        tokio::spawn(async move {
            let mut header = [0; 9];
            while read.read_exact(&mut header).await.is_ok() {
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                let mut payload = vec![0; length];
                if read.read_exact(&mut payload).await.is_err() {
                    break;
                }
                let mut seen = record.lock().unwrap();
                *seen.frames.entry(header[3]).or_default() += 1;
                let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match header[3] {
                    SETTINGS if header[4] & ACK == 0 => {
                        for setting in payload.chunks(6) {
                            let id = u16::from_be_bytes([setting[0], setting[1]]);
                            seen.settings.insert(id, u32::from_be_bytes(setting[2..].try_into().unwrap()));
                        }
                    }
                    GOAWAY => seen.goaway.push(number(4)),
                    RST_STREAM => *seen.resets.entry(number(0)).or_default() += 1,
                    DATA | HEADERS => seen.payload.extend(&payload),
                    _ => {}
                }
            }
            record.lock().unwrap().closed = true;
        });
        Self { write, seen, next_stream: 1 }
    }

    /// Connects and opens HTTP/2 properly.
    pub async fn http2(address: SocketAddr) -> Self {
        let mut raw = Self::tcp(address).await;
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        hello.extend(frame(SETTINGS, ACK, 0, &[]));
        assert!(raw.send(&hello).await);
        raw.wait("settings", |seen| !seen.settings.is_empty()).await;
        raw
    }

    /// Whether the bytes were taken.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        tokio::time::timeout(Duration::from_secs(5), self.write.write_all(bytes)).await.is_ok_and(|r| r.is_ok())
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// Opens a request and leaves it open.
    pub async fn open(&mut self, path: &str) -> bool {
        let stream = self.stream();
        self.send(&frame(HEADERS, END_HEADERS, stream, &grpc_headers(path))).await
    }

    pub async fn wait(&self, what: &str, so: impl Fn(&Seen) -> bool) {
        self.wait_for(what, Duration::from_secs(10), so).await;
    }

    pub async fn wait_for(&self, what: &str, within: Duration, so: impl Fn(&Seen) -> bool) {
        let started = std::time::Instant::now();
        while !so(&self.seen.lock().unwrap()) {
            assert!(started.elapsed() < within, "{what}: not within {within:?}: {:?}", self.seen().frames);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn closed(&self, within: Duration) {
        self.wait_for("the end of the connection", within, |seen| seen.closed).await;
    }
}
