//! The rules on the real kernel: real clients and servers in network namespaces. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod flows;
mod lab;
mod others;
mod proxy;
mod services;
mod table;
