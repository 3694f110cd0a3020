//! The first message of a stream, at both ends.
//!
//! Our streams begin with a hello of the caller and an answer to it. Whoever does not say hello in time
//! would hold a stream for nothing, and whoever waits for an answer must notice that none comes. Used by
//! every service that serves or opens such a stream. Cancel safe where the stream is dropped with the call.

use std::time::Duration;

use tonic::{Response, Status, Streaming};

/// How long a caller may take to say hello on a new stream, and the other end to answer it.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for the hello of a stream that a caller opened; `of` takes it out of the first message. `None`: the
/// stream ended without one.
///
/// # Errors
/// `INVALID_ARGUMENT` for another message, `DEADLINE_EXCEEDED` when none came, the stream's own status.
pub async fn hello<T, H>(incoming: &mut Streaming<T>, of: impl FnOnce(T) -> Option<H>) -> Result<Option<H>, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no hello came"))?? {
        Some(message) => {
            of(message).map(Some).ok_or_else(|| Status::invalid_argument("the first message must be hello"))
        }
        None => Ok(None),
    }
}

/// Opens a stream, into whose queue hello was put, and waits for the first answer. `None`: the stream ended
/// without one.
///
/// # Errors
/// `DEADLINE_EXCEEDED` when nothing came, the status that refused the stream.
pub async fn begin<T>(
    open: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<(Streaming<T>, Option<T>), Status> {
    let started = tokio::time::timeout(HELLO_TIMEOUT, async {
        let mut stream = open.await?.into_inner();
        let first = stream.message().await?;
        Ok((stream, first))
    });
    started.await.map_err(|_| Status::deadline_exceeded("no answer to hello"))?
}
