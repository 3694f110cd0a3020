//! The public surface of the crate: identity and authorization, limits, attacks with hand-written
//! HTTP/2 frames, draining, dead peers. One binary, because linking is what costs.
//!
//! Where an attack has a limit of ours, its control runs against tonic's own server with default
//! settings and shows that the attack is real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod attacks;
mod client;
mod dead;
mod drain;
mod echo;
mod identity;
mod limits;
mod local;
mod raw;
mod support;
