//! Between the messages of `skerry.dmi.v1` and the fleet.
//!
//! Numbers keep their precision: integers of 64 bits and floats of 64 bits are written as the shortest text
//! that reads back as the same number.

use base64::Engine as _;
use serde::Serialize;
use skerry_common::Key;
use skerry_k8s_types::{AccessMode, DeviceModel, ModelProperty};
use skerry_proto::dmi::v1 as pb;
use tonic::Status;

use crate::fleet::{Api, Device, DeviceShown, MapperShown, Outcome, Reading, State, words};
use crate::twin::Quality;

/// The key of a device in a message.
///
/// # Errors
/// When it is missing or no name.
pub(super) fn key(key: Option<&pb::DeviceKey>) -> Result<Key, String> {
    let key = key.ok_or("the device is not named")?;
    if key.namespace.is_empty() {
        return Err("the device's namespace is empty".into());
    }
    Key::checked(&key.namespace, &key.name).map_err(|error| error.to_string())
}

pub(super) fn to_key(key: &Key) -> pb::DeviceKey {
    pb::DeviceKey { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

/// A value as the fleet takes it.
pub(super) fn reading(value: pb::Value) -> Reading {
    use pb::value::Value as V;
    let mut problem = value.problem;
    let mut quality = match pb::Quality::try_from(value.quality) {
        Ok(pb::Quality::Bad) => Quality::Bad,
        Ok(pb::Quality::Uncertain) => Quality::Uncertain,
        Ok(pb::Quality::Good | pb::Quality::Unspecified) => Quality::Good,
        // A word of a newer mapper.
        Err(_) => Quality::Uncertain,
    };
    let text = match value.value {
        Some(V::Integer(number)) => Some(number.to_string()),
        Some(V::Unsigned(number)) => Some(number.to_string()),
        Some(V::Number(number)) => {
            if !number.is_finite() {
                quality = Quality::Bad;
                if problem.is_empty() {
                    problem = "the device gave no number".into();
                }
            }
            Some(number.to_string())
        }
        Some(V::Boolean(yes)) => Some(yes.to_string()),
        Some(V::Text(text)) => Some(text),
        Some(V::Data(data)) => Some(base64::prelude::BASE64_STANDARD.encode(data)),
        None => None,
    };
    let refused = value.desired_refused;
    let outcome = (!value.desired_version.is_empty()).then_some(Outcome { version: value.desired_version, refused });
    if text.is_none() && outcome.is_none() {
        quality = Quality::Bad;
    }
    Reading {
        property: value.property,
        value: text,
        quality,
        source_ms: value.source_unix_ms,
        problem,
        outcome,
        mapper_decides: false,
    }
}

/// A state; `None`: a word of a newer mapper.
pub(super) fn state(state: i32) -> Option<State> {
    match pb::DeviceState::try_from(state).ok()? {
        pb::DeviceState::Online => Some(State::Online),
        pb::DeviceState::Offline => Some(State::Offline),
        pb::DeviceState::Unhealthy => Some(State::Unhealthy),
        pb::DeviceState::Unknown => Some(State::Unknown),
        pb::DeviceState::Unspecified => None,
    }
}

fn property(property: &ModelProperty) -> pb::ModelProperty {
    pb::ModelProperty {
        name: property.name.clone(),
        description: property.description.clone(),
        r#type: property.r#type.map_or_else(String::new, |kind| kind.as_str().to_owned()),
        writable: property.access_mode == Some(AccessMode::ReadWrite),
        minimum: property.minimum.clone(),
        maximum: property.maximum.clone(),
        unit: property.unit.clone(),
    }
}

/// A model as mappers have it.
pub(super) fn model(key: &Key, version: &str, model: &DeviceModel) -> pb::Model {
    pb::Model {
        key: Some(to_key(key)),
        version: version.to_owned(),
        properties: model.spec.properties.iter().map(property).collect(),
    }
}

/// What is wanted of a property.
pub(super) fn desired(key: &Key, name: &str, value: &str, version: String) -> pb::Desired {
    pb::Desired { device: Some(to_key(key)), property: name.to_owned(), value: value.to_owned(), version }
}

fn object(value: Option<&impl Serialize>) -> Vec<u8> {
    value.and_then(|value| serde_json::to_vec(value).ok()).unwrap_or_default()
}

/// A device as mappers have it, with the defaults of its model.
pub(super) fn device(device: &Device) -> pb::Device {
    let merged = device.spec.merged();
    let cycle = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let properties = merged.spec.properties.iter().filter_map(|found| {
        let twin = device.twins.get(found.name.as_str())?;
        let wanted = twin.state.desired().zip(twin.state.version());
        Some(pb::Property {
            name: found.name.clone(),
            model: twin.spec.model.as_ref().map(property),
            visitor_config: object(found.visitors.as_ref().and_then(|visitors| visitors.config_data.as_ref())),
            collect_cycle_ms: cycle(twin.spec.collect_ms),
            report_cycle_ms: cycle(twin.spec.report_ms),
            report_to_cloud: twin.spec.to_cloud,
            push_method: object(found.push_method.as_ref()),
            desired: wanted.map(|(value, version)| desired(device.key(), &found.name, value, version)),
        })
    });
    let methods = merged.spec.methods.iter().map(|method| pb::Method {
        name: method.name.clone(),
        description: method.description.clone(),
        properties: method.property_names.clone(),
    });
    pb::Device {
        key: Some(to_key(device.key())),
        version: device.spec.version.clone(),
        model: device.spec.model.as_ref().map(|(key, _)| to_key(key)),
        protocol_config: object(merged.spec.protocol.as_ref().and_then(|protocol| protocol.config_data.as_ref())),
        properties: properties.collect(),
        methods: methods.collect(),
        state_report_cycle_ms: merged.state_report().report_cycle.unwrap_or_default().max(0),
    }
}

fn quality(quality: Quality) -> i32 {
    match quality {
        Quality::Good => pb::Quality::Good,
        Quality::Uncertain => pb::Quality::Uncertain,
        Quality::Bad => pb::Quality::Bad,
    }
    .into()
}

/// A device as people see it.
pub(super) fn shown(device: DeviceShown) -> pb::DeviceView {
    let twin = |twin: crate::fleet::TwinShown| {
        let origin = match &twin.desired {
            Some((_, true)) => pb::DesiredOrigin::Edge,
            Some((_, false)) => pb::DesiredOrigin::Cloud,
            None => pb::DesiredOrigin::Unspecified,
        };
        pb::TwinView {
            property: twin.property.to_string(),
            r#type: twin.r#type.to_owned(),
            unit: twin.unit,
            writable: twin.writable,
            quality: twin.reported.as_ref().map_or(0, |(_, q, _)| quality(*q)),
            reported_unix_ms: twin.reported.as_ref().map_or(0, |(_, _, at)| *at),
            reported: twin.reported.map(|(value, ..)| value),
            desired: twin.desired.map(|(value, _)| value),
            desired_origin: origin.into(),
            synced: twin.synced,
            refused: twin.refused,
            problem: twin.problem,
        }
    };
    let condition = |condition: skerry_k8s_types::Condition| pb::ConditionView {
        since_unix_ms: condition.last_transition_time.parse().map_or(0, |time: jiff::Timestamp| time.as_millisecond()),
        r#type: condition.r#type,
        status: condition.status == "True",
        state: condition.status,
        reason: condition.reason,
        message: condition.message,
    };
    let state = match device.state {
        Some(State::Online) => pb::DeviceState::Online,
        Some(State::Offline) => pb::DeviceState::Offline,
        Some(State::Unhealthy) => pb::DeviceState::Unhealthy,
        Some(State::Unknown) => pb::DeviceState::Unknown,
        None => pb::DeviceState::Unspecified,
    };
    pb::DeviceView {
        key: Some(to_key(&device.key)),
        model: device.model,
        protocol: device.protocol.to_string(),
        mapper: device.mapper.map(|id| id.name.to_string()).unwrap_or_default(),
        state: state.into(),
        state_reason: device.state_reason,
        last_online_unix_ms: device.last_online_ms,
        twins: device.twins.into_iter().map(twin).collect(),
        conditions: device.conditions.into_iter().map(condition).collect(),
    }
}

/// A twin of a device with what its mapper read now; nothing for a property that the device does not have.
pub(super) fn read(view: &pb::DeviceView, value: pb::Value, now_ms: i64) -> Option<pb::TwinView> {
    let twin = view.twins.iter().find(|twin| twin.property == value.property)?.clone();
    let reading = reading(value);
    Some(pb::TwinView {
        reported: reading.value,
        quality: quality(reading.quality),
        reported_unix_ms: if reading.source_ms > 0 { reading.source_ms } else { now_ms },
        problem: words(&reading.problem),
        ..twin
    })
}

/// A mapper as people see it.
pub(super) fn mapper(mapper: MapperShown) -> pb::MapperView {
    pb::MapperView {
        name: mapper.id.name.to_string(),
        version: mapper.version,
        protocol: mapper.id.protocol.to_string(),
        api: match mapper.api {
            Api::V1beta1 => "v1beta1".into(),
            Api::V1 => "v1".into(),
        },
        connected: mapper.connected,
        since_unix_ms: mapper.since_ms,
        devices: u32::try_from(mapper.devices).unwrap_or(u32::MAX),
        values: mapper.values,
        refused: mapper.refused,
        problem: mapper.problem,
    }
}

/// A refusal for people's calls.
pub(super) fn invalid(why: String) -> Status {
    Status::invalid_argument(why)
}
