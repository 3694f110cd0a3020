//! The read-modify-write loop under update, patch, status and the other subresources.
//!
//! Invariants: system fields are carried over; a status write changes only the status, any other write
//! never changes it; `metadata.generation` grows when the wanted state changes; an object that is being
//! deleted is removed when its last finalizer goes; a change that changes nothing is not written.
//! Limits: `state::MAX_RETRIES` lost races. A cancelled request leaves either the old or the new object.

use crate::admission::{self, Event};
use crate::auth::escalation;
use crate::call::Call;
use crate::custom;
use crate::kinds;
use crate::state::{Api, CRD, MAX_RETRIES, write_error};
use crate::storage::{Expect, Op, WriteError};
use serde_json::Value;
use skerry_apimachinery::json::{as_map, int_at, list_at, set};
use skerry_apimachinery::meta;
use skerry_apimachinery::{About, ApiError, Entry, FieldError, Resource};
use std::sync::Arc;

/// What a modification did.
pub(crate) enum Outcome {
    /// Stored (or found to be the same).
    Stored(Arc<Entry>),
    /// The object is gone: this was its last finalizer.
    Removed(Arc<Entry>),
    /// What would be stored.
    Dry(Value),
}

/// Changes the object that the call names.
pub(crate) async fn modify(
    call: &Call,
    subresource: &str,
    mut change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
) -> Result<Outcome, ApiError> {
    let target = (call.path.namespace.as_str(), call.path.name.as_str());
    let checked = |old: &Value| {
        let new = change(old)?;
        escalation::check(&call.api.rbac, &call.api.storage, &call.user, &call.resource, &new)?;
        Ok(new)
    };
    modify_other(call, &call.resource, target, subresource, checked).await
}

/// Changes the object `target` (namespace, name) of any resource. `change` gets the stored object and
/// answers its replacement; it may be called several times.
pub(crate) async fn modify_other(
    call: &Call,
    resource: &Resource,
    target: (&str, &str),
    subresource: &str,
    mut change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
) -> Result<Outcome, ApiError> {
    let (api, (namespace, name)) = (&*call.api, target);
    for _ in 0..MAX_RETRIES {
        let about = About::new(&resource.group, &resource.plural, name);
        let Some(entry) = api.get(resource, namespace, name) else { return Err(ApiError::NotFound(about)) };
        let old = entry.value();
        let mut new = change(&old)?;
        preconditions(&new, &old, &about)?;
        merge_parts(resource, subresource, &mut new, &old);
        if new == old {
            return Ok(Outcome::Stored(entry));
        }
        if &*resource.storage == "/services" {
            kinds::service::keep_address(&mut new, &old);
        }
        kinds::defaults(&resource.storage, &mut new);
        custom::fill(api, resource, &mut new);
        check(api, resource, subresource, &new, &old)?;
        if changes_the_wanted_state(subresource) && resource.generation && wanted_state_differs(resource, &new, &old) {
            meta::bump_generation(&mut new);
        }
        if new == old {
            return Ok(Outcome::Stored(entry));
        }
        let delete = meta::is_deleting(&new)
            && !meta::has_finalizers(&new)
            && int_at(&new, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
            && (&*resource.storage != "/namespaces" || list_at(&new, "/spec/finalizers").is_empty());
        let event = Event { resource, subresource, operation: "UPDATE", object: Some(&new), old: Some(&old) };
        admission::validate(call, event).await?;
        if call.query.dry_run {
            return Ok(Outcome::Dry(new));
        }
        let is_service = &*resource.storage == "/services";
        let taken = if is_service && !delete {
            let filled = api.addresses.fill(&mut new, Some(&old));
            Some(filled.map_err(|error| ApiError::invalid("", "Service", name, vec![error]))?)
        } else {
            None
        };
        let op = Op { storage: resource.storage.clone(), value: new, expect: Expect::Version(entry.version), delete };
        match api.storage.write(vec![op]).await {
            Ok(entries) => {
                if &*resource.storage == CRD {
                    api.reload_registry();
                    if delete {
                        crate::sweep::all_of(api, &super::definition_storage(&old)).await;
                    }
                }
                if is_service && delete {
                    api.addresses.release(&old);
                }
                let entry =
                    entries.into_iter().next().ok_or_else(|| ApiError::Internal("the write gave no object".into()))?;
                if is_service && !delete {
                    api.addresses.settle(&old, &entry.value());
                }
                return Ok(if delete { Outcome::Removed(entry) } else { Outcome::Stored(entry) });
            }
            Err(error) => {
                if let Some(taken) = taken {
                    api.addresses.give_back(taken);
                }
                if error != WriteError::Changed {
                    return Err(write_error(error, resource, name));
                }
            }
        }
    }
    Err(write_error(WriteError::Changed, resource, name))
}

fn preconditions(new: &Value, old: &Value, about: &About) -> Result<(), ApiError> {
    let conflict = |message: String| Err(ApiError::Conflict { about: about.clone(), message });
    let (uid, version) = (meta::uid(new), meta::resource_version(new));
    if !uid.is_empty() && uid != meta::uid(old) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(old)
        ));
    }
    if !version.is_empty() && version != meta::resource_version(old) {
        return conflict(
            "the object has been modified; please apply your changes to the latest version and try again".into(),
        );
    }
    Ok(())
}

/// Takes from `new` what the subresource may change, and everything else from `old`.
fn merge_parts(resource: &Resource, subresource: &str, new: &mut Value, old: &Value) {
    let field = |object: &Value, name: &str| object.get(name).cloned();
    let put = |object: &mut Value, name: &str, value: Option<Value>| {
        let map = as_map(object);
        match value {
            Some(value) => map.insert(name.to_owned(), value),
            None => map.remove(name),
        };
    };
    match subresource {
        "status" => {
            let status = field(new, "status");
            let mut metadata = new.get("metadata").cloned().unwrap_or_default();
            if resource.custom {
                metadata = old.get("metadata").cloned().unwrap_or_default();
                if let Some(managed) = new.pointer("/metadata/managedFields") {
                    as_map(&mut metadata).insert("managedFields".into(), managed.clone());
                }
            }
            let mut merged = old.clone();
            put(&mut merged, "status", status);
            put(&mut merged, "metadata", Some(metadata));
            *new = merged;
        }
        "ephemeralcontainers" => {
            let containers = new.pointer("/spec/ephemeralContainers").cloned();
            let mut merged = old.clone();
            if let Some(containers) = containers {
                set(&mut merged, &["spec"], "ephemeralContainers", containers);
            }
            *new = merged;
        }
        "resize" => {
            let mut merged = old.clone();
            kinds::pod::take_resources(&mut merged, new);
            *new = merged;
        }
        "finalize" => {
            let finalizers = new.pointer("/spec/finalizers").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
            let mut merged = old.clone();
            set(&mut merged, &["spec"], "finalizers", finalizers);
            *new = merged;
        }
        // A binding sets the node and its condition, and was checked by its handler.
        "binding" => {}
        _ if resource.has("status") => put(new, "status", field(old, "status")),
        _ => {}
    }
    meta::carry_system_fields(new, old);
}

/// Writes of these parts count as updates of what is wanted; a binding belongs to the creation.
fn changes_the_wanted_state(subresource: &str) -> bool {
    matches!(subresource, "" | "ephemeralcontainers" | "resize")
}

fn wanted_state_differs(resource: &Resource, new: &Value, old: &Value) -> bool {
    if resource.custom {
        let rest = |object: &Value| {
            let mut copy = object.clone();
            let map = as_map(&mut copy);
            map.remove("metadata");
            // Without a subresource the status is a part of the object like any other.
            if resource.has("status") {
                map.remove("status");
            }
            copy
        };
        return rest(new) != rest(old);
    }
    new.get("spec") != old.get("spec")
}

fn check(api: &Api, resource: &Resource, subresource: &str, new: &Value, old: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    meta::validate(new, resource.name_rule, resource.namespaced, &mut errors);
    if meta::is_deleting(old) {
        let before = list_at(old, "/metadata/finalizers");
        if list_at(new, "/metadata/finalizers").iter().any(|f| !before.contains(f)) {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                "no new finalizers can be added if the object is being deleted",
            ));
        }
    }
    if changes_the_wanted_state(subresource) {
        kinds::validate(&resource.storage, new, Some((old, subresource)), &mut errors);
    }
    custom::validate(api, resource, new, Some(old), &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(new), errors))
    }
}
