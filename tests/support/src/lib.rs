//! Test support: a real container runtime that leaves nothing behind, and a stand-in for edgehub.
//!
//! Used as a dev-dependency by crates whose tests need more than one process or a kernel feature.

mod containerd;
mod hub;
mod registry;

pub use containerd::Containerd;
pub use hub::{Hub, Received};
pub use registry::{Layers, Registry};
