//! What is special about each built-in kind: defaults, first status, validation, what may not change.
//!
//! Called by create and modify. Invariants: defaulting twice changes nothing; validation never changes.
//! Limits: those of Kubernetes where stated. Stateless.

mod definition;
pub(crate) mod namespace;
pub(crate) mod pod;
mod pod_defaults;
mod pod_security;
mod runtime_class;
pub(crate) mod service;
mod storage;
mod workload;

pub(crate) use definition::status as definition_status;

use crate::admission;
use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_apimachinery::json::{as_map, default_to, map_at, map_mut, str_at};
use skerry_apimachinery::{FieldError, Resource, meta};

use base64::Engine as _;

/// Kubernetes' limit for the data of a ConfigMap or Secret, in bytes.
const MAX_DATA: usize = 1 << 20;

/// Fills the defaults of a kind.
pub(crate) fn defaults(storage: &str, object: &mut Value) {
    match storage {
        "/pods" => pod_defaults::pod_spec(map_mut(object, &["spec"])),
        "/services" => service::defaults(object),
        "/secrets" => secret(object),
        "/namespaces" => namespace::defaults(object),
        "/podtemplates" => pod_defaults::pod_spec(map_mut(object, &["template", "spec"])),
        "discovery.k8s.io/endpointslices" => service::slice_defaults(object),
        admission::CONFIGURATIONS => admission::defaults(object),
        "apiextensions.k8s.io/customresourcedefinitions" => definition::defaults(object),
        "rbac.authorization.k8s.io/rolebindings" | "rbac.authorization.k8s.io/clusterrolebindings" => binding(object),
        _ if storage.starts_with("apps/") || storage.starts_with("batch/") => workload::defaults(storage, object),
        _ => storage::defaults(storage, object),
    }
}

/// Sets what a new object starts with, whatever the client sent.
pub(crate) fn prepare_new(resource: &Resource, object: &mut Value, now: Timestamp) {
    let status = match &*resource.storage {
        "/pods" => Some(json!({"phase": "Pending", "qosClass": pod::qos_class(object)})),
        "/namespaces" => Some(json!({"phase": "Active"})),
        "/services" => Some(json!({"loadBalancer": {}})),
        "/persistentvolumes" | "/persistentvolumeclaims" => Some(json!({"phase": "Pending"})),
        "apiextensions.k8s.io/customresourcedefinitions" => Some(definition::status(object, now)),
        // Nodes register with their status.
        "/nodes" => return,
        _ if resource.has("status") && resource.custom => None,
        _ if resource.has("status") => Some(json!({})),
        _ => return,
    };
    let map = as_map(object);
    match status {
        Some(status) => map.insert("status".into(), status),
        None => map.remove("status"),
    };
    if &*resource.storage == "batch/jobs" {
        workload::job_identity(object);
    }
}

/// Validates an object. `old` is the stored state and the subresource for a change.
pub(crate) fn validate(storage: &str, object: &Value, old: Option<(&Value, &str)>, errors: &mut Vec<FieldError>) {
    let before = old.map(|(value, _)| value);
    match storage {
        "/pods" => pod::validate(object, old, errors),
        "/services" => service::validate(object, before, errors),
        "/configmaps" | "/secrets" => data(storage, object, before, errors),
        "/nodes" => node(object, errors),
        "/podtemplates" => pod::validate_spec(object, "/template/spec", "template.spec", errors),
        "apiextensions.k8s.io/customresourcedefinitions" => definition::validate(object, errors),
        admission::CONFIGURATIONS => admission::check(object, errors),
        "discovery.k8s.io/endpointslices" => {
            let kind = str_at(object, "/addressType");
            if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
                errors.push(FieldError::not_supported("addressType", kind, &["IPv4", "IPv6", "FQDN"]));
            }
        }
        "rbac.authorization.k8s.io/rolebindings" | "rbac.authorization.k8s.io/clusterrolebindings" => {
            if let Some(old) = before
                && old.get("roleRef") != object.get("roleRef")
            {
                errors.push(FieldError::invalid(
                    "roleRef",
                    object.get("roleRef").cloned().unwrap_or_default(),
                    "cannot change roleRef",
                ));
            }
        }
        _ if storage.starts_with("apps/") || storage.starts_with("batch/") => {
            workload::validate(storage, object, before, errors)
        }
        _ => storage::validate(storage, object, before, errors),
    }
}

fn secret(object: &mut Value) {
    let map = as_map(object);
    default_to(map, "type", "Opaque");
    if let Some(Value::Object(texts)) = map.remove("stringData") {
        let data = as_map(map.entry("data").or_insert(Value::Null));
        for (key, text) in texts {
            let text = text.as_str().unwrap_or("");
            data.insert(key, base64::prelude::BASE64_STANDARD.encode(text).into());
        }
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(role) = object.get_mut("roleRef") {
        default_to(as_map(role), "apiGroup", GROUP);
    }
    if let Some(Value::Array(subjects)) = object.get_mut("subjects") {
        for subject in subjects {
            if matches!(str_at(subject, "/kind"), "User" | "Group") {
                default_to(as_map(subject), "apiGroup", GROUP);
            }
        }
    }
}

fn data(storage: &str, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map_at(object, &format!("/{field}")).into_iter().flatten() {
            let ok = !key.is_empty()
                && key.len() <= meta::MAX_NAME
                && key != "."
                && !key.starts_with("..")
                && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
            if !ok {
                errors.push(FieldError::invalid(
                    format!("{field}[{key}]"),
                    key.as_str(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > MAX_DATA * 4 / 3 {
        errors.push(FieldError::invalid("data", size, format!("may not be more than {MAX_DATA} bytes")));
    }
    let Some(old) = old else { return };
    if old.get("immutable") == Some(&Value::Bool(true)) {
        for field in ["immutable", "data", "binaryData"] {
            if old.get(field) != object.get(field) {
                errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
    if storage == "/secrets" && old.get("type") != object.get("type") {
        errors.push(FieldError::invalid("type", str_at(object, "/type"), "field is immutable"));
    }
}

fn node(object: &Value, errors: &mut Vec<FieldError>) {
    for (index, taint) in skerry_apimachinery::json::list_at(object, "/spec/taints").iter().enumerate() {
        let effect = str_at(taint, "/effect");
        if str_at(taint, "/key").is_empty() {
            errors.push(FieldError::required(format!("spec.taints[{index}].key"), ""));
        }
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            errors.push(FieldError::not_supported(
                format!("spec.taints[{index}].effect"),
                effect,
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            ));
        }
    }
}
