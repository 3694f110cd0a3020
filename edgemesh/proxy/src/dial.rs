//! The way to another node, and why it did not lead to a backend.

use std::fmt;
use std::future::Future;
use std::io;

use skerry_common::NodeName;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens streams to other nodes.
pub trait Dial: Send + Sync + 'static {
    /// A stream: both ways, ordered, with backpressure. Shutting it down ends our way only; dropping it ends both.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a stream to a node. The caller gives up after its own deadline by dropping the future.
    fn open(&self, node: &NodeName) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Why a candidate could not be reached. The same codes go between nodes, so that the caller can try the next.
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

    /// Its code between nodes; 0 is success.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::TimedOut => 2,
            Self::Unreachable => 3,
            Self::NotHere => 4,
            Self::Busy => 5,
            Self::Malformed => 6,
            Self::NoPath | Self::Overtaken | Self::Failed => 7,
        }
    }

    /// The answer of a node.
    pub(crate) fn from_code(code: u8) -> Result<(), Self> {
        Err(match code {
            0 => return Ok(()),
            1 => Self::Refused,
            2 => Self::TimedOut,
            3 => Self::Unreachable,
            4 => Self::NotHere,
            5 => Self::Busy,
            6 => Self::Malformed,
            // Also what a newer node may say.
            _ => Self::Failed,
        })
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
