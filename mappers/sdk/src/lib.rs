//! What every mapper shares.
//!
//! An author writes a [`Driver`]: how a device is reached, read and written. Everything else — the node's
//! interface, scheduling, desired values, states, reconnection — is here.

mod bus;
mod config;
mod config_error;
#[cfg(feature = "conformance")]
pub mod conformance;
mod data_plane;
mod definition;
mod device;
mod driver;
mod engine;
mod error;
mod fault;
mod keys;
mod mapper;
mod metrics;
mod node;
mod plane;
mod report;
mod rest;
mod sample;
mod schedule;
mod serve;
#[cfg(test)]
mod test_driver;
mod updates;
mod value;

pub use config::{About, Common, Config, GrpcServer, Port, Rest};
pub use config_error::ConfigError;
pub use data_plane::{DataPlane, DataPlaneConfig};
pub use definition::{Definition, JsonText, MethodDefinition, PropertyDefinition};
pub use device::{Device, DeviceKey, Point};
pub use driver::{Connection, Driver};
pub use error::{CommandError, Error};
pub use fault::{Fault, chain};
pub use keys::Keys;
pub use mapper::{Counters, Mapper, OpenDataPlane, run, run_with};
pub use report::DeviceState;
pub use sample::{Quality, Sample};
pub use tokio_util::sync::CancellationToken;
pub use updates::{Pending, Updates};
pub use value::{DataType, Value, ValueError};
