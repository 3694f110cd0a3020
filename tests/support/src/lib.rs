//! Test support: a real container runtime that leaves nothing behind.
//!
//! Used as a dev-dependency by crates whose tests need more than one process or a kernel feature.

mod containerd;
mod registry;

pub use containerd::Containerd;
pub use registry::{Layers, Registry};
