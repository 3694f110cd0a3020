//! NodeRegistration and NodeStatus.
//!
//! A node declares labels, and taints for its creation; it may change only the labels that it declared
//! itself (listed in the annotation [`DECLARED`]) and only those that [`node_may_set_label`] allows. Taints
//! and everything else on the Node are the cluster's. Creating is idempotent: a Node that exists is
//! reconciled.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};
use skerry_common::Key;

use skerry_kubesync::{ApiError, Applied, Job, Kind, Other, Verb};

use super::Applier;
use crate::bindings::KEY;
use crate::labels::node_may_set_label;
use crate::lease::NAMESPACE as LEASES;

/// Annotation of a Node: the labels that the node declared, comma separated.
pub(crate) const DECLARED: &str = "skerry.io/declared-labels";

/// Labels that one node may declare.
const MAX_LABELS: usize = 128;

/// Taints that one node may be created with.
const MAX_TAINTS: usize = 32;

/// Attempts against concurrent writers of the Node.
const ATTEMPTS: usize = 4;

impl Applier {
    pub(super) async fn register_node(&self, job: &Job) -> Applied {
        self.try_register(job).await.unwrap_or_else(|answer| answer)
    }

    pub(super) async fn node_status(&self, job: &Job) -> Applied {
        self.try_node_status(job).await.unwrap_or_else(|answer| answer)
    }

    async fn try_register(&self, job: &Job) -> Result<Applied, Applied> {
        self.allowed(job, Verb::Register, Kind::Node, &job.key).await?;
        let labels = self.labels(job)?;
        let identity = self.identity(job).await?;
        for _ in 0..ATTEMPTS {
            self.turn(&self.statuses, job).await?;
            let found = self.api.get(Kind::Node, &job.key).await.map_err(|e| Applied::failed(&e))?;
            let result = match found {
                None => self.api.create(Kind::Node, "", new_node(job, &labels, &identity)).await.map(drop),
                Some(node) => match reconcile(&node, &labels, &identity) {
                    Some(patch) => self.api.merge(Kind::Node, &job.key, &patch).await.map(drop),
                    None => Ok(()),
                },
            };
            match result {
                Ok(()) => {
                    // A registration may bring the first status with it.
                    if let Some(status) = job.body.get("status").and_then(Value::as_object).filter(|s| !s.is_empty()) {
                        self.write_status(Kind::Node, &job.key, None, status).await.map_err(|e| Applied::failed(&e))?;
                    }
                    return Ok(Applied::Committed);
                }
                Err(ApiError::AlreadyExists | ApiError::Conflict(_) | ApiError::NotFound) => {}
                Err(error) => return Err(Applied::failed(&error)),
            }
        }
        Err(Applied::failed(&ApiError::Conflict("the Node".to_owned())))
    }

    /// The labels that the node may declare; what it may not is left out and told.
    fn labels(&self, job: &Job) -> Result<BTreeMap<String, String>, Applied> {
        let Some(given) = job.body.get("metadata").and_then(|meta| meta.get("labels")).and_then(Value::as_object)
        else {
            return Ok(BTreeMap::new());
        };
        if given.len() > MAX_LABELS {
            return Err(Applied::rejected(format!("more than {MAX_LABELS} labels")));
        }
        let mut labels = BTreeMap::new();
        for (name, value) in given {
            match value.as_str() {
                Some(value) if node_may_set_label(name) => {
                    labels.insert(name.clone(), value.to_owned());
                }
                _ => {
                    self.metrics.refuse("label");
                    tracing::warn!(node = %job.node, label = name, "a node may not set this label");
                    let message = format!("a node may not set the label {name} on itself; set it with kubectl");
                    self.tell.warn(&job.node, Kind::Node, &job.key, "LabelRefused", &message);
                }
            }
        }
        Ok(labels)
    }

    /// The fingerprint of the node's key, which the issuer left on the Lease.
    async fn identity(&self, job: &Job) -> Result<Map<String, Value>, Applied> {
        let key = Key::new(LEASES, job.node.as_str());
        let lease = self.api.get(Other::Lease, &key).await.map_err(|e| Applied::failed(&e))?;
        let annotations = lease.and_then(|lease| lease.metadata.annotations).unwrap_or_default();
        let ours = annotations.into_iter().filter(|(name, _)| name == KEY);
        Ok(ours.map(|(name, value)| (name, Value::String(value))).collect())
    }

    async fn try_node_status(&self, job: &Job) -> Result<Applied, Applied> {
        self.allowed(job, Verb::UpdateStatus, Kind::Node, &job.key).await?;
        let Some(status) = job.body.get("status").and_then(Value::as_object) else {
            return Err(Applied::rejected("the report has no status"));
        };
        self.turn(&self.statuses, job).await?;
        match self.write_status(Kind::Node, &job.key, None, status).await {
            Ok(_) => {
                self.revive.remember(&job.node, status, job.size);
                Ok(Applied::Committed)
            }
            // Not registered yet, or deleted: the registration that comes before it is on its way.
            Err(error) => Err(Applied::failed(&error)),
        }
    }
}

fn new_node(job: &Job, labels: &BTreeMap<String, String>, identity: &Map<String, Value>) -> Value {
    let mut annotations = identity.clone();
    annotations.insert(DECLARED.to_owned(), declared(labels).into());
    let taints = job.body.get("spec").and_then(|spec| spec.get("taints")).and_then(Value::as_array);
    let taints: Vec<Value> = taints.into_iter().flatten().take(MAX_TAINTS).cloned().collect();
    let mut spec = Map::new();
    if !taints.is_empty() {
        spec.insert("taints".to_owned(), taints.into());
    }
    if let Some(id) = job.body.get("spec").and_then(|spec| spec.get("providerID")).and_then(Value::as_str) {
        spec.insert("providerID".to_owned(), id.into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": job.node.as_str(), "labels": labels, "annotations": annotations},
        "spec": spec,
    })
}

fn declared(labels: &BTreeMap<String, String>) -> String {
    labels.keys().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// The merge patch that brings an existing Node to what its node declares; `None` when it is there.
fn reconcile(node: &DynamicObject, labels: &BTreeMap<String, String>, identity: &Map<String, Value>) -> Option<Value> {
    let empty = BTreeMap::new();
    let current = node.metadata.labels.as_ref().unwrap_or(&empty);
    let annotations = node.metadata.annotations.as_ref().unwrap_or(&empty);
    let before: BTreeSet<&str> =
        annotations.get(DECLARED).map(|list| list.split(',').filter(|l| !l.is_empty()).collect()).unwrap_or_default();
    let mut patch = Map::new();
    for (name, value) in labels {
        // A label that somebody else set is theirs.
        if current.get(name) != Some(value) && (before.contains(name.as_str()) || !current.contains_key(name)) {
            patch.insert(name.clone(), value.clone().into());
        }
    }
    for name in before {
        if !labels.contains_key(name) && current.contains_key(name) {
            patch.insert(name.to_owned(), Value::Null);
        }
    }
    let mut notes: Map<String, Value> = identity
        .iter()
        .filter(|(n, v)| annotations.get(*n).map(String::as_str) != v.as_str())
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    let list = declared(labels);
    if annotations.get(DECLARED) != Some(&list) {
        notes.insert(DECLARED.to_owned(), list.into());
    }
    if patch.is_empty() && notes.is_empty() {
        return None;
    }
    let mut meta = json!({"labels": patch, "annotations": notes});
    // Somebody may have set one of these labels since it was read.
    if let (Some(version), Some(meta)) = (&node.metadata.resource_version, meta.as_object_mut()) {
        meta.insert("resourceVersion".to_owned(), version.clone().into());
    }
    Some(json!({ "metadata": meta }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn node(labels: Value, declared: &str) -> DynamicObject {
        let annotations = json!({DECLARED: declared, KEY: "k1"});
        serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels, "annotations": annotations}}))
            .unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    fn identity(key: &str) -> Map<String, Value> {
        [(KEY.to_owned(), Value::from(key))].into_iter().collect()
    }

    #[test]
    fn a_node_changes_only_labels_that_it_declared() {
        let now = node(json!({"zone": "a", "team": "x", "old": "1"}), "old,zone");
        let patch =
            reconcile(&now, &labels(&[("zone", "b"), ("team", "mine"), ("new", "1")]), &identity("k1")).unwrap();
        assert_eq!(patch["metadata"]["labels"], json!({"zone": "b", "new": "1", "old": null}));
        assert_eq!(patch["metadata"]["annotations"], json!({DECLARED: "new,team,zone"}));
    }

    #[test]
    fn a_node_that_is_as_declared_is_not_written() {
        let now = node(json!({"zone": "a"}), "zone");
        assert_eq!(reconcile(&now, &labels(&[("zone", "a")]), &identity("k1")), None);
        let patch = reconcile(&now, &labels(&[("zone", "a")]), &identity("k2")).unwrap();
        assert_eq!(patch["metadata"]["annotations"], json!({KEY: "k2"}));
    }
}
