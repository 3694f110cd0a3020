//! Modbus TCP: frames with transaction ids, several of which may be under way.
//!
//! Used by one connection of the SDK at a time. An answer counts when its transaction and its unit are those of
//! a request that waits; late answers of requests that were given up are thrown away. A stream that is out of
//! step (another protocol, an impossible length) cannot be mended and is given up.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::line::{Ask, Lost, Outcome};
use crate::pdu::Failure;

/// Longest wait for a connection. A packet that is lost would be sent again by the kernel after 1, 3 and 7
/// seconds; giving up and beginning anew is faster after a cable is back.
const CONNECT: Duration = Duration::from_secs(1);

/// Bytes before the unit's answer: transaction, protocol, length, unit.
const HEADER: usize = 7;

/// Longest frame by the specification, and the most that is kept of the stream beside one.
const FRAME: usize = 260;

/// Requests without an answer after which the connection is opened anew, when not a byte came meanwhile: devices
/// exist whose network answers and whose program does not.
const PATIENCE: u32 = 3;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    stream: TcpStream,
    /// What came and is no whole frame yet.
    buffer: Vec<u8>,
    transaction: u16,
    /// Requests in a row without an answer.
    silent: u32,
}

/// A request that waits.
struct Waiting {
    transaction: u16,
    at: usize,
    deadline: Instant,
}

impl Tcp {
    /// Connects. `wait` is the time that an answer may take.
    pub(crate) async fn connect(host: &str, port: u16, wait: Duration) -> Result<Self, Lost> {
        let stream = match timeout(CONNECT, TcpStream::connect((host, port))).await {
            Ok(stream) => stream.map_err(|error| Lost::io("cannot connect", &error))?,
            Err(_) => return Err(Lost(format!("cannot connect within {} ms", CONNECT.as_millis()))),
        };
        // A request is one small packet; waiting for more would only delay it.
        stream.set_nodelay(true).map_err(|error| Lost::io("cannot set up the connection", &error))?;
        // A pulled cable shows in what the other end's kernel does not confirm, before the answer is late: so it
        // is told from a device that is there and silent.
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(wait * 3 / 4));
        Ok(Self { stream, buffer: Vec::with_capacity(FRAME), transaction: 0, silent: 0 })
    }

    /// Sends requests and collects their answers, in the order of the requests. When one is not answered in time,
    /// neither are those after it.
    pub(crate) async fn exchange(&mut self, ask: &Ask<'_>) -> Result<Vec<Outcome>, Lost> {
        let silence = Failure::Silent(ask.timeout.as_millis());
        let mut outcomes = vec![Err(silence); ask.requests.len()];
        let mut waiting = VecDeque::with_capacity(ask.window);
        let mut unsent = ask.requests.iter().enumerate();
        loop {
            let mut frames = Vec::new();
            while waiting.len() < ask.window
                && let Some((at, request)) = unsent.next()
            {
                self.transaction = self.transaction.wrapping_add(1);
                let transaction = self.transaction;
                frame(&mut frames, transaction, ask.unit, &request.encode());
                waiting.push_back(Waiting { transaction, at, deadline: Instant::now() + ask.timeout });
            }
            if !frames.is_empty() {
                self.send(&frames, ask.timeout).await?;
            }
            let Some(first) = waiting.front() else { return Ok(outcomes) };
            let Ok(frame) = timeout_at(first.deadline, self.receive()).await else {
                self.silent += 1;
                if self.silent >= PATIENCE {
                    return Err(Lost(format!("{PATIENCE} requests in a row were not answered")));
                }
                return Ok(outcomes);
            };
            let frame = frame?;
            self.silent = 0;
            let transaction = u16::from_be_bytes([byte(&frame, 0), byte(&frame, 1)]);
            let Some(place) = waiting.iter().position(|waiting| waiting.transaction == transaction) else {
                tracing::debug!(transaction, "an answer came too late, or to no question");
                continue;
            };
            let unit = byte(&frame, 6);
            let pdu = frame.get(HEADER..).unwrap_or_default();
            let Some(at) = waiting.remove(place).map(|waiting| waiting.at) else { continue };
            if let (Some(outcome), Some(request)) = (outcomes.get_mut(at), ask.requests.get(at)) {
                *outcome = if unit == ask.unit {
                    request.accept(pdu)
                } else {
                    Err(Failure::Garbage(format!("unit {unit} answered for unit {}", ask.unit)))
                };
            }
        }
    }

    async fn send(&mut self, frames: &[u8], wait: Duration) -> Result<(), Lost> {
        match timeout(wait, self.stream.write_all(frames)).await {
            Ok(sent) => sent.map_err(|error| Lost::io("cannot send", &error)),
            Err(_) => Err(Lost("the device takes nothing any more".to_owned())),
        }
    }

    /// The next frame. May be dropped while it waits: what came is kept.
    async fn receive(&mut self) -> Result<Vec<u8>, Lost> {
        loop {
            if let Some(length) = whole(&self.buffer)? {
                return Ok(self.buffer.drain(..length).collect());
            }
            let mut some = [0; FRAME];
            let count = self.stream.read(&mut some).await.map_err(|error| Lost::io("cannot read", &error))?;
            if count == 0 {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(Lost::io("the device has closed the connection", &error));
            }
            self.buffer.extend(some.iter().take(count));
        }
    }
}

fn frame(out: &mut Vec<u8>, transaction: u16, unit: u8, pdu: &[u8]) {
    let length = u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX);
    out.extend(transaction.to_be_bytes());
    out.extend([0, 0]);
    out.extend(length.to_be_bytes());
    out.push(unit);
    out.extend(pdu);
}

/// The length of the frame at the beginning, if it is whole.
fn whole(buffer: &[u8]) -> Result<Option<usize>, Lost> {
    let [_, _, protocol_high, protocol_low, length_high, length_low, ..] = *buffer else { return Ok(None) };
    let protocol = u16::from_be_bytes([protocol_high, protocol_low]);
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    // A unit and at least a function with a byte; at most what the specification allows.
    if protocol != 0 || !(3..=FRAME - 6).contains(&length) {
        return Err(Lost("what came is not Modbus TCP".to_owned()));
    }
    Ok((buffer.len() >= 6 + length).then_some(6 + length))
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}
