//! What every Skerry service shares: names, backoff, drain, configuration, exit codes.
//!
//! Everything here is small and has no opinion about Kubernetes or gRPC.

mod backoff;
mod chain;
mod config;
mod encoding;
mod hash;
mod names;

pub mod desired;
pub mod drain;
pub mod exit;
pub mod kinds;
pub mod notify;
pub mod process;
pub mod quantity;
pub mod relay;
pub mod shutdown;

pub use backoff::Backoff;
pub use chain::chain;
pub use config::{ConfigError, load, parse};
pub use encoding::{COMPRESS_ABOVE, Encoding};
pub use hash::fnv1a;
pub use names::{Key, NameError, NodeName, Version};
