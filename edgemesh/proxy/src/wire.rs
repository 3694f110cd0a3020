//! How a stream of the tunnel begins: a header from the caller, one byte of answer from the node.
//!
//! The header is opaque here: two bytes of length, then so many bytes, at most 1,024. The answer is 0, or the
//! code of a [`DialError`], after which the stream is over. Frames follow (see `half`). Nothing is read ahead, so
//! no byte is lost between the parts.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::dial::DialError;
use crate::limits::MAX_HEADER;

/// Asks the node at the other end.
pub(crate) async fn ask<S>(stream: &mut S, header: &[u8]) -> Result<(), DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = u16::try_from(header.len()).ok().filter(|length| usize::from(*length) <= MAX_HEADER);
    let length = length.ok_or(DialError::Malformed)?.to_be_bytes();
    let answer = async {
        stream.write_all(&[&length, header].concat()).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    DialError::from_code(answer.await.map_err(|_| DialError::NoPath)?)
}

/// Reads what the caller wants.
///
/// # Errors
/// When the stream breaks, or the header is too long.
pub(crate) async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Bytes> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_HEADER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the header is too long"));
    }
    let mut header = vec![0; length];
    stream.read_exact(&mut header).await?;
    Ok(header.into())
}

/// Answers the caller.
///
/// # Errors
/// When the stream breaks.
pub(crate) async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, answer: Result<(), DialError>) -> io::Result<()> {
    stream.write_u8(answer.err().map_or(0, DialError::code)).await?;
    stream.flush().await
}
