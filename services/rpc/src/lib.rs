//! The only place of Skerry that builds gRPC servers and clients.
//!
//! A server is bound from a [`ServerConfig`] — where it listens, who may call what ([`Policy`]), its
//! credentials and [`ServerLimits`] — and serves generated services; health and reflection come by
//! themselves. Handlers ask [`peer`] who calls. A client is a [`Channel`] for generated clients, or
//! one watched [`Connection`].
//!
//! Limits, deadlines, mutual TLS, identity, trace context and metrics are here, so that no service
//! can forget them; `clippy.toml` forbids tonic's own builders elsewhere.

mod body;
mod client;
mod connection;
mod deadline;
mod descriptors;
mod error;
mod health;
mod hello;
mod io;
pub mod limits;
mod listen;
mod metrics;
mod peer;
mod pipe;
mod policy;
mod server;
mod trace;

#[cfg(test)]
mod sizes;

pub use client::{Channel, CheckError, ClientTls, CloseReason, Connection, Target, check_health, connect_once};
pub use connection::ConnectionHandle;
pub use deadline::deadline;
pub use error::{BindError, ConnectError};
pub use health::Health;
pub use hello::{HELLO_TIMEOUT, begin, hello};
pub use limits::{ClientLimits, ServerLimits};
pub use listen::Listen;
pub use metrics::Metrics;
pub use peer::{Identity, Peer, peer, require_node, require_service, shared_peer};
pub use pipe::{PipeConnector, PipeListener, pipe};
pub use policy::{Caller, Policy};
pub use server::{Bound, Served, Server, ServerConfig};
