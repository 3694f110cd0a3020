//! Connections inside one process, for services that run together.
//!
//! [`pipe`] gives the listening end, which a server takes in [`crate::Listen::Pipe`], and a connector
//! that clients clone. What runs over it is the same gRPC as over a socket. The bytes of a pipe are
//! buffered in memory of a fixed size; when the server is gone, connecting fails.

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::error::ConnectError;

/// Bytes that one direction of a pipe holds before the writer waits. A frame and its header fit.
const PIPE_BYTES: usize = 32 << 10;

/// Connections that wait to be accepted; a further connect waits.
const PIPE_BACKLOG: usize = 16;

/// The end that a server listens on.
#[derive(Debug)]
pub struct PipeListener(mpsc::Receiver<DuplexStream>);

/// The end that clients connect with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PipeConnector(mpsc::Sender<DuplexStream>);

/// A listener and its connector.
#[must_use]
pub fn pipe() -> (PipeListener, PipeConnector) {
    let (sender, receiver) = mpsc::channel(PIPE_BACKLOG);
    (PipeListener(receiver), PipeConnector(sender))
}

impl PipeListener {
    /// The next connection; `None` when no connector is left.
    pub(crate) async fn accept(&mut self) -> Option<DuplexStream> {
        self.0.recv().await
    }
}

impl PipeConnector {
    pub(crate) async fn connect(&self) -> Result<DuplexStream, ConnectError> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.0.send(theirs).await.map_err(|_| ConnectError::PipeClosed)?;
        Ok(ours)
    }
}
