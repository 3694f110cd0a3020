//! Benchmarks: programs that measure the real binaries and compare the figures with their targets.
//!
//! Each `src/bin/*.rs` is one `make bench-…`. It prints its figures and exits with 1 when a target is
//! missed. Nothing here is a test: figures depend on the machine, promises about behaviour do not.

pub mod figures;
pub mod node;
pub mod proc;
