//! What the API says about devices: the part that conditions and reports are judged by.
//!
//! Written by the informers (as their [`Observer`]), read by the writer, the applier and the webhook. Sync code
//! behind one lock that is never held across an await. A change marks the devices that it concerns as dirty;
//! the reconciler takes them. Memory is bounded by the objects of the cluster: of a device only what is needed
//! here is kept, not its visitors. Nothing survives a crash; the first lists bring it back.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::DynamicObject;
use serde_json::Value;
use skerry_common::Key;
use skerry_k8s_types::{Device, DeviceModel};
use skerry_kubesync::{Kind, Observer, WorkSet};

/// How a node is, as far as its devices are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// It is Ready: connected, and its agent lives.
    Ready,
    /// Its Ready condition is not True; the reason.
    NotReady(String),
    /// There is no such Node.
    Missing,
}

/// A device and what it depends on, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) device: Arc<Device>,
    pub(crate) model: Option<Arc<DeviceModel>>,
    pub(crate) node: NodeState,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Known {
    state: Mutex<State>,
    dirty: WorkSet<Key>,
}

#[derive(Debug, Default)]
struct State {
    devices: HashMap<Key, Arc<Device>>,
    models: HashMap<Key, Arc<DeviceModel>>,
    nodes: HashMap<String, NodeState>,
    by_model: HashMap<Key, BTreeSet<Key>>,
    by_node: HashMap<String, BTreeSet<Key>>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, its model and its node.
    pub(crate) fn device(&self, key: &Key) -> Option<Snapshot> {
        let state = self.lock();
        let device = Arc::clone(state.devices.get(key)?);
        let model = state.models.get(&model_key(key, &device)).cloned();
        let node = state.nodes.get(&device.spec.node_name).cloned().unwrap_or(NodeState::Missing);
        Some(Snapshot { device, model, node })
    }

    /// A model.
    pub(crate) fn model(&self, key: &Key) -> Option<Arc<DeviceModel>> {
        self.lock().models.get(key).cloned()
    }

    /// At most `limit` devices of a model, and how many there are.
    pub(crate) fn devices_of(&self, model: &Key, limit: usize) -> (Vec<Arc<Device>>, usize) {
        let state = self.lock();
        let Some(keys) = state.by_model.get(model) else { return (Vec::new(), 0) };
        let devices = keys.iter().filter_map(|key| state.devices.get(key)).take(limit).cloned();
        (devices.collect(), keys.len())
    }

    /// Devices that are known.
    pub(crate) fn len(&self) -> usize {
        self.lock().devices.len()
    }

    /// The next device that has to be looked at. Cancel safe.
    pub(crate) async fn dirty(&self) -> Key {
        self.dirty.pop().await
    }

    /// Looks at it (again).
    pub(crate) fn mark(&self, key: &Key) {
        self.dirty.push(key.clone());
    }

    fn device_seen(&self, key: &Key, device: Option<Device>) {
        let mut state = self.lock();
        let old = match device {
            Some(device) => {
                let device = Arc::new(device);
                let (model, node) = (model_key(key, &device), device.spec.node_name.clone());
                state.by_model.entry(model).or_default().insert(key.clone());
                state.by_node.entry(node).or_default().insert(key.clone());
                state.devices.insert(key.clone(), device)
            }
            None => state.devices.remove(key),
        };
        let new = state.devices.get(key).cloned();
        if let Some(old) = &old {
            let (model, node) = (model_key(key, old), &old.spec.node_name);
            if new.as_ref().is_none_or(|new| model_key(key, new) != model) {
                leave(&mut state.by_model, &model, key);
            }
            if new.as_ref().is_none_or(|new| new.spec.node_name != *node) {
                leave(&mut state.by_node, node, key);
            }
        }
        drop(state);
        if new.is_some() && new != old {
            self.mark(key);
        }
    }

    fn model_seen(&self, key: &Key, model: Option<DeviceModel>) {
        let mut state = self.lock();
        let old = match model {
            Some(model) => state.models.insert(key.clone(), Arc::new(model)),
            None => state.models.remove(key),
        };
        let changed = old.as_ref().map(|model| &model.spec) != state.models.get(key).map(|model| &model.spec);
        let devices = if changed { state.by_model.get(key).cloned() } else { None };
        drop(state);
        devices.iter().flatten().for_each(|key| self.mark(key));
    }

    fn node_seen(&self, name: &str, node: Option<NodeState>) {
        let mut state = self.lock();
        let old = match node {
            Some(node) => state.nodes.insert(name.to_owned(), node),
            None => state.nodes.remove(name),
        };
        let devices = if old.as_ref() == state.nodes.get(name) { None } else { state.by_node.get(name).cloned() };
        drop(state);
        devices.iter().flatten().for_each(|key| self.mark(key));
    }
}

impl Observer for Known {
    fn seen(&self, kind: Kind, key: &Key, object: Option<&DynamicObject>) {
        match kind {
            Kind::Device => match object.map(typed::<Device>) {
                Some(Some(mut device)) => {
                    slim(&mut device);
                    self.device_seen(key, Some(device));
                }
                Some(None) => tracing::warn!(%key, "a Device is not as its schema says"),
                None => self.device_seen(key, None),
            },
            Kind::DeviceModel => match object.map(typed::<DeviceModel>) {
                Some(Some(mut model)) => {
                    model.spec.properties.iter_mut().for_each(|property| property.visitors = None);
                    model.spec.protocol_config_data = None;
                    model.metadata = skerry_k8s_types::ObjectMeta { name: model.metadata.name, ..Default::default() };
                    self.model_seen(key, Some(model));
                }
                Some(None) => tracing::warn!(%key, "a DeviceModel is not as its schema says"),
                None => self.model_seen(key, None),
            },
            Kind::Node => self.node_seen(&key.name, object.map(|node| node_state(&node.data))),
            _ => {}
        }
    }
}

/// The key of a device's model: in the same namespace, with an empty name when it names none.
pub(crate) fn model_key(device_key: &Key, device: &Device) -> Key {
    Key::new(device_key.namespace.clone(), device.model_name())
}

/// An object of the API as a type.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(object: &DynamicObject) -> Option<T> {
    serde_json::from_value(serde_json::to_value(object).ok()?).ok()
}

/// Leaves out what is not needed here.
fn slim(device: &mut Device) {
    for property in &mut device.spec.properties {
        property.visitors = None;
        property.push_method = None;
    }
    if let Some(protocol) = &mut device.spec.protocol {
        protocol.config_data = None;
    }
    device.spec.methods = Vec::new();
    let meta = &mut device.metadata;
    (meta.labels, meta.annotations, meta.other) = Default::default();
}

fn leave<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

fn node_state(data: &Value) -> NodeState {
    let conditions = data.get("status").and_then(|status| status.get("conditions")).and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some("Ready"));
    let field = |name: &str| ready.and_then(|c| c.get(name)).and_then(Value::as_str).unwrap_or_default();
    match field("status") {
        "True" => NodeState::Ready,
        _ => NodeState::NotReady(field("reason").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn see(known: &Known, kind: Kind, key: &Key, value: Value) {
        let object: DynamicObject = serde_json::from_value(value).unwrap();
        known.seen(kind, key, Some(&object));
    }

    fn dirty(known: &Known) -> usize {
        known.dirty.waiting()
    }

    #[tokio::test]
    async fn what_a_device_depends_on_marks_it() {
        let known = Known::default();
        let key = Key::new("ns", "d");
        let device = |node: &str| {
            json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
                "metadata": {"name": "d", "namespace": "ns", "uid": "u"},
                "spec": {"nodeName": node, "deviceModelRef": {"name": "m"}}})
        };
        see(&known, Kind::Device, &key, device("n1"));
        assert_eq!(known.dirty().await, key);
        see(&known, Kind::Device, &key, device("n1"));
        assert_eq!(dirty(&known), 0, "nothing changed");
        let snapshot = known.device(&key).unwrap();
        assert!(snapshot.model.is_none() && snapshot.node == NodeState::Missing);

        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "m", "namespace": "ns"}, "spec": {}});
        see(&known, Kind::DeviceModel, &Key::new("ns", "m"), model.clone());
        assert_eq!(known.dirty().await, key);
        see(&known, Kind::DeviceModel, &Key::new("other", "m"), model);
        assert_eq!(dirty(&known), 0, "a model of another namespace");

        let node = |ready: &str, beat: u32| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [
                {"type": "Ready", "status": ready, "reason": "R", "lastHeartbeatTime": beat}]}})
        };
        let n1 = Key::new("", "n1");
        see(&known, Kind::Node, &n1, node("True", 1));
        assert_eq!(known.dirty().await, key);
        see(&known, Kind::Node, &n1, node("True", 2));
        assert_eq!(dirty(&known), 0, "a heartbeat");
        see(&known, Kind::Node, &n1, node("Unknown", 2));
        assert_eq!(known.dirty().await, key);
        assert_eq!(known.device(&key).unwrap().node, NodeState::NotReady("R".to_owned()));

        // Reassigned: the old node's state concerns it no more.
        see(&known, Kind::Device, &key, device("n2"));
        assert_eq!(known.dirty().await, key);
        known.seen(Kind::Node, &n1, None);
        assert_eq!(dirty(&known), 0);
        known.seen(Kind::Device, &key, None);
        assert_eq!(dirty(&known), 0, "there is nobody to tell");
        assert!(known.lock().by_model.is_empty() && known.lock().by_node.is_empty());
    }
}
