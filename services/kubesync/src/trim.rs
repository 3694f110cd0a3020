//! From an API object to what is kept and sent: trimmed JSON, its version, and the facts that the cache
//! indexes.
//!
//! Called by the informers for every object. Pure. Invariants: the version is a hash of exactly the bytes
//! that are sent before compression, so it survives a restart of the controller, equal versions mean equal
//! bodies, and a change that the edge cannot see (a pod's status but for the conditions of its readiness
//! gates, `managedFields`, `resourceVersion`) changes neither. Limit: objects come from the API server, which
//! bounds them at 1.5 MiB.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use serde_json::{Value, json};
use skerry_common::{COMPRESS_ABOVE, Encoding, Key, NodeName, Version};

use crate::kinds::Kind;
use crate::refs::{self, TokenSpec};

/// Annotations that change often or are large, and that nothing at the edge reads.
const DROPPED_ANNOTATIONS: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "deployment.kubernetes.io/revision",
    "control-plane.alpha.kubernetes.io/leader",
];

/// What older YAML of KubeEdge configures in the status of a Device.
const OLDER_DEVICE_STATUS: [&str; 2] = ["reportToCloud", "reportCycle"];

/// zstd level: above 3 the time grows faster than the bytes shrink on bodies of a few KiB.
const ZSTD_LEVEL: i32 = 3;

/// An object as the cache keeps it.
#[derive(Debug, Clone)]
pub struct Trimmed {
    /// Its key.
    pub key: Key,
    /// Its uid.
    pub uid: Arc<str>,
    /// A hash of the body before compression.
    pub version: Version,
    /// Trimmed JSON.
    pub body: Bytes,
    /// Of the body.
    pub encoding: Encoding,
    /// What the cache indexes.
    pub facts: Facts,
}

/// What the cache must know without decoding the body.
#[derive(Debug, Clone, Default)]
pub enum Facts {
    /// Nothing.
    #[default]
    None,
    /// A pod or device that is bound to a node.
    Bound(Box<BoundFacts>),
    /// The volume that a claim is bound to.
    Claim(Option<Key>),
    /// The claim that a volume is bound to.
    Volume(Option<Key>),
    /// A node.
    Node(NodeFacts),
}

/// Facts about a bound pod or device.
#[derive(Debug, Clone)]
pub struct BoundFacts {
    /// The node that it is bound to.
    pub node: NodeName,
    /// What it refers to.
    pub objects: Vec<(Kind, Key)>,
    /// Tokens that it mounts.
    pub tokens: Vec<TokenSpec>,
    /// A pod that has Succeeded or Failed: it needs no fresh tokens.
    pub finished: bool,
    /// Hash of the status in the API, to compare with what a report left there.
    pub status_hash: u64,
}

/// Facts about a node.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The API says that nobody has heard of the node (Ready is Unknown).
    pub ready_unknown: bool,
}

impl NodeFacts {
    /// Of a Node without its metadata.
    pub fn of(data: &Value) -> Self {
        let conditions = data.get("status").and_then(|status| status.get("conditions")).and_then(Value::as_array);
        let ready = conditions
            .and_then(|conditions| conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some("Ready")));
        Self { ready_unknown: ready.and_then(|c| c.get("status")).and_then(Value::as_str) == Some("Unknown") }
    }
}

/// Trims an object. `None` for what no node can ever see (a pod that is not bound) and for an object
/// without a usable name.
pub(crate) fn trim(kind: Kind, resource: &ApiResource, mut object: DynamicObject) -> Option<Trimmed> {
    let key = Key::checked(
        object.metadata.namespace.as_deref().unwrap_or_default(),
        object.metadata.name.as_deref().unwrap_or_default(),
    )
    .ok()?;
    let uid: Arc<str> = object.metadata.uid.as_deref().unwrap_or_default().into();
    let facts = facts(kind, &key, &uid, &object.data)?;

    // Items of a list have no type; every body does.
    object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
    let meta = &mut object.metadata;
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.self_link = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|name, _| !DROPPED_ANNOTATIONS.contains(&name.as_str()));
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
    if let (Kind::Device, Some(data)) = (kind, object.data.as_object_mut()) {
        // A Device has no status subresource: each write of its status counts in its generation.
        let mut status = data.remove("status").unwrap_or_default();
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|field, _| OLDER_DEVICE_STATUS.contains(&field.as_str()));
            if !fields.is_empty() {
                data.insert("status".to_owned(), status);
            }
        }
        object.metadata.generation = None;
    }
    if let Some(data) = object.data.as_object_mut()
        && matches!(kind, Kind::Pod | Kind::Node)
    {
        let gates = gate_conditions(data);
        data.remove("status");
        // Set by others, and what the node needs to know whether the pod is ready.
        if kind == Kind::Pod && !gates.is_empty() {
            data.insert("status".to_owned(), json!({ "conditions": gates }));
        }
        // The one thing about its status that a node cannot know: that the cloud gave it up, and so
        // that it has to report again.
        if matches!(&facts, Facts::Node(node) if node.ready_unknown) {
            data.insert("status".to_owned(), json!({"conditions": [{"type": "Ready", "status": "Unknown"}]}));
        }
    }
    let plain = serde_json::to_vec(&object).ok()?;
    let version = Version::new(version_hash(&plain));
    let (body, encoding) = compress(plain);
    Some(Trimmed { key, uid, version, body, encoding, facts })
}

/// The conditions that a pod's readiness gates name, cut down to what a node reads of them.
fn gate_conditions(data: &serde_json::Map<String, Value>) -> Vec<Value> {
    let list = |path: &str, field: &str| {
        data.get(path).and_then(|part| part.get(field)).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    };
    let gates = list("spec", "readinessGates").iter().filter_map(|gate| gate.get("conditionType"));
    let found = |name| list("status", "conditions").iter().find(|c| c.get("type") == Some(name));
    gates.filter_map(found).map(|c| json!({"type": c.get("type"), "status": c.get("status")})).collect()
}

/// The first 96 bits of SHA-256 in 16 characters: every node says the version of every object that it holds
/// each time it connects. Nobody can make a body with the version of another one; who can write an object
/// could, with much work, make two of his own that are taken for one, and hurt nobody else by it.
fn version_hash(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    BASE64_URL_SAFE_NO_PAD.encode(hash.as_ref().get(..12).unwrap_or_default())
}

/// 64 bits to compare statuses within one process; not a version.
pub fn quick_hash(value: &Value) -> u64 {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let hash = digest::digest(&digest::SHA256, &bytes);
    hash.as_ref().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Compresses what is worth it: once, when it is stored, so that a thousand nodes cost one compression.
pub fn compress(plain: Vec<u8>) -> (Bytes, Encoding) {
    if plain.len() > COMPRESS_ABOVE
        && let Ok(packed) = zstd::bulk::compress(&plain, ZSTD_LEVEL)
        && packed.len() < plain.len()
    {
        // Without the slack of the compressor's buffer: a cache holds a million of these.
        return (Bytes::from(packed.into_boxed_slice()), Encoding::Zstd);
    }
    (Bytes::from(plain.into_boxed_slice()), Encoding::Identity)
}

fn facts(kind: Kind, key: &Key, uid: &Arc<str>, data: &Value) -> Option<Facts> {
    let spec = data.get("spec").unwrap_or(&Value::Null);
    let status = data.get("status").unwrap_or(&Value::Null);
    Some(match kind {
        Kind::Pod => {
            let node = spec.get("nodeName").and_then(Value::as_str).and_then(|name| NodeName::parse(name).ok())?;
            let references = refs::of_pod(&key.namespace, &key.name, uid, spec);
            let finished = matches!(status.get("phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
            Facts::Bound(Box::new(BoundFacts {
                node,
                objects: references.objects,
                tokens: references.tokens,
                finished,
                status_hash: quick_hash(status),
            }))
        }
        Kind::Device => {
            let node = spec.get("nodeName").and_then(Value::as_str).and_then(|name| NodeName::parse(name).ok())?;
            let model = spec.get("deviceModelRef").and_then(|model| model.get("name")).and_then(Value::as_str);
            let model = model.and_then(|name| Key::checked(&key.namespace, name).ok());
            Facts::Bound(Box::new(BoundFacts {
                node,
                objects: model.map(|model| (Kind::DeviceModel, model)).into_iter().collect(),
                tokens: Vec::new(),
                finished: false,
                status_hash: 0,
            }))
        }
        Kind::PersistentVolumeClaim => {
            Facts::Claim(spec.get("volumeName").and_then(Value::as_str).and_then(|name| Key::checked("", name).ok()))
        }
        Kind::PersistentVolume => {
            let claim = spec.get("claimRef").unwrap_or(&Value::Null);
            let part = |field| claim.get(field).and_then(Value::as_str).unwrap_or_default();
            Facts::Volume(Key::checked(part("namespace"), part("name")).ok())
        }
        Kind::Node => Facts::Node(NodeFacts::of(data)),
        _ => Facts::None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn pod(status: &str, rv: &str, image: &str) -> Trimmed {
        let resource = Kind::Pod.resource().unwrap();
        trim(
            Kind::Pod,
            &resource,
            object(json!({
                "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": rv,
                    "managedFields": [{"manager": "x", "operation": "Update", "fieldsType": "FieldsV1"}],
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
                "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": image}]},
                "status": {"phase": status}
            })),
        )
        .unwrap()
    }

    #[test]
    fn what_the_edge_cannot_see_changes_no_version() {
        let a = pod("Pending", "1", "nginx:1");
        let b = pod("Running", "2", "nginx:1");
        assert_eq!(a.version, b.version);
        assert_eq!(a.body, b.body);
        assert_ne!(a.version, pod("Running", "2", "nginx:2").version);
        let body: Value = serde_json::from_slice(&a.body).unwrap();
        assert_eq!(body["kind"], "Pod");
        assert_eq!(body["apiVersion"], "v1");
        for gone in ["managedFields", "resourceVersion", "annotations"] {
            assert!(body["metadata"].get(gone).is_none(), "{gone}");
        }
        assert!(body.get("status").is_none());
        let (Facts::Bound(a), Facts::Bound(b)) = (a.facts, b.facts) else { panic!("no facts") };
        assert_ne!(a.status_hash, b.status_hash);
    }

    #[test]
    fn of_a_status_only_the_conditions_of_readiness_gates_are_seen() {
        let resource = Kind::Pod.resource().unwrap();
        let gated = |gate: &str, lb: &str, ready: &str| {
            let value = json!({"metadata": {"name": "a", "namespace": "b"},
                "spec": {"nodeName": "edge-1", "readinessGates": [{"conditionType": gate}]},
                "status": {"phase": ready, "conditions": [
                    {"type": "lb", "status": lb, "message": ready}, {"type": "Ready", "status": ready}]}});
            trim(Kind::Pod, &resource, object(value)).unwrap()
        };
        let body: Value = serde_json::from_slice(&gated("lb", "True", "x").body).unwrap();
        assert_eq!(body["status"], json!({"conditions": [{"type": "lb", "status": "True"}]}));
        assert_eq!(gated("lb", "True", "x").version, gated("lb", "True", "y").version);
        assert_ne!(gated("lb", "True", "x").version, gated("lb", "False", "x").version);
        assert_eq!(gated("other", "True", "x").version, gated("other", "False", "y").version);
        let body: Value = serde_json::from_slice(&gated("other", "True", "x").body).unwrap();
        assert!(body.get("status").is_none());
    }

    #[test]
    fn a_status_of_a_device_changes_no_version() {
        let resource = Kind::Device.resource().unwrap();
        let device = |status: Value, generation: u64, node: Value| {
            let value = json!({"metadata": {"name": "d", "namespace": "b", "generation": generation},
                "spec": {"nodeName": node, "deviceModelRef": {"name": "m"}}, "status": status});
            trim(Kind::Device, &resource, object(value))
        };
        let a = device(json!({"state": "online"}), 1, json!("edge-1")).unwrap();
        assert_eq!(a.version, device(Value::Null, 7, json!("edge-1")).unwrap().version);
        let older = device(json!({"reportCycle": 5, "state": "online"}), 1, json!("edge-1")).unwrap();
        let body: Value = serde_json::from_slice(&older.body).unwrap();
        assert_eq!(body["status"], json!({"reportCycle": 5}));
        assert_eq!(body["apiVersion"], "devices.kubeedge.io/v1beta1");
        let Facts::Bound(facts) = a.facts else { panic!("no facts") };
        assert_eq!(facts.objects, [(Kind::DeviceModel, Key::new("b", "m"))]);
        for nobody in [Value::Null, json!(""), json!("../x")] {
            assert!(device(Value::Null, 1, nobody).is_none());
        }
    }

    #[test]
    fn an_unbound_pod_is_nobodys() {
        let resource = Kind::Pod.resource().unwrap();
        let unbound = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {}});
        assert!(trim(Kind::Pod, &resource, object(unbound)).is_none());
    }

    #[test]
    fn a_node_that_was_given_up_learns_it() {
        let resource = Kind::Node.resource().unwrap();
        let node = |ready: &str, beat: &str| {
            let value = json!({"metadata": {"name": "edge-1"}, "status": {"conditions": [
                {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}]}});
            trim(Kind::Node, &resource, object(value)).unwrap()
        };
        assert_eq!(node("True", "2026-01-01T00:00:00Z").version, node("False", "2026-01-02T00:00:00Z").version);
        assert_ne!(node("True", "2026-01-01T00:00:00Z").version, node("Unknown", "2026-01-01T00:00:00Z").version);
    }

    #[test]
    fn large_bodies_are_compressed_and_come_back() {
        let resource = Kind::ConfigMap.resource().unwrap();
        let map = json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"x": "lorem ipsum ".repeat(500)}});
        let trimmed = trim(Kind::ConfigMap, &resource, object(map)).unwrap();
        assert_eq!(trimmed.encoding, Encoding::Zstd);
        let plain = zstd::bulk::decompress(&trimmed.body, 1 << 20).unwrap();
        assert_eq!(trimmed.version.as_str(), version_hash(&plain));
    }
}
