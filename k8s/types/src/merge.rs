//! Defaults of a model in a device: what KubeEdge 1.22 does before a mapper sees the device.
//!
//! Shallow: a key of the device's `configData` replaces the whole key of the model. Pure; doing it twice
//! changes nothing.

use crate::{Device, DeviceModel, Free, VisitorConfig};

/// Fills `device` with what `model` has as defaults: the keys of `protocolConfigData` that are missing in
/// `spec.protocol.configData`, and for each property of the device those of the model's visitors. A visitor
/// without a protocol gets the model's. Properties that only the model has are not added.
pub fn merge_defaults(device: &mut Device, model: &DeviceModel) {
    if let Some(defaults) = &model.spec.protocol_config_data {
        fill(&mut device.spec.protocol.get_or_insert_default().config_data, defaults);
    }
    for property in &mut device.spec.properties {
        let Some(VisitorConfig { protocol_name, config_data }) =
            model.property(&property.name).and_then(|p| p.visitors.as_ref())
        else {
            continue;
        };
        let visitors = property.visitors.get_or_insert_default();
        if visitors.protocol_name.is_empty() {
            visitors.protocol_name.clone_from(protocol_name);
        }
        if let Some(defaults) = config_data {
            fill(&mut visitors.config_data, defaults);
        }
    }
}

fn fill(data: &mut Option<Free>, defaults: &Free) {
    let data = data.get_or_insert_default();
    for (key, value) in defaults {
        if !data.contains_key(key) {
            data.insert(key.clone(), value.clone());
        }
    }
}
