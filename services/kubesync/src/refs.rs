//! What a pod refers to: the edges of the graph that the node authorizer walks.
//!
//! Called by the trimmer for every pod that the informer delivers. Pure. A field of an unexpected type
//! is passed over: it refers to nothing, and the API server would not have stored it.
//! Limits: at most [`MAX_REFS`] references and [`MAX_TOKENS`] tokens per pod; what is beyond is not
//! sent, and the pod's Event says so through the missing object.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::Value;
use skerry_common::Key;

use crate::kinds::Kind;

/// A pod with more references than this is an attack on memory; real ones have a few dozen.
pub(crate) const MAX_REFS: usize = 1_024;

/// Projected tokens per pod; real pods have one to three.
pub(crate) const MAX_TOKENS: usize = 64;

/// Kubernetes' default life of a projected token, seconds.
const DEFAULT_TOKEN_SECONDS: i64 = 3_600;

/// Kubernetes' minimum life of a requested token, seconds.
const MIN_TOKEN_SECONDS: i64 = 600;

/// The longest life that is asked for, seconds: a week, so that a node may be offline that long.
const MAX_TOKEN_SECONDS: i64 = 7 * 24 * 3_600;

/// Longest name that a [`Key`] may have.
const MAX_NAME: usize = 253;

/// One token that a pod mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpec {
    /// Key of the derived ServiceAccountToken.
    pub key: Key,
    /// Its name.
    pub service_account: Arc<str>,
    /// Empty: the API server's own audience.
    pub audience: Arc<str>,
    /// The life that is asked for.
    pub expiration_seconds: i64,
}

/// Everything that a pod refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Objects of the API.
    pub objects: Vec<(Kind, Key)>,
    /// Tokens that it mounts.
    pub tokens: Vec<TokenSpec>,
}

/// Reads the references from a pod's `spec`.
pub fn of_pod(namespace: &str, name: &str, uid: &str, spec: &Value) -> References {
    let mut set = Collector { namespace, objects: BTreeSet::new() };
    set.cluster(Kind::Namespace, Some(namespace));
    set.cluster(Kind::RuntimeClass, text(spec, "runtimeClassName"));
    for secret in list(spec, "imagePullSecrets") {
        set.local(Kind::Secret, text(secret, "name"));
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(spec, containers) {
            environment(&mut set, container);
        }
    }
    let mut tokens = Vec::new();
    let account = text(spec, "serviceAccountName").unwrap_or("default");
    for volume in list(spec, "volumes") {
        volume_references(&mut set, volume);
        if let Some(claim) = volume.get("ephemeral").filter(|e| !e.is_null()) {
            // A generic ephemeral volume: the claim has the name of the pod and the volume.
            if claim.get("volumeClaimTemplate").is_some()
                && let Some(volume) = text(volume, "name")
            {
                set.local(Kind::PersistentVolumeClaim, Some(&format!("{name}-{volume}")));
            }
        }
        for source in list(volume.get("projected").unwrap_or(&Value::Null), "sources") {
            if let Some(token) = source.get("serviceAccountToken").filter(|t| t.is_object()) {
                tokens.push(token_spec(namespace, name, uid, account, token));
            }
        }
    }
    tokens.sort_by(|a, b| a.key.cmp(&b.key));
    tokens.dedup_by(|a, b| a.key == b.key);
    tokens.truncate(MAX_TOKENS);
    References { objects: set.objects.into_iter().take(MAX_REFS).collect(), tokens }
}

struct Collector<'a> {
    namespace: &'a str,
    objects: BTreeSet<(Kind, Key)>,
}

impl Collector<'_> {
    fn local(&mut self, kind: Kind, name: Option<&str>) {
        self.add(kind, self.namespace, name);
    }

    fn cluster(&mut self, kind: Kind, name: Option<&str>) {
        self.add(kind, "", name);
    }

    fn add(&mut self, kind: Kind, namespace: &str, name: Option<&str>) {
        // A name that is no name refers to nothing.
        if let Some(key) = name.and_then(|name| Key::checked(namespace, name).ok()) {
            self.objects.insert((kind, key));
        }
    }
}

fn environment(set: &mut Collector<'_>, container: &Value) {
    for source in list(container, "envFrom") {
        set.local(Kind::ConfigMap, nested(source, "configMapRef", "name"));
        set.local(Kind::Secret, nested(source, "secretRef", "name"));
    }
    for variable in list(container, "env") {
        if let Some(from) = variable.get("valueFrom") {
            set.local(Kind::ConfigMap, nested(from, "configMapKeyRef", "name"));
            set.local(Kind::Secret, nested(from, "secretKeyRef", "name"));
        }
    }
}

fn volume_references(set: &mut Collector<'_>, volume: &Value) {
    set.local(Kind::ConfigMap, nested(volume, "configMap", "name"));
    set.local(Kind::Secret, nested(volume, "secret", "secretName"));
    set.local(Kind::PersistentVolumeClaim, nested(volume, "persistentVolumeClaim", "claimName"));
    for plugin in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
        if let Some(source) = volume.get(plugin) {
            set.local(Kind::Secret, nested(source, "secretRef", "name"));
        }
    }
    set.local(Kind::Secret, nested(volume, "azureFile", "secretName"));
    if let Some(csi) = volume.get("csi") {
        set.local(Kind::Secret, nested(csi, "nodePublishSecretRef", "name"));
    }
    for source in list(volume.get("projected").unwrap_or(&Value::Null), "sources") {
        set.local(Kind::ConfigMap, nested(source, "configMap", "name"));
        set.local(Kind::Secret, nested(source, "secret", "name"));
    }
}

fn token_spec(namespace: &str, pod: &str, uid: &str, account: &str, source: &Value) -> TokenSpec {
    let audience = text(source, "audience").unwrap_or("");
    let expiration_seconds = source
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_TOKEN_SECONDS)
        .clamp(MIN_TOKEN_SECONDS, MAX_TOKEN_SECONDS);
    TokenSpec {
        key: token_key(namespace, pod, uid, audience, expiration_seconds),
        service_account: account.into(),
        audience: audience.into(),
        expiration_seconds,
    }
}

/// The key of a derived ServiceAccountToken: `<pod>.<16 hex digits>`. The digits hash the pod's uid, the
/// audience and the life asked for, so a pod that was made anew under its old name has another key.
pub(crate) fn token_key(namespace: &str, pod: &str, uid: &str, audience: &str, expiration_seconds: i64) -> Key {
    let text = format!("{uid}\n{audience}\n{expiration_seconds}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let hash = hex::encode(hash.as_ref().get(..8).unwrap_or_default());
    let room = MAX_NAME - hash.len() - 1;
    let pod = pod.get(..room.min(pod.len())).unwrap_or(pod).trim_end_matches(['-', '.']);
    Key::new(namespace, format!("{pod}.{hash}"))
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn nested<'a>(value: &'a Value, outer: &str, inner: &str) -> Option<&'a str> {
    value.get(outer).and_then(|value| text(value, inner))
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    fn names(refs: &References, kind: Kind) -> Vec<String> {
        refs.objects.iter().filter(|(k, _)| *k == kind).map(|(_, key)| key.to_string()).collect()
    }

    #[test]
    fn every_place_that_names_an_object_is_found() {
        let spec = json!({
            "runtimeClassName": "gvisor",
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "cm-init"}}]}],
            "containers": [{
                "envFrom": [{"secretRef": {"name": "s-from"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm-key", "key": "a"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-key", "key": "b"}}},
                    {"name": "C", "value": "plain"}
                ]
            }],
            "ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "cm-debug"}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "cm-vol"}},
                {"name": "b", "secret": {"secretName": "s-vol"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "d", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "e", "csi": {"nodePublishSecretRef": {"name": "s-csi"}}},
                {"name": "f", "projected": {"sources": [
                    {"configMap": {"name": "cm-proj"}},
                    {"secret": {"name": "s-proj"}},
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"serviceAccountToken": {"audience": "vault", "path": "vault"}}
                ]}}
            ]
        });
        let refs = of_pod("shop", "web", "u1", &spec);
        assert_eq!(
            names(&refs, Kind::ConfigMap),
            ["shop/cm-debug", "shop/cm-init", "shop/cm-key", "shop/cm-proj", "shop/cm-vol"]
        );
        assert_eq!(
            names(&refs, Kind::Secret),
            ["shop/pull", "shop/s-csi", "shop/s-from", "shop/s-key", "shop/s-proj", "shop/s-vol"]
        );
        assert_eq!(names(&refs, Kind::PersistentVolumeClaim), ["shop/data", "shop/web-d"]);
        assert_eq!(names(&refs, Kind::Namespace), ["shop"]);
        assert_eq!(names(&refs, Kind::RuntimeClass), ["gvisor"]);
        assert_eq!(refs.tokens.len(), 2);
        assert!(refs.tokens.iter().all(|t| &*t.service_account == "robot"));
    }

    #[test]
    fn nonsense_refers_to_nothing() {
        for spec in [
            json!(null),
            json!([]),
            json!({"volumes": null, "containers": 3, "imagePullSecrets": [null, 1, {"name": "../x"}]}),
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": null}]}}]}),
        ] {
            let refs = of_pod("shop", "web", "u1", &spec);
            assert_eq!(refs.objects, [(Kind::Namespace, Key::new("", "shop"))]);
            assert!(refs.tokens.is_empty());
        }
    }

    #[test]
    fn a_new_pod_of_the_same_name_has_other_token_keys() {
        let a = token_key("ns", "web", "u1", "", 3600);
        assert_ne!(a, token_key("ns", "web", "u2", "", 3600));
        assert_ne!(a, token_key("ns", "web", "u1", "vault", 3600));
        assert_eq!(a, token_key("ns", "web", "u1", "", 3600));
        let long = token_key("ns", &"a".repeat(253), "u1", "", 3600);
        assert!(Key::checked(&long.namespace, &long.name).is_ok());
    }
}
