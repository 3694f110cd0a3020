//! What a Device says of its server, and where its properties are in it.
//!
//! Read from `protocol.configData` and `visitors.configData` when the node sends a Device. The keys of KubeEdge
//! and of its mappers are understood, as [`skerry_mapper_sdk::Keys`] reads them. A key that nobody knows is an
//! error, because a misspelt one would be a wrong value, or less security than was meant.

mod protocol;
mod visitor;

pub(crate) use protocol::policy_name;
pub use protocol::{KeyFiles, ProtocolConfig, Security, ServerCertificate, User};
pub use visitor::{Address, VisitorConfig};
