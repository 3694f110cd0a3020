//! How devices and mappers are shown: to the cloud as a DeviceStatus, to people on the node as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skerry_common::Key;
use skerry_k8s_types::{Condition, DeviceStatusFields, Twin as TwinFields, TwinProperty};
use tokio::sync::Notify;

use super::{Api, Device, Fleet, Link, Mapper, MapperId, State, rfc3339};
use crate::twin::{Now, Quality, Sync};

/// Somebody who wants to know which devices have changed. One entry per device, however often it changes.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    changed: Mutex<BTreeSet<Key>>,
    pub(crate) wake: Notify,
}

impl Watcher {
    pub(super) fn changed(&self, key: &Key) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        self.wake.notify_one();
        true
    }

    /// Takes what has changed.
    pub(crate) fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A twin as it is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TwinShown {
    pub(crate) property: Arc<str>,
    pub(crate) r#type: &'static str,
    pub(crate) unit: String,
    pub(crate) writable: bool,
    pub(crate) reported: Option<(String, Quality, i64)>,
    /// The value, and whether it was set on the node.
    pub(crate) desired: Option<(String, bool)>,
    pub(crate) synced: bool,
    pub(crate) refused: bool,
    pub(crate) problem: String,
}

/// A device as it is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceShown {
    pub(crate) key: Key,
    pub(crate) model: String,
    pub(crate) protocol: Arc<str>,
    pub(crate) mapper: Option<MapperId>,
    pub(crate) state: Option<State>,
    pub(crate) state_reason: String,
    pub(crate) last_online_ms: i64,
    pub(crate) twins: Vec<TwinShown>,
    pub(crate) conditions: Vec<Condition>,
}

/// A mapper as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapperShown {
    pub(crate) id: MapperId,
    pub(crate) version: String,
    pub(crate) api: Api,
    pub(crate) connected: bool,
    pub(crate) since_ms: i64,
    pub(crate) devices: usize,
    pub(crate) values: u64,
    pub(crate) refused: u64,
    pub(crate) problem: String,
}

impl Fleet {
    /// Listens for changes from now on, until the listener is dropped.
    pub(crate) fn watch(&mut self) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher::default());
        self.watchers.retain(|known| known.strong_count() > 0);
        self.watchers.push(Arc::downgrade(&watcher));
        watcher
    }

    /// One device.
    pub(crate) fn show(&self, key: &Key, now: Now) -> Option<DeviceShown> {
        self.devices.get(key).map(|device| self.shown(device, now))
    }

    /// The names of the devices of a namespace; of all, when it is empty.
    pub(crate) fn device_keys(&self, namespace: &str) -> Vec<Key> {
        self.devices.keys().filter(|key| namespace.is_empty() || *key.namespace == *namespace).cloned().collect()
    }

    fn shown(&self, device: &Device, now: Now) -> DeviceShown {
        let served = self.served(device);
        let twin = |(name, twin): (&Arc<str>, &super::device::Twin)| {
            let model = twin.spec.model.as_ref();
            let kind = model.and_then(|model| model.r#type);
            let sync = twin.state.sync(kind);
            let quality = Device::quality(twin, now, served);
            let reported = twin.state.reported.as_ref().zip(quality);
            TwinShown {
                property: Arc::clone(name),
                r#type: kind.map_or("", |kind| kind.as_str()),
                unit: model.map(|model| model.unit.clone()).unwrap_or_default(),
                writable: twin.spec.writable(),
                reported: reported.map(|(reported, quality)| (reported.value.clone(), quality, reported.source_ms)),
                desired: twin.state.desired().map(|value| (value.to_owned(), twin.state.overlay.is_some())),
                synced: matches!(sync, Sync::Yes | Sync::Nothing),
                refused: matches!(sync, Sync::Refused(_)),
                problem: match (sync, &twin.state.not_taken, &twin.state.reported) {
                    (Sync::Refused(words), _, _) => words.to_owned(),
                    (_, Some(why), _) => why.clone(),
                    (_, _, Some(reported)) => reported.problem.clone(),
                    _ => String::new(),
                },
            }
        };
        DeviceShown {
            key: device.key().clone(),
            model: device.spec.model.as_ref().map(|(key, _)| key.name.to_string()).unwrap_or_default(),
            protocol: Arc::clone(&device.spec.protocol),
            mapper: device.mapper.clone(),
            state: device.state,
            state_reason: device.state_reason.clone(),
            last_online_ms: device.last_online_ms,
            twins: device.twins.iter().map(twin).collect(),
            conditions: device.conditions.clone(),
        }
    }

    /// All mappers.
    pub(crate) fn show_mappers(&self) -> Vec<MapperShown> {
        let shown = |mapper: &Mapper| MapperShown {
            id: mapper.id.clone(),
            version: mapper.version.clone(),
            api: mapper.api,
            connected: mapper.connected(),
            since_ms: match mapper.link {
                Link::Connected { since_ms } | Link::Away { since_ms, .. } => since_ms,
            },
            devices: mapper.devices,
            values: mapper.values,
            refused: mapper.refused,
            problem: mapper.problem.clone(),
        };
        self.mappers.values().map(shown).collect()
    }
}

/// What the cloud hears of a device.
pub(super) fn status(device: &Device, now: Now, served: bool) -> Value {
    let mut twins = Vec::new();
    for (name, twin) in &device.twins {
        let kind = twin.spec.model.as_ref().and_then(|model| model.r#type).map_or("", |kind| kind.as_str());
        let quality = Device::quality(twin, now, served);
        let reported = twin.state.reported.as_ref().zip(quality).filter(|(reported, _)| reported.to_cloud);
        let reported = reported.map(|(reported, quality)| {
            let mut metadata = BTreeMap::from([
                ("timestamp".to_owned(), reported.source_ms.to_string()),
                ("quality".to_owned(), quality.as_str().to_owned()),
            ]);
            if !kind.is_empty() {
                metadata.insert("type".to_owned(), kind.to_owned());
            }
            if !reported.problem.is_empty() {
                metadata.insert("problem".to_owned(), reported.problem.clone());
            }
            TwinProperty { value: reported.value.clone(), metadata }
        });
        let observed_desired = twin.state.desired().map(|value| {
            let origin = twin.state.overlay.as_ref().map(|_| ("origin".to_owned(), "edge".to_owned()));
            TwinProperty { value: value.to_owned(), metadata: origin.into_iter().collect() }
        });
        if reported.is_some() || observed_desired.is_some() {
            twins.push(TwinFields { property_name: name.to_string(), reported, observed_desired });
        }
    }
    let online = device.last_online_ms > 0;
    let fields = DeviceStatusFields {
        twins,
        state: device.state_word.clone(),
        last_online_time: if online { rfc3339(device.last_online_ms) } else { String::new() },
        conditions: device.conditions.clone(),
        device_generation: device.spec.generation,
        extensions: None,
    };
    let key = device.key();
    json!({
        "metadata": { "namespace": &*key.namespace, "name": &*key.name, "uid": device.spec.uid },
        "status": fields,
    })
}
