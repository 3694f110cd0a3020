//! Status patches: ours replace what is ours and leave what is others'.
//!
//! Conditions are merged by type (the scheduler and readiness gates have theirs); lists that only the node
//! writes are replaced. First as a strategic merge patch, in one call; where the server does not take that,
//! by reading, merging here, and writing with a precondition.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};
use skerry_common::{Key, NodeName};

use skerry_kubesync::{ApiError, Kind, quick_hash};

use super::Applier;

/// Lists with a merge key that the node owns as a whole: they are replaced.
const REPLACED: [&str; 4] = ["podIPs", "hostIPs", "addresses", "volumesAttached"];

/// Conditions of a pod that only its node sets and that it also takes back: they go when a report is
/// without them.
const TAKEN_BACK: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Attempts against concurrent writers, where the server has no strategic merge.
const ATTEMPTS: usize = 4;

/// Pods of which the last written status is remembered. Beyond it the memory starts again from nothing,
/// which costs one write per pod.
const REMEMBERED: usize = 200_000;

/// What was written, to spare writes that change nothing.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Pod uid to (hash of the report, hash of the status that the API then had).
    pods: Mutex<HashMap<String, (u64, u64)>>,
    /// The server refused a strategic merge once.
    plain: AtomicBool,
}

impl Written {
    /// Whether the same report was written and nobody changed the status since.
    pub(super) fn is_same(&self, uid: &str, report: u64, current: u64) -> bool {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid) == Some(&(report, current))
    }

    pub(super) fn remember(&self, uid: &str, report: u64, result: u64) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.len() >= REMEMBERED {
            pods.clear();
        }
        pods.insert(uid.to_owned(), (report, result));
    }

    pub(super) fn forget(&self, uid: &str) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

impl Applier {
    /// Writes a status and returns the hash of what the API has now.
    pub(crate) async fn write_status(
        &self,
        kind: Kind,
        key: &Key,
        uid: Option<&str>,
        status: &Map<String, Value>,
    ) -> Result<u64, ApiError> {
        if !self.written.plain.load(Ordering::Relaxed) {
            let patch = with_uid(json!({ "status": strategic(kind, status) }), uid);
            match self.api.patch_status(kind, key, &patch).await {
                Ok(object) => return Ok(status_hash(&object.data)),
                Err(ApiError::UnsupportedPatch) => self.written.plain.store(true, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        let mut last = ApiError::Conflict("the status".to_owned());
        for _ in 0..ATTEMPTS {
            let found = self.api.get(kind, key).await?.ok_or(ApiError::NotFound)?;
            if uid.is_some_and(|uid| found.metadata.uid.as_deref() != Some(uid)) {
                return Err(ApiError::Conflict("it has another uid".to_owned()));
            }
            let merged = merge_conditions(kind, found.data.get("status"), status);
            let mut patch = with_uid(json!({ "status": merged }), uid);
            if let (Some(version), Some(patch)) = (found.metadata.resource_version, patch.as_object_mut()) {
                let meta = patch.entry("metadata").or_insert_with(|| json!({}));
                if let Some(meta) = meta.as_object_mut() {
                    meta.insert("resourceVersion".to_owned(), version.into());
                }
            }
            match self.api.merge_status(kind, key, &patch).await {
                Ok(object) => return Ok(status_hash(&object.data)),
                Err(error @ ApiError::Conflict(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Writes a node's status again that it reported before: the API gave it up meanwhile.
    pub(crate) async fn revive_node(&self, node: &NodeName, status: &Map<String, Value>) -> Result<(), ApiError> {
        self.statuses.acquire().await;
        self.write_status(Kind::Node, &Key::new("", node.as_str()), None, status).await.map(drop)
    }
}

fn with_uid(mut patch: Value, uid: Option<&str>) -> Value {
    if let (Some(uid), Some(patch)) = (uid, patch.as_object_mut()) {
        // The API server takes it as a precondition.
        patch.insert("metadata".to_owned(), json!({ "uid": uid }));
    }
    patch
}

fn status_hash(data: &Value) -> u64 {
    quick_hash(data.get("status").unwrap_or(&Value::Null))
}

/// The status with the directives of a strategic merge patch.
fn strategic(kind: Kind, status: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = status.clone();
    if let Some(Value::Array(conditions)) = patch.get_mut("conditions").filter(|_| kind == Kind::Pod) {
        let gone = TAKEN_BACK.iter().filter(|name| !conditions.iter().any(|c| c.get("type") == Some(&json!(name))));
        let gone: Vec<Value> = gone.map(|name| json!({"$patch": "delete", "type": name})).collect();
        conditions.extend(gone);
    }
    for field in REPLACED {
        if let Some(Value::Array(list)) = patch.get_mut(field) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    patch
}

/// The status with the conditions of others kept.
fn merge_conditions(kind: Kind, current: Option<&Value>, status: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = status.clone();
    let Some(Value::Array(ours)) = merged.get_mut("conditions") else { return merged };
    let named = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
    let present: Vec<Option<String>> = ours.iter().map(named).collect();
    let others = current.and_then(|c| c.get("conditions")).and_then(Value::as_array);
    for condition in others.into_iter().flatten() {
        let name = named(condition);
        let taken_back = kind == Kind::Pod && name.as_ref().is_some_and(|n| TAKEN_BACK.contains(&n.as_str()));
        if name.is_some() && !present.contains(&name) && !taken_back {
            ours.push(condition.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_conditions_of_others_stay() {
        let current =
            json!({"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]});
        let ours = object(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        let merged = merge_conditions(Kind::Pod, Some(&current), &ours);
        assert_eq!(
            merged.get("conditions").unwrap(),
            &json!([{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}])
        );
        assert_eq!(merge_conditions(Kind::Pod, None, &ours), ours);
    }

    #[test]
    fn lists_of_the_node_are_replaced() {
        let status = object(json!({"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]}));
        let patch = strategic(Kind::Node, &status);
        assert_eq!(patch.get("podIPs").unwrap(), &json!([{"$patch": "replace"}, {"ip": "10.0.0.1"}]));
        assert_eq!(patch.get("conditions").unwrap(), &json!([{"type": "Ready"}]));
    }

    #[test]
    fn a_condition_that_the_node_took_back_goes() {
        let status = object(json!({"conditions": [{"type": "Ready"}, {"type": "PodResizePending"}]}));
        let gone = json!({"$patch": "delete", "type": "PodResizeInProgress"});
        let want = json!([{"type": "Ready"}, {"type": "PodResizePending"}, gone]);
        assert_eq!(strategic(Kind::Pod, &status).get("conditions").unwrap(), &want);
        assert_eq!(strategic(Kind::Node, &status), status);
        let current = json!({"conditions": [{"type": "PodResizeInProgress"}, {"type": "lb"}]});
        let merged = merge_conditions(Kind::Pod, Some(&current), &status);
        assert_eq!(
            merged.get("conditions").unwrap(),
            &json!([{"type": "Ready"}, {"type": "PodResizePending"}, {"type": "lb"}])
        );
    }

    #[test]
    fn only_an_unchanged_status_is_spared() {
        let written = Written::default();
        written.remember("u", 1, 2);
        assert!(written.is_same("u", 1, 2));
        assert!(!written.is_same("u", 3, 2), "another report");
        assert!(!written.is_same("u", 1, 4), "somebody changed the status");
        written.forget("u");
        assert!(!written.is_same("u", 1, 2));
    }
}
