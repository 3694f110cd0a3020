//! What can go wrong when a server is bound or a client connects.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tonic::Status;

/// A server could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is in use, not of this machine, or a privileged port. Choose another one.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address as configured.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket's directory is missing or not writable, or another process listens on the socket.
    #[error("cannot listen on {}", path.display())]
    Unix {
        /// The path as configured.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// TCP without TLS is served on loopback only. Give the server credentials.
    #[error("refusing to serve {0} without TLS")]
    Plaintext(SocketAddr),
    /// The authorization table names a service or method that no descriptor knows: a typing error
    /// in the program.
    #[error("the authorization table names {0}, which does not exist")]
    UnknownMethod(String),
    /// The embedded descriptors cannot be read: the program was built wrongly.
    #[error("the protocol descriptors cannot be read")]
    Descriptors(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no credential yet, or it is not usable. Joining or renewing mends it.
    #[error("no usable credential")]
    NoCredential(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The name of the server is not a DNS name: a configuration error.
    #[error("{0} is not a server name")]
    ServerName(String),
    /// A host name was not found. Retry; check the configured address and the resolver.
    #[error("cannot resolve {address}")]
    Resolve {
        /// The address as configured.
        address: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address was configured.
    #[error("no address to connect to")]
    NoAddress,
    /// The peer does not listen, or nothing answers. Retry.
    #[error("cannot connect to {address}")]
    Io {
        /// The address that was tried.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed: another CA, an expired certificate, or not a Skerry service.
    #[error("TLS handshake with {address} failed")]
    Tls {
        /// The address that was tried.
        address: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 could not be started on the connection.
    #[error("HTTP/2 handshake with {address} failed")]
    Http {
        /// The address that was tried.
        address: String,
        /// What hyper said.
        #[source]
        source: hyper::Error,
    },
    /// Nothing answered in time. Retry.
    #[error("no connection to {address} within {seconds} s")]
    TimedOut {
        /// The addresses that were tried.
        address: String,
        /// The configured time, in seconds.
        seconds: f32,
    },
    /// The in-memory server is gone. Its service has stopped.
    #[error("the server of the pipe is gone")]
    PipeClosed,
}

impl ConnectError {
    /// A short stable name, for metrics and log fields.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCredential(_) => "no_credential",
            Self::ServerName(_) => "server_name",
            Self::Resolve { .. } => "resolve",
            Self::NoAddress => "no_address",
            Self::Io { .. } => "io",
            Self::Tls { .. } => "tls",
            Self::Http { .. } => "http",
            Self::TimedOut { .. } => "timeout",
            Self::PipeClosed => "pipe_closed",
        }
    }

    /// As the result of a call: `UNAVAILABLE`, except for configuration errors.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let text = chain(self);
        match self {
            Self::ServerName(_) | Self::NoAddress => Status::failed_precondition(text),
            _ => Status::unavailable(text),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    skerry_common::chain(error)
}
