//! Delete: at once, after a grace period, or when the finalizers are gone.
//!
//! Also used by eviction and delete-collection. Invariants: a pod on a node is only marked until the node
//! confirms with grace period 0; preconditions are checked against the object that is removed.
//! Limits: `state::MAX_RETRIES`. A cancelled request may still delete.

use super::list::filter;
use crate::admission::{self, Event};
use crate::call::{Call, decode};
use crate::http::Reply;
use crate::state::{CRD, MAX_RETRIES, write_error};
use crate::storage::{Expect, Op, WriteError};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_apimachinery::json::{int_at, list_at, set, str_at};
use skerry_apimachinery::meta;
use skerry_apimachinery::{About, ApiError, Entry, Resource};
use std::sync::Arc;

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removal {
    pub(crate) grace: Option<i64>,
    pub(crate) policy: String,
    pub(crate) uid: String,
    pub(crate) version: String,
    pub(crate) dry_run: bool,
}

impl Removal {
    /// From a `metav1.DeleteOptions`.
    pub(crate) fn from_options(options: &Value) -> Self {
        let orphan = options.get("orphanDependents").and_then(Value::as_bool);
        Self {
            grace: int_at(options, "/gracePeriodSeconds"),
            policy: policy(str_at(options, "/propagationPolicy"), orphan),
            uid: str_at(options, "/preconditions/uid").to_owned(),
            version: str_at(options, "/preconditions/resourceVersion").to_owned(),
            dry_run: list_at(options, "/dryRun").iter().any(|v| v == "All"),
        }
    }

    fn of(call: &Call) -> Result<Self, ApiError> {
        let mut removal = if call.body.is_empty() {
            Self::default()
        } else {
            Self::from_options(&decode(&call.body, &call.content_type)?)
        };
        let query = &call.query;
        removal.grace = removal.grace.or(query.grace_period_seconds);
        removal.dry_run |= query.dry_run;
        if removal.policy.is_empty() {
            removal.policy = policy(&query.propagation_policy, query.orphan_dependents);
        }
        match removal.policy.as_str() {
            "" | "Background" | "Foreground" | "Orphan" => Ok(removal),
            other => Err(ApiError::BadRequest(format!("invalid propagationPolicy \"{other}\""))),
        }
    }
}

fn policy(text: &str, orphan: Option<bool>) -> String {
    match (text, orphan) {
        ("", Some(true)) => "Orphan".into(),
        _ => text.to_owned(),
    }
}

/// What a removal did: the last state, and whether the object is gone.
pub(crate) struct Removed {
    pub(crate) entry: Arc<Entry>,
    pub(crate) gone: bool,
}

/// Marks the object for deletion, or removes it. Pure; `None` means nothing changes.
fn marked(resource: &Resource, old: &Value, removal: &Removal, now: Timestamp) -> Option<(Value, bool)> {
    let mut new = old.clone();
    let is_pod = &*resource.storage == "/pods";
    let is_namespace = &*resource.storage == "/namespaces";
    let grace = if is_pod {
        let wanted = removal.grace.or_else(|| int_at(old, "/spec/terminationGracePeriodSeconds")).unwrap_or(30).max(0);
        let finished = matches!(str_at(old, "/status/phase"), "Succeeded" | "Failed");
        if str_at(old, "/spec/nodeName").is_empty() || finished { 0 } else { wanted }
    } else {
        0
    };
    let already = meta::is_deleting(old);
    let finalizer = match removal.policy.as_str() {
        "Foreground" => Some("foregroundDeletion"),
        "Orphan" => Some("orphan"),
        _ => None,
    };
    if let (Some(finalizer), false) = (finalizer, already) {
        let mut finalizers: Vec<Value> = list_at(&new, "/metadata/finalizers").to_vec();
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(finalizer.into());
        }
        set(&mut new, &["metadata"], "finalizers", finalizers);
    }
    let held = meta::has_finalizers(&new) || (is_namespace && !list_at(&new, "/spec/finalizers").is_empty());
    if !held && grace == 0 {
        if !already {
            set(&mut new, &["metadata"], "deletionTimestamp", meta::time(now));
        }
        set(&mut new, &["metadata"], "deletionGracePeriodSeconds", 0);
        return Some((new, true));
    }
    let current = int_at(old, "/metadata/deletionGracePeriodSeconds");
    if already && current.is_none_or(|c| c <= grace) {
        return None;
    }
    let at = if already {
        // A shorter grace period counts from when the deletion was asked for.
        let first = meta::parse_time(str_at(old, "/metadata/deletionTimestamp")).unwrap_or(now).as_second();
        (first - current.unwrap_or(0) + grace).max(now.as_second())
    } else {
        now.as_second() + grace
    };
    let at = Timestamp::from_second(at).unwrap_or(now);
    set(&mut new, &["metadata"], "deletionTimestamp", meta::time(at));
    set(&mut new, &["metadata"], "deletionGracePeriodSeconds", grace);
    if !already && int_at(old, "/metadata/generation").is_some() {
        meta::bump_generation(&mut new);
    }
    if is_namespace {
        set(&mut new, &["status"], "phase", "Terminating");
    }
    Some((new, false))
}

/// Where the objects of a definition are stored.
pub(crate) fn definition_storage(definition: &Value) -> String {
    format!("{}/{}", str_at(definition, "/spec/group"), str_at(definition, "/spec/names/plural"))
}

/// Deletes the object `target` (namespace, name).
pub(crate) async fn remove(call: &Call, target: (&str, &str), removal: &Removal) -> Result<Removed, ApiError> {
    let (api, resource) = (&*call.api, &*call.resource);
    let about = About::new(&resource.group, &resource.plural, target.1);
    for _ in 0..MAX_RETRIES {
        let Some(entry) = api.get(resource, target.0, target.1) else { return Err(ApiError::NotFound(about)) };
        let old = entry.value();
        for (wanted, have, what) in [
            (&removal.uid, meta::uid(&old), "UID"),
            (&removal.version, meta::resource_version(&old), "ResourceVersion"),
        ] {
            if !wanted.is_empty() && wanted != have {
                let message =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}");
                return Err(ApiError::Conflict { about, message });
            }
        }
        if &*resource.storage == "/namespaces" && matches!(target.1, "default" | "kube-system" | "kube-public") {
            return Err(ApiError::Forbidden { about, message: "this namespace may not be deleted".into() });
        }
        let Some((new, gone)) = marked(resource, &old, removal, call.now) else {
            return Ok(Removed { entry, gone: false });
        };
        let event = Event { resource, subresource: "", operation: "DELETE", object: None, old: Some(&old) };
        admission::validate(call, event).await?;
        if removal.dry_run {
            return Ok(Removed { entry, gone });
        }
        let op =
            Op { storage: resource.storage.clone(), value: new, expect: Expect::Version(entry.version), delete: gone };
        match api.storage.write(vec![op]).await {
            Ok(entries) => {
                if gone && &*resource.storage == "/services" {
                    api.addresses.release(&old);
                }
                if &*resource.storage == CRD {
                    api.reload_registry();
                    if gone {
                        crate::sweep::all_of(api, &definition_storage(&old)).await;
                    }
                }
                let entry = entries.into_iter().next().unwrap_or(entry);
                return Ok(Removed { entry, gone });
            }
            Err(WriteError::Changed) => {}
            Err(error) => return Err(write_error(error, resource, target.1)),
        }
    }
    Err(write_error(WriteError::Changed, resource, target.1))
}

pub(crate) async fn delete(call: &Call) -> Result<Reply, ApiError> {
    let removal = Removal::of(call)?;
    let target = (call.path.namespace.as_str(), call.path.name.as_str());
    let removed = remove(call, target, &removal).await?;
    // Kubernetes answers the object for pods and whatever is only marked, and a Status for what is gone.
    if removed.gone && &*call.resource.storage != "/pods" {
        let status = meta::success(&call.resource.group, &call.resource.plural, &call.path.name, &removed.entry.uid);
        return Ok(Reply::Value(StatusCode::OK, status));
    }
    Ok(Reply::Entry(StatusCode::OK, removed.entry))
}

pub(crate) async fn delete_collection(call: &Call) -> Result<Reply, ApiError> {
    let removal = Removal::of(call)?;
    let snapshot = call.api.storage.cache(&call.resource.storage).snapshot(&filter(call)?);
    let mut items = Vec::new();
    for entry in snapshot.entries {
        let target = (&*entry.key.namespace, &*entry.key.name);
        match remove(call, target, &removal).await {
            Ok(removed) => items.push(crate::view::value(&call.resource, &removed.entry)),
            // Gone meanwhile is what was wanted.
            Err(ApiError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Reply::Value(
        StatusCode::OK,
        json!({
            "kind": call.resource.list_kind(), "apiVersion": call.resource.api_version(),
            "metadata": {"resourceVersion": snapshot.version.to_string()}, "items": items,
        }),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use skerry_apimachinery::Registry;

    fn mark(plural: &str, object: Value, grace: Option<i64>, policy: &str) -> Option<(Value, bool)> {
        let resource = Registry::new([]).get("", "v1", plural).unwrap();
        let removal = Removal { grace, policy: policy.into(), ..Removal::default() };
        marked(&resource, &object, &removal, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn pods_on_a_node_end_gracefully_and_others_at_once() {
        let bound = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        let (marked, gone) = mark("pods", bound.clone(), None, "").unwrap();
        assert!(!gone);
        assert_eq!(str_at(&marked, "/metadata/deletionTimestamp"), "2026-01-01T00:00:30Z");
        assert!(mark("pods", marked.clone(), Some(40), "").is_none());
        assert_eq!(
            str_at(&mark("pods", marked.clone(), Some(5), "").unwrap().0, "/metadata/deletionTimestamp"),
            "2026-01-01T00:00:05Z"
        );
        assert!(mark("pods", marked, Some(0), "").unwrap().1);
        assert!(mark("pods", json!({"metadata": {"name": "p"}}), None, "").unwrap().1);
        let mut done = bound;
        set(&mut done, &["status"], "phase", "Succeeded");
        assert!(mark("pods", done, None, "").unwrap().1);
    }

    #[test]
    fn finalizers_and_policies_hold_an_object() {
        let held = json!({"metadata": {"name": "c", "finalizers": ["x"]}});
        assert!(!mark("configmaps", held, None, "").unwrap().1);
        let (object, gone) = mark("configmaps", json!({"metadata": {"name": "c"}}), None, "Foreground").unwrap();
        assert!(!gone);
        assert_eq!(list_at(&object, "/metadata/finalizers"), [json!("foregroundDeletion")]);
        let namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}});
        let (object, gone) = mark("namespaces", namespace, None, "").unwrap();
        assert!(!gone);
        assert_eq!(str_at(&object, "/status/phase"), "Terminating");
    }
}
