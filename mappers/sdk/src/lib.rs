//! What every mapper shares.
//!
//! An author writes a [`Driver`]: how a device is reached, read and written. Everything else — the node's
//! interface, scheduling, desired values, states, reconnection — is here.

mod definition;
mod device;
mod driver;
mod fault;
mod sample;
mod updates;
mod value;

pub use definition::{Definition, MethodDefinition, PropertyDefinition};
pub use device::{Device, DeviceKey, Point};
pub use driver::{Connection, Driver};
pub use fault::Fault;
pub use sample::{Quality, Sample};
pub use updates::{Pending, Updates};
pub use value::{DataType, Value, ValueError};
