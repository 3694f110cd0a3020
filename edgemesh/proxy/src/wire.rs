//! How a stream of the tunnel begins: a header from the caller, a reply from the node, both of `skerry-mesh-core`.
//!
//! After a reply that refuses the stream is over; else frames follow (see `half` and `udp::frames`). Nothing is
//! read ahead, so no byte is lost between the parts.

use std::io;

use skerry_mesh_core::{Header, HeaderError, MAX_HEADER, REPLY_LEN, Reply};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::dial::DialError;

/// Version and length, which every header begins with.
const HEAD: usize = 2;

/// Asks the node at the other end.
pub(crate) async fn ask<S>(stream: &mut S, header: &Header) -> Result<(), DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reply = [0; REPLY_LEN];
    let answered = async {
        stream.write_all(&header.encode()).await?;
        stream.flush().await?;
        stream.read_exact(&mut reply).await
    };
    answered.await.map_err(|_| DialError::NoPath)?;
    match Reply::decode(&reply) {
        Ok(Some(Reply::Connected)) => Ok(()),
        Ok(Some(Reply::Refused(refusal))) => Err(refusal.into()),
        Ok(None) | Err(_) => Err(DialError::Malformed),
    }
}

/// Reads what the caller wants.
///
/// # Errors
/// The inner one when it is no header of ours, the outer one when the stream breaks.
pub(crate) async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<Header, HeaderError>> {
    let mut bytes = [0; MAX_HEADER];
    let (head, rest) = bytes.split_at_mut(HEAD);
    stream.read_exact(head).await?;
    if let Err(error) = Header::decode(head) {
        return Ok(Err(error));
    }
    let length = head.last().copied().map_or(0, usize::from);
    stream.read_exact(rest.get_mut(..length).unwrap_or_default()).await?;
    let decoded = Header::decode(&bytes);
    Ok(decoded.and_then(|header| header.map(|(header, _)| header).ok_or(HeaderError::Truncated)))
}

/// Answers the caller.
///
/// # Errors
/// When the stream breaks.
pub(crate) async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, reply: Reply) -> io::Result<()> {
    stream.write_all(&reply.encode()).await?;
    stream.flush().await
}
