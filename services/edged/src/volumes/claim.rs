//! Volumes by claim: a PersistentVolumeClaim that is bound to a directory of this machine.
//!
//! Called on a blocking thread with the objects in memory. Binding is the cluster's business; what is
//! not bound yet is waited for, and the pod's Event says so. Generic ephemeral volumes are claims with
//! a name of their own. The checks and their words are the kubelet's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod};
use skerry_common::kinds;

use super::host_path;
use crate::env::Problem;
use crate::objects::Objects;
use crate::pod::spec::PodExt;

/// What is behind a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// With its `type`.
    HostPath(String),
    /// Exists before it is used, and takes the pod's group.
    Local,
}

/// Name of the claim of a generic ephemeral volume.
pub(super) fn ephemeral_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.name())
}

/// The directory behind a claim; `ephemeral` when the pod itself made the claim.
pub(super) fn resolve(pod: &Pod, name: &str, ephemeral: bool, objects: &Objects) -> Result<Claimed, Problem> {
    let config = |text: String| Err(Problem::Config(text));
    let Some(claim) = objects.claim(pod.namespace(), name) else {
        let text = format!("persistentvolumeclaim {name:?} not found");
        return Err(Problem::missing(objects, kinds::PERSISTENT_VOLUME_CLAIM, text));
    };
    if ephemeral {
        let owners = claim.metadata.owner_references.iter().flatten();
        if !owners.into_iter().any(|o| o.controller == Some(true) && o.uid == pod.uid()) {
            return config(format!("PVC {}/{name} was not created for pod {}", pod.namespace(), pod.full_name()));
        }
    }
    let bound = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
    let Some(volume_name) = bound else {
        return config(format!("error processing PVC {}/{name}: PVC is not bound", pod.namespace()));
    };
    let Some(volume) = objects.volume(volume_name) else {
        let text = format!("persistentvolume {volume_name:?} not found");
        return Err(Problem::missing(objects, kinds::PERSISTENT_VOLUME, text));
    };
    let Some(spec) = &volume.spec else { return config(format!("persistentvolume {volume_name:?} has no spec")) };
    let claimed_by_us = spec.claim_ref.as_ref().is_none_or(|r| {
        r.name.as_deref() == Some(name)
            && r.namespace.as_deref() == Some(pod.namespace())
            && r.uid.as_ref().is_none_or(|u| claim.metadata.uid.as_ref().is_none_or(|own| own == u))
    });
    if !claimed_by_us {
        return config(format!(
            "error processing PVC {}/{name}: PV {volume_name:?} has another claim",
            pod.namespace()
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return config(format!("volume {volume_name} has volumeMode Block, which is not supported on an edge node"));
    }
    affinity(&volume, objects)?;
    if let Some(source) = &spec.host_path {
        let kind = Kind::HostPath(source.type_.clone().unwrap_or_default());
        return Ok(Claimed { path: host_path::checked(&source.path)?, kind });
    }
    if let Some(source) = &spec.local {
        return Ok(Claimed { path: host_path::checked(&source.path)?, kind: Kind::Local });
    }
    config(format!("persistentvolume {volume_name:?} is neither hostPath nor local, which an edge node needs"))
}

/// A local volume must be there: nobody else creates it.
pub(super) fn check_local(path: &Path) -> Result<(), Problem> {
    if path.is_dir() { Ok(()) } else { Err(Problem::Config(format!("path {:?} does not exist", path.display()))) }
}

fn affinity(volume: &PersistentVolume, objects: &Objects) -> Result<(), Problem> {
    let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    let Some(required) = required else { return Ok(()) };
    let Some(node) = objects.node() else {
        return Err(Problem::Pending("the labels of the node are not known yet".into()));
    };
    if required.node_selector_terms.iter().any(|term| matches(term, &node)) {
        return Ok(());
    }
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    Err(Problem::Config(format!("NodeAffinity check failed for volume {name:?} : no matching NodeSelectorTerms")))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let fields = BTreeMap::from([("metadata.name".to_owned(), name)]);
    let (by_label, by_field) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let none = by_label.unwrap_or_default().is_empty() && by_field.unwrap_or_default().is_empty();
    // A term without requirements selects nothing.
    !none
        && by_label.unwrap_or_default().iter().all(|r| meets(r, &labels))
        && by_field.unwrap_or_default().iter().all(|r| meets(r, &fields))
}

fn meets(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |test: fn(i64, i64) -> bool| {
        let wanted = values.first().and_then(|v| v.parse().ok());
        value.and_then(|v| v.parse().ok()).zip(wanted).is_some_and(|(a, b)| test(a, b))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};
    use skerry_common::Key;
    use skerry_hubclient::Change;

    fn put(objects: &Objects, kind: &'static str, namespace: &str, name: &str, body: &Value) {
        let key = Key::new(namespace, name);
        objects.apply(Change::Upsert { kind, key, body: body.to_string().into() }).unwrap();
    }

    fn run(claim: &Value, volume: &Value, ephemeral: bool) -> Result<Claimed, String> {
        let objects = Objects::default();
        put(&objects, kinds::PERSISTENT_VOLUME_CLAIM, "ns", "data", claim);
        put(&objects, kinds::PERSISTENT_VOLUME, "", "pv", volume);
        let node = json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}}});
        put(&objects, kinds::NODE, "", "n", &node);
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}}),
        )
        .unwrap();
        resolve(&pod, "data", ephemeral, &objects).map_err(|p| p.text().to_owned())
    }

    #[test]
    fn a_claim_leads_to_a_directory_of_this_machine() {
        let bound = json!({"spec": {"volumeName": "pv"}});
        let local = json!({"spec": {"local": {"path": "/d"}}});
        assert_eq!(run(&bound, &local, false), Ok(Claimed { path: "/d".into(), kind: Kind::Local }));
        let host = json!({"spec": {"hostPath": {"path": "/h", "type": "Directory"}, "claimRef": {"namespace": "ns", "name": "data"}}});
        let want = Claimed { path: "/h".into(), kind: Kind::HostPath("Directory".into()) };
        assert_eq!(run(&bound, &host, false), Ok(want));
        let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}, "spec": {"volumeName": "pv"}});
        assert!(run(&owned, &local, true).is_ok());
    }

    #[test]
    fn what_cannot_be_mounted_is_said() {
        let bound = json!({"spec": {"volumeName": "pv"}});
        let local = json!({"spec": {"local": {"path": "/d"}}});
        for (claim, volume, ephemeral, want) in [
            (json!({"spec": {}}), local.clone(), false, "PVC is not bound"),
            (json!({"spec": {"volumeName": "other"}}), local.clone(), false, "persistentvolume \"other\" not found"),
            (bound.clone(), local, true, "was not created for pod"),
            (
                bound.clone(),
                json!({"spec": {"nfs": {"path": "/", "server": "s"}}}),
                false,
                "neither hostPath nor local",
            ),
            (
                bound.clone(),
                json!({"spec": {"local": {"path": "/d"}, "volumeMode": "Block"}}),
                false,
                "volumeMode Block",
            ),
            (bound.clone(), json!({"spec": {"local": {"path": "/a/../d"}}}), false, "without '..'"),
            (
                bound,
                json!({"spec": {"local": {"path": "/d"}, "claimRef": {"namespace": "ns", "name": "x"}}}),
                false,
                "another claim",
            ),
        ] {
            let got = run(&claim, &volume, ephemeral).unwrap_err();
            assert!(got.contains(want), "{got}");
        }
    }

    #[test]
    fn a_volume_of_another_machine_is_refused() {
        let bound = json!({"spec": {"volumeName": "pv"}});
        for (requirement, ok) in [
            (json!({"key": "zone", "operator": "In", "values": ["a", "b"]}), true),
            (json!({"key": "zone", "operator": "NotIn", "values": ["a"]}), false),
            (json!({"key": "none", "operator": "NotIn", "values": ["a"]}), true),
            (json!({"key": "zone", "operator": "Exists"}), true),
            (json!({"key": "zone", "operator": "DoesNotExist"}), false),
            (json!({"key": "size", "operator": "Gt", "values": ["4"]}), true),
            (json!({"key": "size", "operator": "Lt", "values": ["4"]}), false),
            (json!({"key": "zone", "operator": "Like"}), false),
        ] {
            let terms = json!([{"matchExpressions": [requirement]}]);
            let volume =
                json!({"spec": {"local": {"path": "/d"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
            assert_eq!(run(&bound, &volume, false).is_ok(), ok, "{requirement}");
        }
        let by_name = |name: &str| {
            json!({"spec": {"local": {"path": "/d"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}})
        };
        assert!(run(&bound, &by_name("n"), false).is_ok());
        assert!(run(&bound, &by_name("m"), false).unwrap_err().contains("no matching NodeSelectorTerms"));
    }
}
