//! A Device with its model, as the node works with it.
//!
//! Built when a Device or its model comes from edgehub. What mappers need of it is kept as the JSON that came
//! and read when it is sent: a thousand devices must not cost a thousand trees of values. Invariants: names of
//! properties are unique; cycles are never zero. Limits: [`MAX_PROPERTIES`].

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use skerry_common::desired::{ANSWERS, Answers};
use skerry_common::{Key, fnv1a};
use skerry_k8s_types::{AccessMode, Device, DeviceModel, DeviceProperty, ModelProperty, merge_defaults};

/// Properties of one device; the most that a mapper reads within a cycle.
pub(crate) const MAX_PROPERTIES: usize = 2_000;
/// A cycle of 0 or none, as KubeEdge's mappers have it.
const DEFAULT_CYCLE_MS: u64 = 1_000;
/// Cycles without a report until a value is not fresh.
const FRESH_CYCLES: u64 = 3;
/// A value counts as fresh for at least so long: a mapper may restart within.
const MIN_FRESH_MS: u64 = 5_000;

/// What the twin needs to know about a property.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PropertySpec {
    pub(crate) name: Arc<str>,
    /// As the model has it.
    pub(crate) model: Option<ModelProperty>,
    pub(crate) desired: Option<String>,
    pub(crate) collect_ms: u64,
    pub(crate) report_ms: u64,
    pub(crate) to_cloud: bool,
}

impl PropertySpec {
    fn new(property: &DeviceProperty, model: Option<&DeviceModel>) -> Self {
        let mut described = model.and_then(|model| model.property(&property.name)).cloned();
        if let Some(described) = &mut described {
            // In the device by now.
            described.visitors = None;
        }
        Self {
            name: property.name.as_str().into(),
            model: described,
            desired: property.desired.as_ref().map(|desired| desired.value.clone()),
            collect_ms: cycle(property.collect_cycle),
            report_ms: cycle(property.report_cycle),
            to_cloud: property.report_to_cloud == Some(true),
        }
    }

    /// Whether a desired value may be set.
    pub(crate) fn writable(&self) -> bool {
        self.model.as_ref().and_then(|model| model.access_mode) == Some(AccessMode::ReadWrite)
    }

    /// How long a value of it counts as fresh.
    pub(crate) fn fresh_ms(&self) -> u64 {
        self.collect_ms.max(self.report_ms).saturating_mul(FRESH_CYCLES).max(MIN_FRESH_MS)
    }
}

/// Reads an object of the API.
///
/// # Errors
/// Where it is wrong, without what is there: that may be a password.
pub(crate) fn read<T: DeserializeOwned>(body: &Bytes, what: &str) -> Result<T, String> {
    // A list of nothing would be an object of nothing.
    if body.first() != Some(&b'{') {
        return Err(format!("not a {what}: not a JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| format!("not a {what}: wrong at line {} column {} of its JSON", error.line(), error.column()))
}

fn cycle(ms: Option<i64>) -> u64 {
    ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0).unwrap_or(DEFAULT_CYCLE_MS)
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) generation: Option<i64>,
    pub(crate) protocol: Arc<str>,
    /// Its model's name, and the model if it is there.
    pub(crate) model: Option<(Key, Option<Arc<DeviceModel>>)>,
    pub(crate) properties: Vec<PropertySpec>,
    /// What the cloud answered to values that were set on the node.
    pub(crate) answers: Answers,
    /// Changes when the mapper has to set the device up again; desired values do not count.
    pub(crate) version: String,
    /// The same without what the model says of the properties.
    pub(crate) bare_version: String,
    body: Bytes,
}

impl Spec {
    /// Name of the model of the Device in `body`.
    ///
    /// # Errors
    /// When the body is not a Device that the node can work with.
    pub(crate) fn parse(key: &Key, body: &Bytes) -> Result<(Device, Option<Key>), String> {
        let device: Device = read(body, "Device")?;
        if device.spec.properties.len() > MAX_PROPERTIES {
            let count = device.spec.properties.len();
            return Err(format!("the device has {count} properties, and {MAX_PROPERTIES} are allowed"));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = device.spec.properties.iter().find(|property| !names.insert(&property.name)) {
            return Err(format!("the property {:?} is there twice", twice.name));
        }
        let model = device.model_name();
        let model = (!model.is_empty()).then(|| Key::new(key.namespace.clone(), model));
        Ok((device, model))
    }

    /// From a Device that was parsed, and its model.
    pub(crate) fn new(
        key: Key,
        body: Bytes,
        mut device: Device,
        model: Option<(Key, Option<Arc<DeviceModel>>)>,
    ) -> Self {
        let described = model.as_ref().and_then(|(_, model)| model.as_deref());
        let properties = device.spec.properties.iter().map(|p| PropertySpec::new(p, described)).collect();
        let answers = device.metadata.annotations.get(ANSWERS).map(|text| Answers::parse(text)).unwrap_or_default();
        let (uid, generation) = (device.metadata.uid.clone(), device.metadata.generation);
        let protocol = device.protocol_name().into();
        if let Some(described) = described {
            merge_defaults(&mut device, described);
        }
        let state = device.state_report();
        for property in &mut device.spec.properties {
            property.desired = None;
        }
        device.spec.properties.sort_by(|a, b| a.name.cmp(&b.name));
        device.spec.methods.sort_by(|a, b| a.name.cmp(&b.name));
        let text = |value: serde_json::Result<String>| value.unwrap_or_default();
        let bare = fnv1a(&[
            &device.metadata.uid,
            &text(serde_json::to_string(&device.spec)),
            &text(serde_json::to_string(&state)),
        ]);
        let bare_version = format!("{bare:016x}");
        let whole = fnv1a(&[&bare_version, &text(serde_json::to_string(&described.map(|model| &model.spec)))]);
        let version = format!("{whole:016x}");
        Self { key, uid, generation, protocol, model, properties, answers, version, bare_version, body }
    }

    /// The Device as it came.
    pub(crate) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The Device with the model's defaults in it, to be sent.
    pub(crate) fn merged(&self) -> Device {
        // It was read once when it came.
        let mut device: Device = serde_json::from_slice(&self.body).unwrap_or_default();
        if let Some((_, Some(model))) = &self.model {
            merge_defaults(&mut device, model);
        }
        device
    }
}
