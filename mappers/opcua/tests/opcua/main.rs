//! The driver against a server that nobody here wrote: asyncua.
//!
//! `values`: reads, writes and subscriptions. `security`: certificates, policies and users. `bad_days`: servers
//! that restart. `conformance`: the SDK's kit. `example`: the files of examples/opcua. `program`: the process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bad_days;
mod conformance;
mod example;
mod peer;
mod program;
mod security;
mod values;

use serde_json::{Value as Json, json};
use skerry_mapper_opcua::{Connection, OpcUa};
use skerry_mapper_sdk::{Connection as _, DataType, Definition, Device, Driver as _, Fault, Quality, Sample, Value};

use crate::peer::Peer;

/// A device and the session with its server.
struct Line {
    device: Device<OpcUa>,
    connection: Connection,
}

/// A device with these properties: name, type, visitor.
fn definition(protocol: Json, properties: &[(&str, DataType, Json)]) -> Definition {
    let device = Definition::new("default", "a", protocol);
    properties.iter().fold(device, |device, (name, kind, visitor)| device.property(name, *kind, visitor.clone()))
}

/// A node of peer.py.
fn node(name: &str) -> Json {
    json!({ "nodeID": format!("ns=2;s={name}") })
}

impl Line {
    async fn open(driver: &OpcUa, definition: &Definition) -> Result<Self, Fault> {
        let device = Device::new(definition)?;
        driver.bus(&device)?;
        let connection = driver.connect(&device).await?;
        Ok(Self { device, connection })
    }

    /// Reads all points.
    async fn read(&mut self) -> Result<Vec<Sample>, Fault> {
        let points: Vec<_> = self.device.points.iter().collect();
        self.connection.read(&self.device, &points).await
    }

    async fn write(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Fault> {
        let point = self.device.point(name).unwrap();
        self.connection.write(&self.device, point, &value.into()).await
    }
}
