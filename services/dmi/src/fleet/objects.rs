//! Devices and models as they come from edgehub.
//!
//! Invariants: a Device of the same name with another uid is another device, of which nothing is known; a
//! tombstone alone removes; what was saved about a device that is not there is dropped only when edgehub has
//! said that all devices were told.

use std::sync::Arc;

use bytes::Bytes;
use skerry_common::{Key, kinds};
use skerry_k8s_types::DeviceModel;

use super::{Fleet, MAX_DEVICES};
use crate::fleet::Device;
use crate::twin::{Now, Spec, read};

impl Fleet {
    /// Takes a Device.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub(crate) fn upsert_device(&mut self, key: &Key, body: &Bytes) -> Result<(), String> {
        let (parsed, model) = Spec::parse(key, body)?;
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(key) {
            return Err(format!("the node has {MAX_DEVICES} devices, which is the most that it takes"));
        }
        let model = model.map(|name| {
            let model = self.models.get(&name).cloned();
            (name, model)
        });
        if self.devices.get(key).is_some_and(|old| old.spec.uid != parsed.metadata.uid) {
            self.delete_device(key);
        }
        self.unuse(key);
        if let Some((name, _)) = &model {
            self.users.entry(name.clone()).or_default().insert(key.clone());
        }
        self.take_spec(Spec::new(key.clone(), body.clone(), parsed, model));
        Ok(())
    }

    fn take_spec(&mut self, spec: Spec) {
        let key = spec.key.clone();
        if let Some(device) = self.devices.get_mut(&key) {
            let overlays = device.update(spec);
            self.forget.extend(overlays.ended.into_iter().map(|property| (key.clone(), property)));
            self.tell.extend(overlays.tell.into_iter().map(|property| (key.clone(), property)));
        } else {
            let mut device = Device::new(spec);
            self.restore(&mut device);
            self.devices.insert(key.clone(), device);
        }
        self.assign(&key);
        self.mark(&key);
        self.look.insert(key.clone());
        self.changed(&key);
    }

    /// The Device is gone, or no longer the node's.
    pub(crate) fn delete_device(&mut self, key: &Key) {
        self.unuse(key);
        self.give(key, None);
        let Some(device) = self.devices.remove(key) else { return };
        for (name, twin) in device.twins {
            if twin.state.overlay.is_some() {
                self.forget.insert((key.clone(), name));
            }
        }
        self.changed(key);
    }

    fn unuse(&mut self, key: &Key) {
        let model = self.devices.get(key).and_then(|device| device.spec.model.as_ref()).map(|(name, _)| name.clone());
        if let Some(name) = model
            && let Some(users) = self.users.get_mut(&name)
        {
            users.remove(key);
            if users.is_empty() {
                self.users.remove(&name);
            }
        }
    }

    /// Takes a DeviceModel.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub(crate) fn upsert_model(&mut self, key: &Key, body: &Bytes) -> Result<(), String> {
        let model: DeviceModel = read(body, "DeviceModel")?;
        self.models.insert(key.clone(), Arc::new(model));
        self.model_changed(key);
        Ok(())
    }

    /// The DeviceModel is gone, or no device of the node names it any more.
    pub(crate) fn delete_model(&mut self, key: &Key) {
        self.models.remove(key);
        self.model_changed(key);
    }

    fn model_changed(&mut self, model: &Key) {
        for key in self.users.get(model).cloned().unwrap_or_default() {
            let Some(body) = self.devices.get(&key).map(|device| device.spec.body()) else { continue };
            // It was good when it came.
            if let Ok((parsed, _)) = Spec::parse(&key, &body) {
                let now = self.models.get(model).cloned();
                self.take_spec(Spec::new(key, body, parsed, Some((model.clone(), now))));
            }
        }
    }

    /// Edgehub has told everything there is of a kind.
    pub(crate) fn set_in_sync(&mut self, kind: &str, now: Now) {
        match kind {
            kinds::DEVICE if !self.devices_in_sync => {
                self.devices_in_sync = true;
                for (key, overlays) in std::mem::take(&mut self.saved_overlays) {
                    self.forget.extend(overlays.into_iter().map(|overlay| (key.clone(), overlay.property.into())));
                }
            }
            kinds::DEVICE_MODEL => self.models_in_sync = true,
            _ => return,
        }
        if self.in_sync() {
            for mapper in self.mappers.values_mut() {
                mapper.complete = true;
                mapper.wake.notify_one();
            }
            self.tick(now);
        }
    }

    /// What was saved about devices that are not there, to be dropped.
    pub(crate) fn take_orphans(&mut self) -> Vec<Key> {
        if !self.devices_in_sync {
            return Vec::new();
        }
        std::mem::take(&mut self.saved).into_keys().collect()
    }
}
