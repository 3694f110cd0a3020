//! The two short exchanges of messages between nodes: records, for peers that do not know each other, and addresses,
//! to find a direct path.
//!
//! Each is one message either way on a stream of its own, with a length before it. Both ends bound the size before
//! they read and the time of the whole; a task does one exchange and ends. The opener writes first; whoever accepts
//! answers.

use std::time::Duration;

use libp2p::Multiaddr;
use prost::Message;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    record::{self, MAX_RECORD},
    streams::Stream,
};

/// How long an exchange may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Addresses on the wire.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Addresses {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Vec<u8>>,
}

impl Addresses {
    pub(crate) fn encode(addresses: &[Multiaddr]) -> Vec<u8> {
        let addresses = addresses.iter().take(record::MAX_ADDRESSES).map(Multiaddr::to_vec).collect();
        Self { addresses }.encode_to_vec()
    }

    /// `None` when it is no list of addresses, or one that is too long.
    pub(crate) fn decode_bounded(encoded: &[u8]) -> Option<Vec<Multiaddr>> {
        record::addresses(&Self::decode(encoded).ok()?.addresses).ok()
    }
}

/// Sends `ours` and returns the peer's message.
///
/// # Errors
/// The stream's, one of kind `InvalidData` for a message that is too long, `TimedOut` after [`DEADLINE`].
pub(crate) async fn ask(mut stream: Stream, ours: &[u8]) -> io::Result<Vec<u8>> {
    bounded(async move {
        write(&mut stream, ours).await?;
        let theirs = read(&mut stream).await?;
        stream.shutdown().await?;
        Ok(theirs)
    })
    .await
}

/// Returns the peer's message and answers with `ours`.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn answer(mut stream: Stream, ours: &[u8]) -> io::Result<Vec<u8>> {
    bounded(async move {
        let theirs = read(&mut stream).await?;
        write(&mut stream, ours).await?;
        stream.shutdown().await?;
        // The opener ends its side when it has read the answer: only then may the connection be closed.
        let mut rest = [0; 1];
        match stream.read(&mut rest).await? {
            0 => Ok(theirs),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    })
    .await
}

async fn bounded(exchange: impl Future<Output = io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    timeout(DEADLINE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn write(stream: &mut Stream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_u16(length).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

async fn read(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_RECORD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
