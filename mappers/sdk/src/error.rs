//! Errors of the SDK towards people: of a mapper's start, and of questions to a device.

use std::path::PathBuf;

use crate::{DeviceKey, Fault, ValueError};

/// Why a mapper cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read: does it exist, may this user read it?
    #[error("cannot read the configuration {}", .path.display())]
    ReadConfig {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("the configuration {} is wrong", .path.display())]
    ParseConfig {
        /// Where it is.
        path: PathBuf,
        /// Which line.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value in the configuration cannot be used.
    #[error("configuration: {0}")]
    Config(String),
    /// An address or a socket cannot be bound: is another mapper running?
    #[error("cannot listen on {address}")]
    Bind {
        /// Address or path.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Logs or the admin server.
    #[error("cannot start telemetry")]
    Telemetry(#[from] skerry_telemetry::TelemetryError),
    /// Certificates of the REST server.
    #[error("cannot use the certificates of the REST server: {0}")]
    Certificates(String),
}

/// Why a device cannot be asked or told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It is not served here.
    #[error("no device {0} is served here")]
    UnknownDevice(DeviceKey),
    /// It has no such property.
    #[error("the device has no property {0:?}")]
    UnknownProperty(String),
    /// The value does not fit.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Too many questions wait for its line.
    #[error("too many questions wait for this line")]
    Busy,
    /// It cannot be reached now.
    #[error("the device cannot be reached: {0}")]
    Offline(String),
    /// It could not do it.
    #[error(transparent)]
    Failed(#[from] Fault),
    /// The deadline passed.
    #[error("the device did not answer in time")]
    Late,
}
