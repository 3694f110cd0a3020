//! Tests of the crate as a whole: refusals of the CA, tokens, and real handshakes in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod ca;
mod handshake;
mod node_tls;
mod pinning;
mod rollover;
mod support;
mod token;
