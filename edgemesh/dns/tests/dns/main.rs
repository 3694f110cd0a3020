//! The server on real sockets, asked by `dig` and by sockets of the tests; upstream is dnsmasq, or a server of the
//! tests where it has to misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod dig;
mod forward;
mod hardening;
mod limits;
mod looping;
mod names;
mod server;
mod stale;
mod upstream;
