//! What a Device says of its line, its unit and its registers.
//!
//! Read from `protocol.configData` and `visitors.configData` when the node sends a Device. The keys of KubeEdge
//! and of its mappers are understood: they read JSON with Go, so keys match in any case, and numbers and
//! booleans may be strings. A key that nobody knows is an error, because a misspelt one would be a wrong value.

mod error;
mod keys;
mod protocol;
mod visitor;

pub use error::ConfigError;
pub use protocol::{Endpoint, Parity, ProtocolConfig, SerialConfig, WriteFunction};
pub use visitor::{BitRange, Declared, VisitorConfig};
