//! Who is calling: the identity of a connection, as handlers see it.
//!
//! The accept loop makes one [`Peer`] per connection, from the peer's verified certificate or from
//! the kernel's credentials of a unix socket, and every request of that connection carries it in its
//! extensions. Nothing in a request can change it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use skerry_common::NodeName;
use skerry_identity::ServiceName;
use tonic::{Request, Status};

use crate::connection::ConnectionHandle;

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// No certificate was shown. Such callers may only join.
    Anonymous,
    /// An edge node.
    Node(NodeName),
    /// A Skerry service.
    Service(ServiceName),
    /// A process of this machine, on a unix socket or an in-memory pipe.
    Local {
        /// User id of the process.
        uid: u32,
        /// Process id, where the kernel told it.
        pid: Option<i32>,
    },
}

impl Identity {
    /// The class of the identity, for metrics and logs.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Node(_) => "node",
            Self::Service(_) => "service",
            Self::Local { .. } => "local",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Local { uid, pid: Some(pid) } => write!(f, "local uid {uid} pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "local uid {uid}"),
        }
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Address that it connects from; `None` on sockets and pipes of this machine.
    pub remote: Option<SocketAddr>,
    /// Its connection: counters, and the means to end it.
    pub connection: ConnectionHandle,
    /// SHA-256 of the public key in its certificate, in hex, for revocation.
    pub(crate) key_fingerprint: Option<Box<str>>,
}

impl Peer {
    /// SHA-256 of the public key in the peer's certificate, in hex; `None` without a certificate.
    #[must_use]
    pub fn key_fingerprint(&self) -> Option<&str> {
        self.key_fingerprint.as_deref()
    }
}

/// The caller of a request.
///
/// # Errors
/// `INTERNAL` when the request did not come through a server of this crate.
pub fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request
        .extensions()
        .get::<Arc<Peer>>()
        .map(AsRef::as_ref)
        .ok_or_else(|| Status::internal("the request has no peer identity"))
}

/// The caller of a request, to be kept longer than the request.
///
/// # Errors
/// As [`peer`].
pub fn shared_peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| Status::internal("the request has no peer identity"))
}

/// The node that calls.
///
/// # Errors
/// `PERMISSION_DENIED` when the caller is not a node.
pub fn require_node<T>(request: &Request<T>) -> Result<NodeName, Status> {
    match &peer(request)?.identity {
        Identity::Node(name) => Ok(name.clone()),
        _ => Err(Status::permission_denied("only nodes may call this")),
    }
}

/// Passes when one of the named services calls, or a process of this machine over a socket or pipe
/// (where all services run in one process, that is how they reach each other).
///
/// # Errors
/// `PERMISSION_DENIED` for everybody else.
pub fn require_service<T>(request: &Request<T>, names: &[&str]) -> Result<(), Status> {
    match &peer(request)?.identity {
        Identity::Service(name) if names.contains(&name.as_str()) => Ok(()),
        Identity::Local { .. } => Ok(()),
        _ => Err(Status::permission_denied("only services may call this")),
    }
}
