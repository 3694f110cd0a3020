//! Modbus mapper: TCP and RTU devices as twins.
//!
//! The [`Modbus`] driver of `skerry-mapper-sdk`; the SDK does scheduling, the node's interface and states. Here
//! is what is Modbus: configuration, the planner that merges reads, the codec, and the two kinds of lines.
//!
//! The lines are our own and not a library's: tokio-modbus has one request under way at a time, takes an answer
//! that comes too late for the answer to the next request (an error on TCP, a wrong value on RTU), and does not
//! leave a serial line alone until it is silent.

mod codec;
mod config;
mod driver;
mod format;
mod line;
mod pdu;
mod plan;
mod rtu;
mod scale;
mod tcp;

pub use config::{BitRange, Declared, Endpoint, Parity, ProtocolConfig, SerialConfig, VisitorConfig, WriteFunction};
pub use driver::{Connection, Modbus, Unit};
pub use plan::{Hole, Kind, Limits};
pub use scale::Scale;

/// What this mapper is.
pub const ABOUT: skerry_mapper_sdk::About =
    skerry_mapper_sdk::About { name: "modbus-mapper", version: env!("CARGO_PKG_VERSION"), protocol: "modbus" };
