//! The way to another node, and why it did not lead to a backend.

use std::fmt;
use std::future::Future;
use std::io;

use skerry_common::NodeName;
use skerry_mesh_core::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens streams to other nodes.
pub trait Dial: Send + Sync + 'static {
    /// A stream: both ways, ordered, with backpressure. Shutting it down ends our way only; dropping it ends both.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a stream to a node. The caller gives up after its own deadline by dropping the future.
    fn open(&self, node: &NodeName) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Why a candidate could not be reached. What another node says goes into the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DialError {
    /// Nothing listens at the backend's address.
    #[error("the backend refused the connection")]
    Refused,
    /// The backend, or the node, did not answer in time.
    #[error("the backend did not answer in time")]
    TimedOut,
    /// There is no way to the backend's address.
    #[error("the backend's address is unreachable")]
    Unreachable,
    /// The node says that this is no endpoint of its own: its table or ours is old.
    #[error("the node does not have this endpoint")]
    NotHere,
    /// The node has as many streams as it may have.
    #[error("the node is busy")]
    Busy,
    /// The node does not understand the header: one of the two is older.
    #[error("the node does not understand the request")]
    Malformed,
    /// The node could not be reached, or the stream to it broke.
    #[error("the node cannot be reached")]
    NoPath,
    /// Another candidate that was begun later was connected first.
    #[error("another candidate was faster")]
    Overtaken,
    /// Something else, for example no free descriptor.
    #[error("the connection to the backend failed")]
    Failed,
}

impl DialError {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::NotHere => "not_here",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::NoPath => "no_path",
            Self::Overtaken => "overtaken",
            Self::Failed => "failed",
        }
    }

    /// What a connection to a backend failed of.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            _ => Self::Failed,
        }
    }
}

impl From<Refusal> for DialError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Forbidden => Self::NotHere,
            Refusal::Header => Self::Malformed,
            Refusal::ConnectionRefused => Self::Refused,
            Refusal::TimedOut => Self::TimedOut,
            Refusal::Unreachable => Self::Unreachable,
            Refusal::Overloaded => Self::Busy,
            Refusal::Failed => Self::Failed,
        }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::NotHere => Self::Forbidden,
            DialError::Malformed => Self::Header,
            DialError::Refused => Self::ConnectionRefused,
            DialError::TimedOut => Self::TimedOut,
            DialError::Unreachable => Self::Unreachable,
            DialError::Busy => Self::Overloaded,
            DialError::NoPath | DialError::Overtaken | DialError::Failed => Self::Failed,
        }
    }
}

/// For logs: a candidate's place without its header.
pub(crate) struct Place<'a>(pub(crate) &'a crate::flow::Target);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            crate::flow::Target::Local(address) => address.fmt(f),
            crate::flow::Target::Node { node, .. } => write!(f, "node {node}"),
        }
    }
}
