//! What a mapper was told on its stream, and what it has yet to hear.
//!
//! Lives as long as the stream: a mapper that comes back hears everything again and compares versions itself.
//! Between two looks at a device it may have changed many times; only what it is now is told.

use std::collections::BTreeMap;

use skerry_common::{Key, fnv1a};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::node_message::Message as M;

use super::convert;
use crate::fleet::{Fleet, MapperId};

#[derive(Debug, Default)]
struct Device {
    /// Empty: it was not described, or without its model since.
    version: String,
    model: Option<Key>,
    /// Versions of desired values by property.
    desired: BTreeMap<String, String>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Told {
    devices: BTreeMap<Key, Device>,
    models: BTreeMap<Key, String>,
    all_sent: bool,
}

impl Told {
    /// What is to be said of a device now.
    pub(super) fn about(&mut self, fleet: &Fleet, id: &MapperId, key: &Key) -> Vec<M> {
        let mut say = Vec::new();
        let Some(device) = fleet.assigned(id, key) else {
            if let Some(gone) = self.devices.remove(key) {
                say.push(M::DeviceRemoved(convert::to_key(key)));
                self.unused_model(gone.model, &mut say);
            }
            return say;
        };
        let Some((model_key, Some(model))) = &device.spec.model else {
            // Without its model a mapper cannot take it, and one that has it from before keeps it.
            match self.devices.get_mut(key) {
                // When the model is back it is told again, so that it says whether it still serves the device.
                Some(told) => told.version.clear(),
                None => {
                    self.devices.insert(key.clone(), Device::default());
                    say.push(M::DeviceKept(convert::to_key(key)));
                }
            }
            return say;
        };
        let version = format!("{:016x}", fnv1a(&[&serde_json::to_string(&model.spec).unwrap_or_default()]));
        if self.models.get(model_key) != Some(&version) {
            say.push(M::Model(convert::model(model_key, &version, model)));
            self.models.insert(model_key.clone(), version);
        }
        let wanted: BTreeMap<String, String> = device
            .twins
            .iter()
            .filter_map(|(name, twin)| twin.state.version().map(|version| (name.to_string(), version)))
            .collect();
        match self.devices.get_mut(key) {
            Some(told) if told.version == device.spec.version => {
                for (name, version) in &wanted {
                    let value = device.twins.get(name.as_str()).and_then(|twin| twin.state.desired());
                    if told.desired.get(name) != Some(version)
                        && let Some(value) = value
                    {
                        say.push(M::Desired(convert::desired(key, name, value, version.clone())));
                    }
                }
                told.desired = wanted;
            }
            _ => {
                say.push(M::Device(convert::device(device)));
                let told =
                    Device { version: device.spec.version.clone(), model: Some(model_key.clone()), desired: wanted };
                let old = self.devices.insert(key.clone(), told);
                self.unused_model(old.and_then(|old| old.model), &mut say);
            }
        }
        say
    }

    fn unused_model(&mut self, model: Option<Key>, say: &mut Vec<M>) {
        let Some(model) = model else { return };
        if !self.devices.values().any(|device| device.model.as_ref() == Some(&model)) {
            self.models.remove(&model);
            say.push(M::ModelRemoved(convert::to_key(&model)));
        }
    }

    /// Nothing more waits: the mapper may conclude from what it did not hear, once.
    pub(super) fn all(&mut self, fleet: &Fleet, id: &MapperId) -> Option<M> {
        let complete = fleet.mapper(id).is_some_and(|mapper| mapper.complete && mapper.dirty.is_empty());
        if self.all_sent || !complete {
            return None;
        }
        self.all_sent = true;
        Some(M::AllSent(pb::AllSent {}))
    }
}
