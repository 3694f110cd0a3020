//! OPC UA mapper: the nodes of OPC UA servers as twins.
//!
//! The [`OpcUa`] driver of `skerry-mapper-sdk`; the SDK does scheduling, the node's interface and states. Here is
//! what is OPC UA: configuration, certificates and whom they are trusted from, sessions, values and subscriptions.
//!
//! The protocol itself is async-opcua's client. It is used for one connection at a time, without its own
//! reconnection: when a session ends, for whatever reason, the SDK opens a new one and subscribes again, as it
//! does for every protocol.

mod config;
mod denied;
mod driver;
mod endpoint;
mod error;
mod own;
mod pki;
mod session;
mod subscription;
mod value;

pub use config::{Address, KeyFiles, ProtocolConfig, Security, ServerCertificate, User, VisitorConfig};
pub use driver::{Connection, OpcUa};

/// What this mapper is.
pub const ABOUT: skerry_mapper_sdk::About =
    skerry_mapper_sdk::About { name: "opcua-mapper", version: env!("CARGO_PKG_VERSION"), protocol: "opcua" };
