//! The driver against real peers, and against peers on their bad days.
//!
//! `pymodbus`: a server that nobody here wrote, over TCP and over a pair of terminals. `bad_days`: a server
//! that answers what a test tells it to. `example`: the files of examples/modbus.
//! `conformance`: the SDK's kit. `memory`: what a property costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bad_days;
mod conformance;
mod example;
mod memory;
mod pymodbus;

use serde_json::{Value as Json, json};
use skerry_mapper_modbus::{Connection, Modbus};
use skerry_mapper_sdk::{Connection as _, DataType, Definition, Device, Driver as _, Fault, Quality, Sample, Value};

/// A device and the line to it.
struct Line {
    device: Device<Modbus>,
    connection: Connection,
}

/// A device with these properties: name, type, visitor.
fn definition(protocol: Json, properties: &[(&str, DataType, Json)]) -> Definition {
    let device = Definition::new("default", "a", protocol);
    properties.iter().fold(device, |device, (name, kind, visitor)| device.property(name, *kind, visitor.clone()))
}

/// Holding registers, one property each.
fn holding(range: std::ops::Range<u16>) -> Vec<(String, Json)> {
    range.map(|at| (format!("r{at}"), json!({ "register": "HoldingRegister", "offset": at }))).collect()
}

fn registers(protocol: Json, all: &[(String, Json)]) -> Definition {
    let device = Definition::new("default", "a", protocol);
    all.iter().fold(device, |device, (name, visitor)| device.property(name, DataType::Int, visitor.clone()))
}

impl Line {
    async fn open(definition: &Definition) -> Result<Self, Fault> {
        let device = Device::new(definition)?;
        Modbus.bus(&device)?;
        let connection = Modbus.connect(&device).await?;
        Ok(Self { device, connection })
    }

    /// Reads all points.
    async fn read(&mut self) -> Result<Vec<Sample>, Fault> {
        let points: Vec<_> = self.device.points.iter().collect();
        self.connection.read(&self.device, &points).await
    }

    async fn values(&mut self) -> Vec<Value> {
        self.read().await.unwrap().into_iter().map(|sample| sample.value.expect("a good value")).collect()
    }

    async fn write(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Fault> {
        let point = self.device.point(name).unwrap();
        self.connection.write(&self.device, point, &value.into()).await
    }
}

fn good(samples: &[Sample]) -> Vec<bool> {
    samples.iter().map(|sample| sample.quality == Quality::Good).collect()
}
