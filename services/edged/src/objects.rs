//! The objects that edged knows: its pods and what they refer to, as edgehub sent them.
//!
//! The agent's task applies changes; workers read. A lock is held for a map access only, never over
//! an await. Invariants: nothing is removed but by a tombstone; [`Objects::in_sync`] tells whether
//! the list of a kind is complete, and nobody may conclude from absence before it is; a pod whose
//! names could not be part of a path is refused. Bounded by what edgehub's store holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use skerry_common::{Key, kinds};
use skerry_hubclient::Change;

use crate::pod::spec::PodExt;
use crate::static_pods::MIRROR;

/// The kinds that edged subscribes to.
pub(crate) const KINDS: [&str; 10] = [
    // First what pods refer to, so that a pod finds it when it arrives.
    kinds::LINK,
    kinds::NODE,
    kinds::CONFIG_MAP,
    kinds::SECRET,
    kinds::SERVICE_ACCOUNT_TOKEN,
    kinds::SERVICE,
    kinds::PERSISTENT_VOLUME,
    kinds::PERSISTENT_VOLUME_CLAIM,
    kinds::RUNTIME_CLASS,
    kinds::POD,
];

/// What a change means for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A pod came or changed.
    Pod { uid: String },
    /// The mirror of a static pod came, changed or went.
    Mirror { key: Key },
    /// A pod was deleted, or replaced by one with another uid (then both are told).
    PodGone { uid: String },
    /// An object changed that pods may refer to.
    Reference { kind: &'static str, key: Key },
    /// Our own Node changed.
    Node,
    /// The link went up or down.
    Link,
    /// A kind's list is complete.
    InSync { kind: &'static str },
}

/// A token for a pod, as the cloud issued it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    #[serde(default)]
    pub(crate) pod_uid: String,
    #[serde(default)]
    pub(crate) audience: String,
    #[serde(default)]
    pub(crate) expiration_seconds: Option<i64>,
    pub(crate) token: String,
    #[serde(default)]
    pub(crate) expiration_timestamp: Option<jiff::Timestamp>,
}

/// What the API shows of a static pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) uid: String,
    /// Uid of the static pod that it shows.
    pub(crate) of: String,
    /// Somebody wants it away.
    pub(crate) deleted: bool,
}

/// EdgeHub's word about the link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Link {
    pub(crate) connected: bool,
    pub(crate) session: u64,
    pub(crate) reason: String,
    pub(crate) store_problem: Option<String>,
}

#[derive(Default)]
struct Inner {
    /// By uid.
    pods: BTreeMap<String, Arc<Pod>>,
    /// The uid that holds a name now.
    pod_names: BTreeMap<Key, String>,
    /// Uids of pods from files; `None` until all files were read.
    statics: Option<BTreeMap<Key, String>>,
    mirrors: BTreeMap<Key, Mirror>,
    config_maps: BTreeMap<Key, Arc<ConfigMap>>,
    secrets: BTreeMap<Key, Arc<Secret>>,
    services: BTreeMap<Key, Arc<Service>>,
    tokens: BTreeMap<Key, Arc<Token>>,
    volumes: BTreeMap<Key, Arc<PersistentVolume>>,
    claims: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    runtime_classes: BTreeMap<Key, Arc<RuntimeClass>>,
    node: Option<Arc<Node>>,
    link: Option<Link>,
    in_sync: BTreeSet<&'static str>,
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Objects {
    inner: RwLock<Inner>,
}

impl Objects {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one change.
    ///
    /// # Errors
    /// A text for people when the object cannot be taken; the old one, if any, stays.
    pub(crate) fn apply(&self, change: Change) -> Result<Vec<Effect>, String> {
        match change {
            Change::InSync { kind } => {
                self.write().in_sync.insert(kind);
                Ok(vec![Effect::InSync { kind }])
            }
            Change::Delete { kind, key } => Ok(self.write().delete(kind, &key)),
            Change::Upsert { kind, key, body } => self.upsert(kind, key, &body),
        }
    }

    fn upsert(&self, kind: &'static str, key: Key, body: &Bytes) -> Result<Vec<Effect>, String> {
        let reference = |key: Key| vec![Effect::Reference { kind, key }];
        let mut inner = self.write();
        match kind {
            kinds::POD => {
                let mut pod: Pod = parse(body)?;
                check_pod(&pod, &key)?;
                pod.metadata.managed_fields = None;
                let uid = pod.uid().to_owned();
                if let Some(of) = pod.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).cloned() {
                    let deleted = pod.metadata.deletion_timestamp.is_some();
                    inner.mirrors.insert(key.clone(), Mirror { uid, of, deleted });
                    return Ok(vec![Effect::Mirror { key }]);
                }
                let mut effects = Vec::new();
                if let Some(old) = inner.pod_names.insert(key, uid.clone()).filter(|old| *old != uid) {
                    inner.pods.remove(&old);
                    effects.push(Effect::PodGone { uid: old });
                }
                inner.pods.insert(uid.clone(), Arc::new(pod));
                effects.push(Effect::Pod { uid });
                return Ok(effects);
            }
            kinds::CONFIG_MAP => drop(inner.config_maps.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::SECRET => drop(inner.secrets.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::SERVICE => drop(inner.services.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::SERVICE_ACCOUNT_TOKEN => drop(inner.tokens.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::PERSISTENT_VOLUME => drop(inner.volumes.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::PERSISTENT_VOLUME_CLAIM => drop(inner.claims.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::RUNTIME_CLASS => drop(inner.runtime_classes.insert(key.clone(), Arc::new(parse(body)?))),
            kinds::NODE => {
                inner.node = Some(Arc::new(parse(body)?));
                return Ok(vec![Effect::Node]);
            }
            kinds::LINK => {
                inner.link = Some(parse(body)?);
                return Ok(vec![Effect::Link]);
            }
            other => return Err(format!("edged does not use the kind {other}")),
        }
        Ok(reference(key))
    }

    /// Replaces the pods from files. Their absence is as certain as a tombstone: the directory was read.
    pub(crate) fn set_statics(&self, pods: Vec<Pod>) -> Vec<Effect> {
        let mut inner = self.write();
        let before = inner.statics.take().unwrap_or_default();
        let pods = pods.into_iter().filter_map(|pod| {
            let key = Key::checked(pod.namespace(), pod.name()).ok()?;
            check_pod(&pod, &key).ok().map(|()| (key, Arc::new(pod)))
        });
        let now: BTreeMap<Key, Arc<Pod>> = pods.collect();
        let mut effects = Vec::new();
        for (key, uid) in &before {
            if now.get(key).is_none_or(|pod| pod.uid() != uid) {
                inner.pods.remove(uid);
                effects.push(Effect::PodGone { uid: uid.clone() });
            }
        }
        inner.statics = Some(now.iter().map(|(key, pod)| (key.clone(), pod.uid().to_owned())).collect());
        for pod in now.into_values() {
            let uid = pod.uid().to_owned();
            if inner.pods.insert(uid.clone(), pod).is_none() {
                effects.push(Effect::Pod { uid });
            }
        }
        effects
    }

    /// All files were read once.
    pub(crate) fn statics_known(&self) -> bool {
        self.read().statics.is_some()
    }

    pub(crate) fn statics(&self) -> Vec<Arc<Pod>> {
        let inner = self.read();
        inner.statics.iter().flatten().filter_map(|(_, uid)| inner.pods.get(uid).cloned()).collect()
    }

    pub(crate) fn static_pod(&self, key: &Key) -> Option<Arc<Pod>> {
        let inner = self.read();
        let uid = inner.statics.as_ref()?.get(key)?;
        inner.pods.get(uid).cloned()
    }

    pub(crate) fn mirror(&self, key: &Key) -> Option<Mirror> {
        self.read().mirrors.get(key).cloned()
    }

    /// The names of all static pods and of all mirrors.
    pub(crate) fn static_and_mirror_keys(&self) -> BTreeSet<Key> {
        let inner = self.read();
        inner.mirrors.keys().chain(inner.statics.iter().flatten().map(|(key, _)| key)).cloned().collect()
    }

    pub(crate) fn in_sync(&self, kind: &str) -> bool {
        self.read().in_sync.contains(kind)
    }

    pub(crate) fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.read().pods.get(uid).cloned()
    }

    /// The pod that holds a name now.
    pub(crate) fn pod_named(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let inner = self.read();
        let key = Key::new(namespace, name);
        let uid = inner.pod_names.get(&key).or_else(|| inner.statics.as_ref()?.get(&key))?;
        inner.pods.get(uid).cloned()
    }

    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.read().config_maps.get(&Key::new(namespace, name)).cloned()
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.read().secrets.get(&Key::new(namespace, name)).cloned()
    }

    /// Services of one namespace, in the order of their names.
    pub(crate) fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.read().services.iter().filter(|(k, _)| &*k.namespace == namespace).map(|(_, s)| Arc::clone(s)).collect()
    }

    /// The newest token of a pod for an audience.
    pub(crate) fn token(&self, pod_uid: &str, audience: &str, seconds: i64) -> Option<Arc<Token>> {
        let inner = self.read();
        let fits = |t: &&Arc<Token>| t.pod_uid == pod_uid && t.audience == audience;
        let exact = |t: &&Arc<Token>| t.expiration_seconds.is_none_or(|s| s == seconds);
        let newest = |t: &&Arc<Token>| t.expiration_timestamp;
        let of = |exactly: bool| {
            inner.tokens.values().filter(fits).filter(|t| !exactly || exact(t)).max_by_key(newest).cloned()
        };
        of(true).or_else(|| of(false))
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.read().claims.get(&Key::new(namespace, name)).cloned()
    }

    pub(crate) fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.read().volumes.get(&Key::new("", name)).cloned()
    }

    pub(crate) fn runtime_class(&self, name: &str) -> Option<Arc<RuntimeClass>> {
        self.read().runtime_classes.get(&Key::new("", name)).cloned()
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.read().node.clone()
    }

    pub(crate) fn link(&self) -> Option<Link> {
        self.read().link.clone()
    }
}

impl Inner {
    fn delete(&mut self, kind: &'static str, key: &Key) -> Vec<Effect> {
        match kind {
            kinds::POD => {
                if self.mirrors.remove(key).is_some() {
                    return vec![Effect::Mirror { key: key.clone() }];
                }
                let Some(uid) = self.pod_names.remove(key) else { return Vec::new() };
                self.pods.remove(&uid);
                return vec![Effect::PodGone { uid }];
            }
            kinds::CONFIG_MAP => drop(self.config_maps.remove(key)),
            kinds::SECRET => drop(self.secrets.remove(key)),
            kinds::SERVICE => drop(self.services.remove(key)),
            kinds::SERVICE_ACCOUNT_TOKEN => drop(self.tokens.remove(key)),
            kinds::PERSISTENT_VOLUME => drop(self.volumes.remove(key)),
            kinds::PERSISTENT_VOLUME_CLAIM => drop(self.claims.remove(key)),
            kinds::RUNTIME_CLASS => drop(self.runtime_classes.remove(key)),
            kinds::NODE => {
                self.node = None;
                return vec![Effect::Node];
            }
            kinds::LINK => {
                self.link = None;
                return vec![Effect::Link];
            }
            _ => return Vec::new(),
        }
        vec![Effect::Reference { kind, key: key.clone() }]
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| format!("the body is not what its kind says: {e}"))
}

/// A uid becomes a directory and a label.
pub(crate) fn uid_is_safe(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Names of containers and volumes become directories.
fn label_is_safe(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 63
        && name.bytes().all(|b| plain(b) || b == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

fn check_pod(pod: &Pod, key: &Key) -> Result<(), String> {
    if !uid_is_safe(pod.uid()) {
        return Err(format!("the uid {:?} cannot be used", pod.uid()));
    }
    if Key::checked(pod.namespace(), pod.name()).ok().as_ref() != Some(key) {
        return Err("the name in the body is not the name of the key".into());
    }
    let spec = pod.spec();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.name);
    for name in containers.chain(spec.volumes.iter().flatten().map(|v| &v.name)) {
        if !label_is_safe(name) {
            return Err(format!("the name {name:?} cannot be used"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, container: &str) -> Change {
        let body = json!({
            "metadata": { "name": name, "namespace": "a", "uid": uid },
            "spec": { "containers": [{ "name": container }] }
        });
        Change::Upsert { kind: kinds::POD, key: Key::new("a", name), body: body.to_string().into() }
    }

    #[test]
    fn a_new_uid_under_an_old_name_ends_the_old_pod() {
        let objects = Objects::default();
        assert_eq!(objects.apply(pod("p", "u1", "c")).unwrap(), [Effect::Pod { uid: "u1".into() }]);
        let effects = objects.apply(pod("p", "u2", "c")).unwrap();
        assert_eq!(effects, [Effect::PodGone { uid: "u1".into() }, Effect::Pod { uid: "u2".into() }]);
        let gone = objects.apply(Change::Delete { kind: kinds::POD, key: Key::new("a", "p") }).unwrap();
        assert_eq!(gone, [Effect::PodGone { uid: "u2".into() }]);
        assert!(objects.pods().is_empty());
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        let objects = Objects::default();
        for (uid, container) in [("../x", "c"), ("", "c"), ("u", "../c"), ("u", "C"), ("u/v", "c")] {
            assert!(objects.apply(pod("p", uid, container)).is_err(), "{uid} {container}");
        }
        let other = Change::Upsert {
            kind: kinds::POD,
            key: Key::new("a", "q"),
            body: json!({"metadata": {"name": "p", "namespace": "a", "uid": "u"}}).to_string().into(),
        };
        assert!(objects.apply(other).is_err());
        assert!(objects.pods().is_empty());
    }

    #[test]
    fn a_mirror_is_no_pod_of_its_own() {
        let objects = Objects::default();
        let file = |uid: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "a", "uid": uid}, "spec": {"containers": [{"name": "c"}]}
            }))
            .unwrap()
        };
        let gone = |uid: &str| Effect::PodGone { uid: uid.into() };
        let here = |uid: &str| Effect::Pod { uid: uid.into() };
        assert!(!objects.statics_known());
        assert_eq!(objects.set_statics(vec![file("s1")]), [here("s1")]);
        assert_eq!(objects.set_statics(vec![file("s1")]), []);
        let key = Key::new("a", "p");
        let mirror = json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "m1", "annotations": {MIRROR: "s1"}},
            "spec": {"containers": [{"name": "c"}]}
        });
        let change = Change::Upsert { kind: kinds::POD, key: key.clone(), body: mirror.to_string().into() };
        assert_eq!(objects.apply(change).unwrap(), [Effect::Mirror { key: key.clone() }]);
        assert!(objects.pod("m1").is_none() && objects.pod("s1").is_some());
        let want = Mirror { uid: "m1".into(), of: "s1".into(), deleted: false };
        assert_eq!(objects.mirror(&key), Some(want));
        let gone_mirror = objects.apply(Change::Delete { kind: kinds::POD, key: key.clone() }).unwrap();
        assert_eq!(gone_mirror, [Effect::Mirror { key }]);
        assert!(objects.pod("s1").is_some(), "the static pod stays");
        assert_eq!(objects.set_statics(vec![file("s2")]), [gone("s1"), here("s2")]);
        assert_eq!(objects.set_statics(vec![]), [gone("s2")]);
    }

    #[test]
    fn an_unreadable_body_keeps_the_old_object() {
        let objects = Objects::default();
        objects.apply(pod("p", "u1", "c")).unwrap();
        let bad = Change::Upsert { kind: kinds::POD, key: Key::new("a", "p"), body: Bytes::from_static(b"{") };
        assert!(objects.apply(bad).is_err());
        assert!(objects.pod("u1").is_some());
    }
}
