//! The driver: devices are parts of a server, points are its nodes, a bus is a session.
//!
//! Called by the SDK, one call at a time for each session. Devices with the same server, security and user share
//! a session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use opcua::types::{AttributeId, DataValue, ReadValueId, VariableId, Variant, VariantScalarTypeId as Type, WriteValue};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use skerry_mapper_sdk as sdk;
use skerry_mapper_sdk::{DataType, DeviceKey, Fault, Sample, Updates, Value};

use crate::config::{ProtocolConfig, VisitorConfig};
use crate::denied::Denied;
use crate::error::{fault, status, too_large};
use crate::pki::Pki;
use crate::session::{Session, open};
use crate::subscription::Subscription;
use crate::value::{encode, sample};

/// Where certificates are, if the environment does not say otherwise.
const DEFAULT_FOLDER: &str = "/var/lib/skerry/opcua";
/// The variable that says it.
const FOLDER_VARIABLE: &str = "SKERRY_OPCUA_PKI";
/// Requests beside reads that a call makes: discovery, the parts of a session, what the server can do.
const OTHER_REQUESTS: usize = 6;
/// The least that a server takes in a request; it bounds how long a read may take.
const LEAST_NODES: usize = 10;

/// The protocol.
#[derive(Debug)]
pub struct OpcUa {
    pki: Pki,
    denied: Denied,
}

/// A session with some devices.
pub struct Connection {
    session: Session,
    subscriptions: BTreeMap<DeviceKey, Subscription>,
}

pub(crate) type Device = sdk::Device<OpcUa>;
pub(crate) type Point = sdk::Point<OpcUa>;

impl OpcUa {
    /// With certificates in this folder, which is made when one is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { pki: Pki { folder: folder.into() }, denied: Denied::default() }
    }

    /// With certificates in the folder of the environment's `SKERRY_OPCUA_PKI`, else in `/var/lib/skerry/opcua`.
    pub fn from_environment() -> Self {
        Self::new(std::env::var_os(FOLDER_VARIABLE).unwrap_or_else(|| DEFAULT_FOLDER.into()))
    }
}

impl sdk::Driver for OpcUa {
    type Protocol = ProtocolConfig;
    type Visitor = VisitorConfig;
    type Connection = Connection;

    fn bus(&self, device: &Device) -> Result<String, Fault> {
        match device.points.iter().find(|point| point.data_type() == DataType::Stream) {
            Some(point) => Err(Fault::Config(format!("property {}: a STREAM cannot come from a node", point.name()))),
            None => Ok(device.protocol.to_string()),
        }
    }

    async fn connect(&self, device: &Device) -> Result<Connection, Fault> {
        let session = open(&self.pki, &self.denied, &device.protocol).await?;
        Ok(Connection { session, subscriptions: BTreeMap::new() })
    }

    /// Each request has its own, shorter limit; this one is for all that a call may take at the worst.
    fn deadline(&self, device: &Device) -> Duration {
        let requests = OTHER_REQUESTS + device.points.len().div_ceil(LEAST_NODES);
        device.protocol.timeout * u32::try_from(requests).unwrap_or(u32::MAX)
    }
}

impl sdk::Connection<OpcUa> for Connection {
    async fn read(&mut self, _device: &Device, points: &[&Point]) -> Result<Vec<Sample>, Fault> {
        let nodes = points.iter().map(|point| point.visitor.node.resolve(&self.session.namespaces));
        let mut samples: Vec<Option<Sample>> = Vec::with_capacity(points.len());
        let mut wanted: Vec<(usize, ReadValueId)> = Vec::with_capacity(points.len());
        for (index, node) in nodes.enumerate() {
            match node {
                Ok(node) => {
                    wanted.push((index, node.into()));
                    samples.push(None);
                }
                Err(problem) => samples.push(Some(Sample::bad(problem))),
            }
        }
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(self.session.max_read));
            let request: Vec<ReadValueId> = batch.iter().map(|(_, node)| node.clone()).collect();
            match self.session.read(&request).await {
                Ok(values) => {
                    for ((index, _), value) in batch.iter().zip(values) {
                        put(&mut samples, *index, sample(value));
                    }
                    rest = later;
                }
                Err(error) if too_large(error.status()) && batch.len() > 1 => self.session.max_read = batch.len() / 2,
                Err(error) if too_large(error.status()) => {
                    for (index, _) in batch {
                        put(&mut samples, *index, Sample::bad(status(error.status())));
                    }
                    rest = later;
                }
                Err(error) => return Err(fault(&error)),
            }
        }
        Ok(samples.into_iter().map(|sample| sample.unwrap_or_else(|| Sample::bad("not read"))).collect())
    }

    async fn write(&mut self, _device: &Device, point: &Point, value: &Value) -> Result<(), Fault> {
        let node = point.visitor.node.resolve(&self.session.namespaces).map_err(Fault::Refused)?;
        let kind = match point.visitor.data_type {
            Some(kind) => kind,
            None => self.type_of(node.clone().into()).await?,
        };
        let variant = encode(value, kind).map_err(Fault::Refused)?;
        // Only the value: many servers refuse a status or a time.
        let value = DataValue { value: Some(variant), ..DataValue::null() };
        let write = WriteValue::new(node, AttributeId::Value, Default::default(), value);
        let code = self.session.write(write).await.map_err(|error| fault(&error))?;
        if code.is_bad() { Err(Fault::Refused(status(code))) } else { Ok(()) }
    }

    async fn subscribe(&mut self, device: &Device, points: &[&Point], updates: Updates) -> Result<bool, Fault> {
        if !device.protocol.subscribe {
            return Ok(false);
        }
        self.release(device).await;
        let subscription = Subscription::create(&self.session, device, points, updates).await?;
        self.subscriptions.insert(device.key.clone(), subscription);
        Ok(true)
    }

    async fn check(&mut self, device: &Device) -> Result<(), Fault> {
        if let Some(subscription) = self.subscriptions.get_mut(&device.key) {
            subscription.check(&self.session, device).await?;
        }
        let state = opcua::types::NodeId::from(VariableId::Server_ServerStatus_State);
        self.session.read(&[state.into()]).await.map(|_| ()).map_err(|error| fault(&error))
    }

    async fn release(&mut self, device: &Device) {
        if let Some(subscription) = self.subscriptions.remove(&device.key) {
            subscription.delete(&self.session).await;
        }
    }

    async fn close(self) {
        self.session.close().await;
    }
}

impl Connection {
    /// What a node takes: what it has, else what the server says of it.
    async fn type_of(&mut self, value: ReadValueId) -> Result<Type, Fault> {
        let data_type = ReadValueId { attribute_id: AttributeId::DataType as u32, ..value.clone() };
        let answers = self.session.read(&[value, data_type]).await.map_err(|error| fault(&error))?;
        let mut answers = answers.into_iter();
        let (now, declared) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
        let declared_bad = declared.status.filter(|code| code.is_bad());
        match now.value {
            Some(Variant::Array(_)) => {
                return Err(Fault::Refused("the node is an array, and a property has one value".to_owned()));
            }
            Some(variant) => {
                if let Some(kind) = variant.scalar_type_id() {
                    return Ok(kind);
                }
            }
            None => {}
        }
        if let Some(Variant::NodeId(id)) = &declared.value
            && let Ok(kind) = Type::try_from(id.as_ref())
            && kind != Type::Variant
        {
            return Ok(kind);
        }
        match declared_bad {
            Some(code) => Err(Fault::Refused(status(code))),
            None => Err(Fault::Refused("the server does not say of which type the node is; add `dataType`".to_owned())),
        }
    }
}

fn put(samples: &mut [Option<Sample>], index: usize, sample: Sample) {
    if let Some(slot) = samples.get_mut(index) {
        *slot = Some(sample);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ended", &self.session.ended()).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for ProtocolConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Deserialize::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for VisitorConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Deserialize::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
