//! The controllers against the real API server in one process, with nodes that only pretend.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod badly;
mod cluster;
mod deletion;
mod nodes;
mod scheduling;
mod volumes;
mod workloads;
