//! Each network is what its name says: measured with real sockets, as RFC 4787 and RFC 5382 describe it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cables;
mod gates;
mod left;
mod nats;
mod pairs;
mod probe;
