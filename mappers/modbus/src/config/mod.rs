//! What a Device says of its line, its unit and its registers.
//!
//! Read from `protocol.configData` and `visitors.configData` when the node sends a Device. The keys of KubeEdge
//! and of its mappers are understood, as [`skerry_mapper_sdk::Keys`] reads them. A key that nobody knows is an
//! error, because a misspelt one would be a wrong value.

mod protocol;
mod visitor;

pub use protocol::{Endpoint, Parity, ProtocolConfig, SerialConfig, WriteFunction};
pub use visitor::{BitRange, Declared, VisitorConfig};
