//! What a schema cannot say about a Device or a DeviceModel: whether they fit together.
//!
//! Pure; called by the webhook. Three rules keep it from being in the way:
//! - What KubeEdge accepts and works is not refused: a Device may come before its model, which is a warning.
//! - What is there stays changeable: a mistake that the stored object has already is only a warning.
//! - A model may change under its devices: which of them it breaks is a warning.
//!
//! Limits: [`MAX_MESSAGES`] of each sort.

use std::collections::BTreeSet;

use skerry_common::Key;
use skerry_k8s_types::{Device, DeviceModel};

use crate::value;

/// Messages that are told at most; more help nobody.
const MAX_MESSAGES: usize = 10;

/// Devices that a warning about a model looks at.
pub(crate) const MAX_DEVICES: usize = 1_000;

/// What is to be said about an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Why it is refused; empty: it is not.
    pub(crate) refused: Vec<String>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl Judgement {
    /// Errors that the stored object does not have refuse; the others warn.
    fn new(errors: Vec<String>, old: &[String], mut warnings: Vec<String>) -> Self {
        let (known, mut refused): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| old.contains(error));
        warnings.extend(known);
        refused.truncate(MAX_MESSAGES);
        warnings.truncate(MAX_MESSAGES);
        Self { refused, warnings }
    }
}

/// Judges a Device that is created (`old` is none) or changed. `model`: as it is now.
pub(crate) fn device(new: &Device, old: Option<&Device>, model: Option<&DeviceModel>) -> Judgement {
    // A status that is written, a label that is set: nothing of it is about the model.
    if old.is_some_and(|old| old.spec == new.spec) {
        return Judgement::default();
    }
    let mut warnings = Vec::new();
    let name = new.model_name();
    if name.is_empty() {
        warnings.push("spec.deviceModelRef.name is not set: the device works when it names its DeviceModel".to_owned());
    } else if model.is_none() {
        warnings.push(format!(
            "there is no DeviceModel {name} in this namespace yet: the device works, and is checked, when there is"
        ));
    }
    if new.spec.node_name.is_empty() {
        warnings.push("spec.nodeName is not set: the device is sent to no node".to_owned());
    }
    let before = old.map(|old| errors(old, model)).unwrap_or_default();
    Judgement::new(errors(new, model), &before, warnings)
}

/// What is wrong with a Device, given its model.
fn errors(device: &Device, model: Option<&DeviceModel>) -> Vec<String> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for property in &device.spec.properties {
        let name = property.name.as_str();
        if !seen.insert(name) {
            errors.push(format!("property {name:?} is there twice: remove one of them"));
        }
        let Some(model) = model else { continue };
        match model.property(name) {
            None => errors.push(unknown(name, model)),
            Some(modelled) => {
                if let Some(desired) = &property.desired
                    && let Err(error) = value::check(modelled, &desired.value)
                {
                    errors.push(error);
                }
            }
        }
    }
    for method in &device.spec.methods {
        for name in method.property_names.iter().filter(|name| device.property(name).is_none()) {
            errors.push(format!("method {:?} names property {name:?}, which the device does not have", method.name));
        }
    }
    errors
}

fn unknown(name: &str, model: &DeviceModel) -> String {
    let known: Vec<&str> = model.spec.properties.iter().map(|p| p.name.as_str()).take(MAX_MESSAGES).collect();
    let model = &model.metadata.name;
    let hint = if known.is_empty() { "has none".to_owned() } else { format!("has {}", known.join(", ")) };
    format!("property {name:?} is not in the DeviceModel {model}, which {hint}: add it there, or correct the name")
}

/// Judges a DeviceModel that is created, changed, or (`new` is none) deleted. `devices`: those that refer to
/// it, with their number.
pub(crate) fn model<'d>(
    new: Option<&DeviceModel>,
    old: Option<&DeviceModel>,
    devices: impl Iterator<Item = (Key, &'d Device)>,
    count: usize,
) -> Judgement {
    let Some(new) = new else {
        let used = format!("{count} devices refer to this DeviceModel: they are not Ready until it is there again");
        return Judgement { refused: Vec::new(), warnings: if count > 0 { vec![used] } else { Vec::new() } };
    };
    if old.is_some_and(|old| old.spec == new.spec) {
        return Judgement::default();
    }
    let duplicates = |model: &DeviceModel| -> Vec<String> {
        let mut seen = BTreeSet::new();
        let twice = model.spec.properties.iter().filter(|property| !seen.insert(property.name.as_str()));
        twice.map(|property| format!("property {:?} is there twice: remove one of them", property.name)).collect()
    };
    let mut warnings = Vec::new();
    for (key, device) in devices.take(MAX_DEVICES) {
        let before = old.map(|old| errors(device, Some(old))).unwrap_or_default();
        let broken = errors(device, Some(new)).into_iter().find(|error| !before.contains(error));
        if let Some(error) = broken {
            warnings.push(format!("device {key}: {error}"));
        }
        if warnings.len() >= MAX_MESSAGES {
            break;
        }
    }
    Judgement::new(duplicates(new), &old.map(duplicates).unwrap_or_default(), warnings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn device_of(properties: Value) -> Device {
        let value = json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"nodeName": "n1",
            "deviceModelRef": {"name": "m"}, "properties": properties}});
        serde_json::from_value(value).unwrap()
    }

    fn model_of(properties: Value) -> DeviceModel {
        serde_json::from_value(json!({"metadata": {"name": "m"}, "spec": {"properties": properties}})).unwrap()
    }

    fn boiler() -> DeviceModel {
        model_of(json!([
            {"name": "t", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "90"},
            {"name": "p", "type": "FLOAT", "accessMode": "ReadOnly"}]))
    }

    #[test]
    fn mistakes_are_refused_and_what_kubeedge_takes_is_not() {
        let want = |value: &str| json!([{"name": "t", "desired": {"value": value}}]);
        type Case = (Value, Option<DeviceModel>, Option<&'static str>, Option<&'static str>);
        let cases: [Case; 11] = [
            (want("5"), Some(boiler()), None, None),
            (want("91"), Some(boiler()), Some("0 to 90"), None),
            (want("hot"), Some(boiler()), Some("whole number"), None),
            (json!([{"name": "p"}]), Some(boiler()), None, None),
            (json!([{"name": "p", "desired": {"value": "1"}}]), Some(boiler()), Some("ReadOnly"), None),
            (json!([{"name": "q"}]), Some(boiler()), Some("has t, p"), None),
            (json!([{"name": "t"}, {"name": "t"}]), Some(boiler()), Some("twice"), None),
            // Before its model: nothing is known to be wrong.
            (want("91"), None, None, Some("no DeviceModel m")),
            (json!([{"name": "q"}]), None, None, Some("no DeviceModel m")),
            (json!([{"name": "q"}, {"name": "q"}]), None, Some("twice"), Some("no DeviceModel m")),
            (Value::Null, Some(boiler()), None, None),
        ];
        for (properties, model, refused, warned) in cases {
            let judged = device(&device_of(properties.clone()), None, model.as_ref());
            for (got, want) in [(&judged.refused, refused), (&judged.warnings, warned)] {
                assert_eq!(got.len(), usize::from(want.is_some()), "{properties}: {judged:?}");
                assert!(want.is_none_or(|want| got.iter().all(|text| text.contains(want))), "{properties}: {judged:?}");
            }
        }
        let bare: Device = serde_json::from_value(json!({"spec": {}})).unwrap();
        let judged = device(&bare, None, None);
        assert!(judged.refused.is_empty() && judged.warnings.len() == 2, "{judged:?}");
    }

    #[test]
    fn what_is_there_stays_changeable() {
        let wrong = device_of(json!([{"name": "q"}, {"name": "t"}]));
        assert_eq!(device(&wrong, Some(&wrong), Some(&boiler())), Judgement::default(), "only the status is written");
        let better = device_of(json!([{"name": "q"}, {"name": "t", "desired": {"value": "7"}}]));
        let judged = device(&better, Some(&wrong), Some(&boiler()));
        assert!(judged.refused.is_empty() && judged.warnings.len() == 1, "{judged:?}");
        let worse = device_of(json!([{"name": "q"}, {"name": "t", "desired": {"value": "700"}}]));
        assert_eq!(device(&worse, Some(&wrong), Some(&boiler())).refused.len(), 1);
    }

    #[test]
    fn a_model_says_which_devices_it_breaks() {
        let used = device_of(json!([{"name": "t", "desired": {"value": "80"}}]));
        let devices = || [(Key::new("ns", "d"), &used)].into_iter();
        let narrow = model_of(json!([{"name": "t", "type": "INT", "accessMode": "ReadWrite", "maximum": "50"}]));
        let judged = model(Some(&narrow), Some(&boiler()), devices(), 1);
        assert!(judged.refused.is_empty());
        assert!(judged.warnings.iter().all(|text| text.contains("ns/d") && text.contains("at most 50")), "{judged:?}");
        assert_eq!(judged.warnings.len(), 1);
        assert_eq!(model(None, Some(&boiler()), devices(), 1).warnings.len(), 1);
        assert_eq!(model(None, Some(&boiler()), std::iter::empty(), 0), Judgement::default());
        let twice = model_of(json!([{"name": "t"}, {"name": "t"}]));
        assert_eq!(model(Some(&twice), None, std::iter::empty(), 0).refused.len(), 1);
        assert!(model(Some(&twice), Some(&twice), std::iter::empty(), 0).refused.is_empty());
    }
}
