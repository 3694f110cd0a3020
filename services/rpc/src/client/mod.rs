//! Clients: where they connect to, and the channel that generated clients take.
//!
//! Two kinds. [`connect_once`] dials one connection, tells when and why it ended, and never dials
//! again: edgehub owns that loop. [`Channel::tcp`], [`Channel::unix`] and [`Channel::pipe`] connect
//! when first used and again after a loss, with backoff; calls fail at once while they cannot.
//!
//! Invariants: a new handshake uses the newest credential; a unary call always has a deadline; open
//! calls and message sizes are bounded; calls are never repeated once a byte of them was sent.

mod channel;
mod check;
mod dial;
mod once;
mod reconnect;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use skerry_common::notify::Held;
use skerry_identity::CredentialWatch;

use crate::error::ConnectError;
use crate::pipe::PipeConnector;

pub use self::channel::Channel;
pub use self::check::{CheckError, check_health};
pub use self::once::{CloseReason, Connection, connect_once};

/// Addresses of one target; more would only make failing slow.
const MAX_ADDRESSES: usize = 16;

/// Where a client gets its TLS configuration.
#[derive(Clone)]
pub enum ClientTls {
    /// Our own credential: each handshake takes the newest.
    Watch(CredentialWatch),
    /// One configuration for good: joining, before there is a credential.
    Fixed(Arc<rustls::ClientConfig>),
}

impl ClientTls {
    fn config(&self) -> Arc<rustls::ClientConfig> {
        match self {
            Self::Watch(watch) => watch.client_config(),
            Self::Fixed(config) => Arc::clone(config),
        }
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Watch(_) => "ClientTls::Watch",
            Self::Fixed(_) => "ClientTls::Fixed",
        })
    }
}

impl From<CredentialWatch> for ClientTls {
    fn from(watch: CredentialWatch) -> Self {
        Self::Watch(watch)
    }
}

impl From<rustls::ClientConfig> for ClientTls {
    fn from(config: rustls::ClientConfig) -> Self {
        Self::Fixed(Arc::new(config))
    }
}

impl From<Arc<rustls::ClientConfig>> for ClientTls {
    fn from(config: Arc<rustls::ClientConfig>) -> Self {
        Self::Fixed(config)
    }
}

/// What to connect to.
#[derive(Debug, Clone)]
pub struct Target(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Tcp { addresses: Arc<[String]>, tls: Option<(ServerName<'static>, ClientTls)>, authority: http::uri::Authority },
    Unix { path: PathBuf, held: Option<&'static Held> },
    Pipe(PipeConnector),
}

impl Target {
    /// A Skerry service (`"cloudhub"`) over TCP and TLS. The addresses (`host:port`, at most 16) are
    /// those of its replicas; whatever is dialled, the server must be that service.
    ///
    /// # Errors
    /// [`ConnectError::NoAddress`], [`ConnectError::ServerName`].
    pub fn tcp<I, A>(addresses: I, service: &str, tls: impl Into<ClientTls>) -> Result<Self, ConnectError>
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        let addresses: Arc<[String]> = addresses.into_iter().map(Into::into).take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let bad = || ConnectError::ServerName(service.to_owned());
        let name = skerry_identity::server_name(service).map_err(|_| bad())?;
        let authority = http::uri::Authority::try_from(name.to_str().as_ref()).map_err(|_| bad())?;
        Ok(Self(Kind::Tcp { addresses, tls: Some((name, tls.into())), authority }))
    }

    /// A server of this machine on TCP without TLS, where we are anonymous.
    ///
    /// # Errors
    /// [`ConnectError::ServerName`] for an address that is not loopback.
    pub fn loopback(address: SocketAddr) -> Result<Self, ConnectError> {
        if !address.ip().is_loopback() {
            return Err(ConnectError::ServerName(address.to_string()));
        }
        let addresses = Arc::from([address.to_string()]);
        Ok(Self(Kind::Tcp { addresses, tls: None, authority: local_authority() }))
    }

    /// A unix socket: a service of this machine, or a container runtime.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix { path: path.into(), held: None })
    }

    /// The same, with each connection held by the service manager: the server goes on with what it was
    /// asked when this process dies.
    pub fn unix_held(path: impl Into<PathBuf>, held: &'static Held) -> Self {
        Self(Kind::Unix { path: path.into(), held: Some(held) })
    }

    /// A server of this process.
    #[must_use]
    pub fn pipe(connector: PipeConnector) -> Self {
        Self(Kind::Pipe(connector))
    }

    /// What goes before the path of a request.
    fn origin(&self) -> (http::uri::Scheme, http::uri::Authority) {
        match &self.0 {
            Kind::Tcp { tls: Some(_), authority, .. } => (http::uri::Scheme::HTTPS, authority.clone()),
            Kind::Tcp { authority, .. } => (http::uri::Scheme::HTTP, authority.clone()),
            Kind::Unix { .. } | Kind::Pipe(_) => (http::uri::Scheme::HTTP, local_authority()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Kind::Tcp { addresses, .. } => f.write_str(&addresses.join(", ")),
            Kind::Unix { path, .. } => write!(f, "{}", path.display()),
            Kind::Pipe(_) => f.write_str("the pipe"),
        }
    }
}

fn local_authority() -> http::uri::Authority {
    http::uri::Authority::from_static("localhost")
}
