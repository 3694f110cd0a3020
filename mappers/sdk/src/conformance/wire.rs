//! Between the kit's definitions and the messages of `skerry.dmi.v1`.

use std::sync::Arc;

use skerry_proto::dmi::v1 as pb;

use super::node::{Known, Seen};
use crate::definition::{DEADBAND, Definition, PropertyDefinition};
use crate::{DeviceKey, Quality, Value};

pub(super) fn key(key: &DeviceKey) -> pb::DeviceKey {
    pb::DeviceKey { namespace: key.namespace.clone(), name: key.name.clone() }
}

pub(super) fn desired(known: &Known, device: &DeviceKey, property: &str) -> Option<pb::Desired> {
    let desired = known.wish(device, property)?;
    let device = Some(key(device));
    Some(pb::Desired { device, property: property.to_owned(), value: desired.value, version: desired.version })
}

pub(super) fn device(known: &Known, device: &Definition, version: &str) -> pb::Device {
    let property = |property: &Arc<PropertyDefinition>| {
        let mut visitor_config = property.visitor_config.object();
        if property.deadband > 0.0 {
            visitor_config.insert(DEADBAND.to_owned(), property.deadband.into());
        }
        pb::Property {
            name: property.name.to_string(),
            model: Some(pb::ModelProperty {
                name: property.name.to_string(),
                r#type: property.data_type.name().to_owned(),
                writable: property.writable,
                minimum: property.minimum.to_string(),
                maximum: property.maximum.to_string(),
                ..Default::default()
            }),
            visitor_config: serde_json::Value::Object(visitor_config).to_string().into_bytes(),
            collect_cycle_ms: i64::try_from(property.collect_cycle.as_millis()).unwrap_or(i64::MAX),
            report_cycle_ms: i64::try_from(property.report_cycle.as_millis()).unwrap_or(i64::MAX),
            report_to_cloud: property.report_to_cloud,
            push_method: serde_json::Value::Object(property.push_method.object()).to_string().into_bytes(),
            desired: desired(known, &device.key, &property.name),
        }
    };
    pb::Device {
        key: Some(key(&device.key)),
        version: version.to_owned(),
        model: None,
        protocol_config: serde_json::Value::Object(device.protocol_config.object()).to_string().into_bytes(),
        properties: device.properties.iter().map(property).collect(),
        methods: Vec::new(),
        state_report_cycle_ms: 0,
    }
}

pub(super) fn see(seen: &mut Seen, key: &DeviceKey, value: pb::Value) {
    let quality = match value.quality() {
        pb::Quality::Good => Quality::Good,
        pb::Quality::Uncertain => Quality::Uncertain,
        pb::Quality::Bad | pb::Quality::Unspecified => Quality::Bad,
    };
    if !value.desired_version.is_empty() {
        let refused = value.desired_refused.then(|| value.problem.clone());
        seen.set_outcome(key, &value.property, value.desired_version, refused);
    }
    let text = value.value.map(|value| match value {
        pb::value::Value::Integer(value) => Value::Int(value).to_text(),
        pb::value::Value::Unsigned(value) => Value::Uint(value).to_text(),
        pb::value::Value::Number(value) => Value::Float(value).to_text(),
        pb::value::Value::Boolean(value) => Value::Bool(value).to_text(),
        pb::value::Value::Text(value) => value,
        pb::value::Value::Data(value) => Value::Bytes(value).to_text(),
    });
    seen.value(key, value.property, text.unwrap_or_default(), quality);
}
