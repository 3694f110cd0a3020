//! DeviceController against the real embedded API server, through its gRPC services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod cluster;
mod conditions;
mod desired;
mod down;
#[path = "../../../edgecontroller/tests/it/hub.rs"]
#[allow(dead_code)]
mod hub;
mod limits;
mod replicas;
mod up;
mod webhook;
