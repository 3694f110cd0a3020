//! A mapper of made-up devices.
//!
//! `protocol.configData` names the `line` that the devices share, and a device may be `silent`; each property
//! makes its values as its `visitors.configData` says:
//!
//! | `source` | value | keys |
//! |---|---|---|
//! | `constant` | always `value` | `value` |
//! | `counter` | one more with each read | `start` |
//! | `sine` | a sine wave | `amplitude`, `offset`, `periodSeconds` |
//! | `random` | evenly between two bounds | `low`, `high` |
//! | `echo` | what was written last, at first `value` | `value` |
//!
//! This is also the example for authors: everything that a driver needs, and nothing else.

mod driver;

pub use driver::{Config, Source, Virtual};

/// What this mapper is.
pub const ABOUT: skerry_mapper_sdk::About =
    skerry_mapper_sdk::About { name: "virtual-mapper", version: env!("CARGO_PKG_VERSION"), protocol: "virtual" };
