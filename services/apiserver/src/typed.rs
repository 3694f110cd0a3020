//! Types of the fields of built-in kinds, checked by decoding into the generated structs.
//!
//! Called for every body and every patched object. Invariants: a field of the wrong type is a 400 that
//! says which; a field that the type does not have is reported and dropped; everything else stays exactly
//! as the client wrote it. Custom resources and kinds without a struct pass unchecked.
//! Limits: none beyond the body. Stateless.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use serde_json::Value;
use skerry_apimachinery::{ApiError, Resource};

/// Most unknown fields that are reported.
const MAX_UNKNOWN: usize = 32;

macro_rules! round_trip {
    ($group:expr, $kind:expr, $value:expr, $(($g:literal, $k:literal) => $t:ty,)*) => {
        match ($group, $kind) {
            $(($g, $k) => Some(serde_json::from_value::<$t>($value).and_then(|typed| serde_json::to_value(&typed))),)*
            _ => None,
        }
    };
}

fn round_trip(resource: &Resource, value: &Value) -> Option<Result<Value, serde_json::Error>> {
    round_trip!(
        resource.group.as_str(), resource.kind.as_str(), value.clone(),
        ("", "Pod") => core::Pod,
        ("", "ConfigMap") => core::ConfigMap,
        ("", "Secret") => core::Secret,
        ("", "Node") => core::Node,
        ("", "Service") => core::Service,
        ("", "Endpoints") => core::Endpoints,
        ("", "Namespace") => core::Namespace,
        ("", "ServiceAccount") => core::ServiceAccount,
        ("", "PersistentVolume") => core::PersistentVolume,
        ("", "PersistentVolumeClaim") => core::PersistentVolumeClaim,
        ("", "Event") => core::Event,
        ("", "PodTemplate") => core::PodTemplate,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => admission::ValidatingWebhookConfiguration,
        ("apps", "Deployment") => apps::Deployment,
        ("apps", "ReplicaSet") => apps::ReplicaSet,
        ("apps", "DaemonSet") => apps::DaemonSet,
        ("apps", "StatefulSet") => apps::StatefulSet,
        ("batch", "Job") => batch::Job,
        ("batch", "CronJob") => batch::CronJob,
        ("coordination.k8s.io", "Lease") => coordination::Lease,
        ("discovery.k8s.io", "EndpointSlice") => discovery::EndpointSlice,
        ("events.k8s.io", "Event") => events::Event,
        ("networking.k8s.io", "Ingress") => networking::Ingress,
        ("networking.k8s.io", "NetworkPolicy") => networking::NetworkPolicy,
        ("node.k8s.io", "RuntimeClass") => node::RuntimeClass,
        ("policy", "PodDisruptionBudget") => policy::PodDisruptionBudget,
        ("rbac.authorization.k8s.io", "Role") => rbac::Role,
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::RoleBinding,
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::ClusterRole,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::ClusterRoleBinding,
        ("scheduling.k8s.io", "PriorityClass") => scheduling::PriorityClass,
        ("storage.k8s.io", "CSIDriver") => storage::CSIDriver,
        ("storage.k8s.io", "CSINode") => storage::CSINode,
        ("storage.k8s.io", "CSIStorageCapacity") => storage::CSIStorageCapacity,
        ("storage.k8s.io", "StorageClass") => storage::StorageClass,
        ("storage.k8s.io", "VolumeAttachment") => storage::VolumeAttachment,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => apiextensions::CustomResourceDefinition,
    )
}

/// Checks the types of the object's fields, drops unknown fields and answers their paths.
pub(crate) fn check(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    quantities(object);
    match round_trip(resource, object) {
        None => Ok(Vec::new()),
        Some(Err(error)) => Err(ApiError::BadRequest(format!(
            "{} in version \"{}\" cannot be handled as a {}: {error}",
            resource.kind, resource.version, resource.kind
        ))),
        Some(Ok(typed)) => {
            let mut unknown = Vec::new();
            prune(object, &typed, &mut String::new(), &mut unknown);
            Ok(unknown)
        }
    }
}

/// Quantities may be written as numbers; the structs know only strings.
fn quantities(value: &mut Value) {
    const MAPS: &[&str] = &["limits", "requests", "capacity", "allocatable", "overhead", "podFixed"];
    const SCALARS: &[&str] = &["sizeLimit", "divisor", "maximumVolumeSize"];
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                if MAPS.contains(&name.as_str())
                    && let Value::Object(amounts) = inner
                {
                    amounts.values_mut().filter(|v| v.is_number()).for_each(|v| *v = v.to_string().into());
                } else if SCALARS.contains(&name.as_str()) && inner.is_number() {
                    *inner = inner.to_string().into();
                } else {
                    quantities(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}

fn prune(object: &mut Value, typed: &Value, path: &mut String, unknown: &mut Vec<String>) {
    match (object, typed) {
        (Value::Object(map), Value::Object(known)) => {
            map.retain(|name, value| {
                let keep = known.contains_key(name);
                if !keep && !value.is_null() && !is_empty(value) && unknown.len() < MAX_UNKNOWN {
                    let dot = if path.is_empty() { "" } else { "." };
                    unknown.push(format!("{path}{dot}{name}"));
                }
                keep
            });
            for (name, value) in map.iter_mut() {
                if let Some(inner) = known.get(name) {
                    let length = path.len();
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(name);
                    prune(value, inner, path, unknown);
                    path.truncate(length);
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, inner)) in items.iter_mut().zip(known).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                prune(item, inner, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use skerry_apimachinery::Registry;

    #[test]
    fn types_are_checked_and_unknown_fields_reported() {
        let resource = Registry::new([]).get("apps", "v1", "deployments").unwrap();
        let mut good = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "creationTimestamp": null},
            "spec": {"replicas": 1, "replicaz": 2, "selector": {"matchLabels": {}}, "template": {"spec": {"containers": [
                {"name": "a", "imag": "x", "resources": {"limits": {"cpu": 1}}, "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}}}});
        let unknown = check(&resource, &mut good).unwrap();
        assert_eq!(unknown, ["spec.replicaz", "spec.template.spec.containers[0].imag"]);
        assert_eq!(good.pointer("/spec/template/spec/containers/0/resources/limits/cpu"), Some(&json!("1")));
        assert_eq!(good.pointer("/spec/template/spec/volumes/0/emptyDir"), Some(&json!({})));
        let mut bad = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "three"}});
        assert!(check(&resource, &mut bad).is_err());
    }
}
