//! Fields of a pod as environment and files show them (`fieldRef`, `resourceFieldRef`). Pure.
//!
//! Used by `env` and by downward API volumes. The set of paths and the format of maps are the
//! documented ones; a path that is not known is an error that the user sees on the container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::spec::PodExt;
use crate::resources;

/// What a field can show besides the pod itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Name of the node.
    pub(crate) node: String,
    /// Primary first.
    pub(crate) host_ips: Vec<String>,
    /// Primary first; empty until the sandbox is there.
    pub(crate) pod_ips: Vec<String>,
    /// What the node can give, for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// The value of a field path; `None` when it is not a field that pods offer.
pub(crate) fn pod_field(pod: &Pod, path: &str, facts: &Facts) -> Option<String> {
    let map_entry = |prefix: &str, map: Option<&BTreeMap<String, String>>| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default())
    };
    let labels = pod.metadata.labels.as_ref();
    let annotations = pod.metadata.annotations.as_ref();
    let pod_ips = if pod.host_network() { &facts.host_ips } else { &facts.pod_ips };
    Some(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => format_map(labels),
        "metadata.annotations" => format_map(annotations),
        "spec.nodeName" => pod.spec().node_name.clone().unwrap_or_else(|| facts.node.clone()),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => {
            return map_entry("metadata.labels", labels).or_else(|| map_entry("metadata.annotations", annotations));
        }
    })
}

/// One `key="value"` per line, in the order of the keys.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.iter().flat_map(|m| m.iter()).map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`, for `container` unless it names another.
pub(crate) fn resource_field(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Option<String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => pod.containers().iter().chain(pod.init_containers()).find(|c| c.name == name)?,
        None => container?,
    };
    resources::field(container, &selector.resource, selector.divisor.as_ref(), &facts.allocatable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn every_documented_field_is_there() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "n", "namespace": "ns", "uid": "u", "labels": { "b": "2", "a": "x\"y" } },
            "spec": { "nodeName": "node", "serviceAccountName": "sa", "containers": [] }
        }))
        .unwrap();
        let facts = Facts {
            host_ips: vec!["10.0.0.1".into()],
            pod_ips: vec!["10.1.0.2".into(), "fd00::2".into()],
            ..Facts::default()
        };
        for (path, want) in [
            ("metadata.name", "n"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u"),
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations", ""),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "sa"),
            ("status.hostIP", "10.0.0.1"),
            ("status.podIP", "10.1.0.2"),
            ("status.podIPs", "10.1.0.2,fd00::2"),
        ] {
            assert_eq!(pod_field(&pod, path, &facts).as_deref(), Some(want), "{path}");
        }
        assert_eq!(pod_field(&pod, "spec.containers", &facts), None);
        assert_eq!(pod_field(&pod, "metadata.labels[b]", &facts), None);
    }
}
