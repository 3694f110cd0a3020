//! The mesh's network on real sockets: several nodes in one process, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod identity;
mod limits;
mod relay;
mod streams;
mod support;
