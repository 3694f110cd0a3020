//! Namespaces, and what every namespace has from its first moment.
//!
//! The default ServiceAccount and the CA ConfigMap are written in the same commit as the Namespace, so a
//! pod can be created right after it. Invariant: a Namespace without the finalizer `kubernetes` was
//! finalized. Limits: none. Stateless.

use crate::storage::{Expect, Op};
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_apimachinery::json::{map_mut, set};
use skerry_apimachinery::meta;

pub(super) fn defaults(object: &mut Value) {
    let name = meta::name(object).to_owned();
    if !name.is_empty() {
        set(object, &["metadata", "labels"], "kubernetes.io/metadata.name", name);
    }
    let spec = map_mut(object, &["spec"]);
    if !spec.contains_key("finalizers") {
        spec.insert("finalizers".into(), json!(["kubernetes"]));
    }
}

/// The objects that are created together with a namespace.
pub(crate) fn companions(namespace: &str, ca_pem: &str, now: Timestamp) -> Vec<Op> {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt", "namespace": namespace,
            "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."}},
        "data": {"ca.crt": ca_pem},
    });
    [("/serviceaccounts", account), ("/configmaps", bundle)]
        .into_iter()
        .map(|(storage, mut value)| {
            meta::stamp_new(&mut value, &uuid::Uuid::new_v4().to_string(), now, false);
            Op { storage: storage.into(), value, expect: Expect::Absent, delete: false }
        })
        .collect()
}
