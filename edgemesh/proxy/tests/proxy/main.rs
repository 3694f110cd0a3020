//! The data path on real sockets, in network namespaces of its own: packets are redirected by nftables' rules as
//! on a node, backends and clients are ordinary sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bounds;
mod common;
mod diverted;
mod inbound;
mod socks;
mod tcp;
mod udp;
