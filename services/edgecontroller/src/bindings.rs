//! Which keys belong to which node name.
//!
//! Kept as annotations of the node's Lease, which exists from the moment of joining, and copied to the Node
//! by its registration: [`KEY`] is the newest key, [`KEYS`] every key that was certified for the name and
//! whose certificate may still be valid. Used by the issuer and by `nodes::revoke`.
//!
//! Invariants: a name belongs to one machine: a key that is not among its keys is refused while the name is
//! in use. Every certified key is recorded before its certificate leaves, so that a revocation misses none.
//! Limits: [`MAX_KEYS`] valid keys per node.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName};
use skerry_kubesync::{ApiError, Kind, KubeApi, Other};

use crate::lease::NAMESPACE;

/// Annotation: SHA-256 of the newest public key that was certified for the node, hex.
pub(crate) const KEY: &str = "skerry.io/key";

/// Annotation of the Lease: JSON, fingerprint to the end of its certificate (seconds since the epoch).
pub(crate) const KEYS: &str = "skerry.io/keys";

/// Annotation of the Lease: when the name was last joined (seconds since the epoch).
const JOINED: &str = "skerry.io/joined";

/// Keys with a valid certificate per node. An honest node has one or two; more means that somebody renews
/// without end.
const MAX_KEYS: usize = 16;

/// A machine that has joined registers within this time; until then its name is taken.
const PENDING: SignedDuration = SignedDuration::from_secs(60);

/// A lease that was renewed within this time belongs to a machine that is alive.
const ALIVE: SignedDuration = SignedDuration::from_secs(40);

/// Attempts against concurrent writers of the Lease.
const ATTEMPTS: usize = 8;

/// Why a key was not bound to a name.
#[derive(Debug)]
pub(crate) enum BindError {
    /// The name belongs to another machine.
    Taken(&'static str),
    /// The key that asks for a renewal is not one of the node's.
    NotItsKey,
    /// Too many valid certificates for the name.
    TooMany,
    /// The API cannot take it.
    Api(ApiError),
}

impl From<ApiError> for BindError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// How a key came to be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The Lease did not exist before; its uid.
    pub(crate) created: Option<String>,
    /// Keys of the machine that had the name before: they are to be revoked.
    pub(crate) replaced: Vec<String>,
}

/// What is recorded about a name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) keys: BTreeMap<String, i64>,
    joined: Option<Timestamp>,
    renewed: Option<Timestamp>,
    version: Option<String>,
    exists: bool,
}

/// Reads the record of a name.
pub(crate) async fn read(api: &KubeApi, node: &NodeName) -> Result<Record, ApiError> {
    let lease = api.get(Other::Lease, &Key::new(NAMESPACE, node.as_str())).await?;
    Ok(lease.as_ref().map(record).unwrap_or_default())
}

fn record(lease: &DynamicObject) -> Record {
    let annotation = |name: &str| lease.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str);
    let time = |text: &str| text.parse().ok().and_then(|s| Timestamp::from_second(s).ok());
    let renewed = lease.data.get("spec").and_then(|spec| spec.get("renewTime")).and_then(Value::as_str);
    Record {
        keys: annotation(KEYS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        joined: annotation(JOINED).and_then(time),
        renewed: renewed.and_then(|text| text.parse().ok()),
        version: lease.metadata.resource_version.clone(),
        exists: true,
    }
}

/// Binds a key to a name for a machine that joins. `named`: the token was made for exactly this node, so
/// the operator wants the machine replaced.
pub(crate) async fn join(
    api: &KubeApi,
    node: &NodeName,
    key: &str,
    not_after: Timestamp,
    named: bool,
    now: Timestamp,
) -> Result<Bound, BindError> {
    for _ in 0..ATTEMPTS {
        let object = api.get(Kind::Node, &Key::new("", node.as_str())).await?;
        let record = read(api, node).await?;
        let keep = admit(object.as_ref(), &record, key, named, now).map_err(BindError::Taken)?;
        let mut keys = if keep { valid(&record.keys, now) } else { BTreeMap::new() };
        keys.insert(key.to_owned(), not_after.as_second());
        if keys.len() > MAX_KEYS {
            return Err(BindError::TooMany);
        }
        let replaced = record.keys.keys().filter(|old| !keys.contains_key(*old)).cloned().collect();
        match write(api, node, &record, key, &keys, Some(now)).await {
            Ok(written) => {
                let created = if record.exists { None } else { written.metadata.uid };
                return Ok(Bound { created, replaced });
            }
            Err(ApiError::Conflict(_) | ApiError::AlreadyExists | ApiError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::Conflict("the Lease".to_owned()).into())
}

/// Whether the key may have the name, and whether the name's other keys stay good.
fn admit(
    object: Option<&DynamicObject>,
    record: &Record,
    key: &str,
    named: bool,
    now: Timestamp,
) -> Result<bool, &'static str> {
    if record.keys.contains_key(key) {
        return Ok(true);
    }
    if named {
        return Ok(false);
    }
    match object {
        Some(node) if node.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(KEY)) => {
            Err("another machine is registered under this name")
        }
        Some(_) => Err("the cluster has a node of this name that did not join through Skerry"),
        None => {
            // The Node may have been deleted to make room; but not under a machine that lives.
            let recent =
                |at: Option<Timestamp>, within: SignedDuration| at.is_some_and(|at| now.duration_since(at) < within);
            if recent(record.renewed, ALIVE) && !record.keys.is_empty() {
                Err("another machine of this name is connected")
            } else if recent(record.joined, PENDING) {
                Err("another machine has just joined under this name")
            } else {
                Ok(false)
            }
        }
    }
}

/// Records the key of a renewed certificate, before it is given out.
pub(crate) async fn renew(
    api: &KubeApi,
    node: &NodeName,
    used: &str,
    key: &str,
    not_after: Timestamp,
    now: Timestamp,
) -> Result<(), BindError> {
    for _ in 0..ATTEMPTS {
        let record = read(api, node).await?;
        if !record.keys.contains_key(used) {
            return Err(BindError::NotItsKey);
        }
        let mut keys = valid(&record.keys, now);
        keys.insert(key.to_owned(), not_after.as_second());
        if keys.len() > MAX_KEYS {
            return Err(BindError::TooMany);
        }
        match write(api, node, &record, key, &keys, None).await {
            Ok(_) => return note(api, node, key).await,
            Err(ApiError::Conflict(_) | ApiError::AlreadyExists | ApiError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::Conflict("the Lease".to_owned()).into())
}

/// The Node shows its newest key. It may not be registered yet.
async fn note(api: &KubeApi, node: &NodeName, key: &str) -> Result<(), BindError> {
    let patch = json!({"metadata": {"annotations": {KEY: key}}});
    match api.merge(Kind::Node, &Key::new("", node.as_str()), &patch).await {
        Ok(_) | Err(ApiError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes a binding back that [`join`] made, when the join failed after it.
pub(crate) async fn release(api: &KubeApi, node: &NodeName, key: &str, bound: &Bound) {
    let lease = Key::new(NAMESPACE, node.as_str());
    let result = match &bound.created {
        Some(uid) => api.delete(Other::Lease, &lease, uid, None).await,
        None => match read(api, node).await {
            Ok(mut record) => {
                record.keys.remove(key);
                let newest = record.keys.keys().next().cloned().unwrap_or_default();
                let keys = record.keys.clone();
                write(api, node, &record, &newest, &keys, None).await.map(drop)
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = result {
        // The name is free again after a minute in any case.
        tracing::warn!(%node, error = skerry_common::chain(&error), "binding not released");
    }
}

async fn write(
    api: &KubeApi,
    node: &NodeName,
    record: &Record,
    key: &str,
    keys: &BTreeMap<String, i64>,
    joined: Option<Timestamp>,
) -> Result<DynamicObject, ApiError> {
    let mut annotations = json!({KEY: key, KEYS: serde_json::to_string(keys).unwrap_or_default()});
    if let (Some(at), Some(annotations)) = (joined, annotations.as_object_mut()) {
        annotations.insert(JOINED.to_owned(), at.as_second().to_string().into());
    }
    if record.exists {
        let patch = json!({"metadata": {"annotations": annotations, "resourceVersion": record.version}});
        return api.merge(Other::Lease, &Key::new(NAMESPACE, node.as_str()), &patch).await;
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.as_str(), "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"holderIdentity": node.as_str()},
    });
    api.create(Other::Lease, NAMESPACE, lease).await
}

fn valid(keys: &BTreeMap<String, i64>, now: Timestamp) -> BTreeMap<String, i64> {
    keys.iter().filter(|(_, end)| **end > now.as_second()).map(|(key, end)| (key.clone(), *end)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(annotations: Value) -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
    }

    fn held(key: &str) -> Record {
        Record { keys: [(key.to_owned(), 9_999)].into(), exists: true, ..Record::default() }
    }

    #[test]
    fn a_name_belongs_to_one_machine() {
        let ours = node(json!({KEY: "k1"}));
        let foreign = node(json!({}));
        let now = at(1_000);
        // The same key again: whatever else is known.
        assert_eq!(admit(Some(&ours), &held("k1"), "k1", false, now), Ok(true));
        assert_eq!(admit(None, &held("k1"), "k1", false, now), Ok(true));
        // Another key.
        assert!(admit(Some(&ours), &held("k1"), "k2", false, now).is_err());
        assert!(admit(Some(&ours), &Record::default(), "k2", false, now).is_err());
        assert!(admit(Some(&foreign), &Record::default(), "k2", false, now).is_err());
        // The operator wants it replaced.
        assert_eq!(admit(Some(&ours), &held("k1"), "k2", true, now), Ok(false));
        // The Node was deleted.
        assert_eq!(admit(None, &held("k1"), "k2", false, now), Ok(false));
        assert_eq!(admit(None, &Record::default(), "k2", false, now), Ok(false));
        // But its machine lives, or has only just joined.
        let alive = Record { renewed: Some(at(970)), ..held("k1") };
        assert!(admit(None, &alive, "k2", false, now).is_err());
        let pending = Record { joined: Some(at(950)), ..held("k1") };
        assert!(admit(None, &pending, "k2", false, now).is_err());
        let silent = Record { renewed: Some(at(900)), joined: Some(at(100)), ..held("k1") };
        assert_eq!(admit(None, &silent, "k2", false, now), Ok(false));
    }

    #[test]
    fn keys_are_forgotten_when_their_certificates_end() {
        let keys: BTreeMap<_, _> = [("old".to_owned(), 10), ("new".to_owned(), 30)].into();
        assert_eq!(valid(&keys, at(20)).into_keys().collect::<Vec<_>>(), ["new"]);
    }
}
