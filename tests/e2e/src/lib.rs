//! End-to-end tests on real components: real processes, real containerd, the real command line.
//!
//! [`System`] is one `skerry up`; [`Machine`] says what a test left behind. The tests are in `tests/`
//! and need root.

mod machine;
pub mod ports;
mod system;

pub use machine::Machine;
pub use system::{Ended, System, program};
