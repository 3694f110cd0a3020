//! Test support: a real container runtime that leaves nothing behind.
//!
//! Used as a dev-dependency by crates whose tests need more than one process or a kernel feature.

mod containerd;

pub use containerd::Containerd;
