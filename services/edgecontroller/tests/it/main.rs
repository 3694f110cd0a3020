//! EdgeController against the real embedded API server, through its gRPC services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod cluster;
mod denied;
mod down;
mod fence;
mod hub;
mod join;
mod mirror;
mod proofs;
mod reviews;
mod spine;
mod up;
