//! Which volume suits a claim. Pure.
//!
//! As in Kubernetes: a volume that was made for this claim comes first, then the smallest that is free
//! and has the class, the modes, the labels and the size that the claim asks for. With a node, the
//! volume must be usable there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::labels::{Selector, node_selector_matches};
use crate::pods::{name, namespace};
use skerry_common::quantity;

/// How a volume stands to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// By nobody.
    Free,
    /// By this claim, or made for it.
    ByIt,
    /// By another claim, or one of this name that is gone.
    ByAnother,
}

pub(super) fn held(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Held {
    let Some(holder) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Held::Free };
    let same_name =
        holder.name.as_deref() == Some(name(claim)) && holder.namespace.as_deref() == Some(namespace(claim));
    let same_uid = holder.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref());
    if same_name && same_uid { Held::ByIt } else { Held::ByAnother }
}

/// The class that a claim or a volume names; empty for none.
pub(super) fn class(name: Option<&String>) -> &str {
    name.map(String::as_str).unwrap_or_default()
}

/// See the module documentation.
pub(super) fn choose(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: Option<&Node>,
) -> Option<Arc<PersistentVolume>> {
    let suitable = volumes.iter().filter(|v| suits(claim, v, node));
    suitable.min_by_key(|v| (held(v, claim) != Held::ByIt, capacity(v), name(v.as_ref()).to_owned())).cloned()
}

fn suits(claim: &PersistentVolumeClaim, volume: &PersistentVolume, node: Option<&Node>) -> bool {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return false };
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let asked = wanted.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let selected = wanted.selector.as_ref().is_none_or(|selector| {
        Selector::parse(selector).is_ok_and(|selector| selector.matches(volume.metadata.labels.as_ref()))
    });
    let there = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref()).zip(node);
    volume.metadata.deletion_timestamp.is_none()
        && held(volume, claim) != Held::ByAnother
        && class(wanted.storage_class_name.as_ref()) == class(spec.storage_class_name.as_ref())
        && mode(wanted.volume_mode.as_ref()) == mode(spec.volume_mode.as_ref())
        && wanted.access_modes.iter().flatten().all(|mode| offered.contains(mode))
        && asked.is_none_or(|Quantity(text)| quantity::units(text).is_some_and(|asked| asked <= capacity(volume)))
        && selected
        && there
            .is_none_or(|(required, node)| node_selector_matches(required, name(node), node.metadata.labels.as_ref()))
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let list = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    list.and_then(|c| c.get("storage")).and_then(|Quantity(text)| quantity::units(text)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, patch: Value) -> Arc<PersistentVolume> {
        let mut body = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/d"}, "storageClassName": "local"}});
        json_patch::merge(&mut body, &patch);
        Arc::new(serde_json::from_value(body).unwrap())
    }

    fn chosen(claim: Value, node: Option<Value>) -> Option<String> {
        let zone = |zone: &str| {
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}}})
        };
        let other = json!({"spec": {"claimRef": {"namespace": "ns", "name": "other"}}});
        let mine = json!({"spec": {"claimRef": {"namespace": "ns", "name": "mine"}}});
        let volumes = [
            volume("large", "20Gi", json!({})),
            volume("small", "5Gi", zone("a")),
            volume("tiny", "1Gi", zone("b")),
            volume("taken", "5Gi", other),
            volume("reserved", "10Gi", mine),
            volume("block", "5Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume("classless", "5Gi", json!({"spec": {"storageClassName": null}})),
        ];
        let mut body = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        json_patch::merge(&mut body, &claim);
        let node: Option<Node> =
            node.map(|labels| serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap());
        let claim = serde_json::from_value(body).unwrap();
        choose(&claim, &volumes, node.as_ref()).map(|v| name(v.as_ref()).to_owned())
    }

    #[test]
    fn the_smallest_that_suits_is_chosen() {
        let size = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        for (claim, node, want) in [
            (json!({}), None, Some("tiny")),
            (size("2Gi"), None, Some("small")),
            (size("6Gi"), None, Some("large")),
            (size("30Gi"), None, None),
            (json!({"metadata": {"name": "mine"}}), None, Some("reserved")),
            (json!({"spec": {"volumeMode": "Block"}}), None, Some("block")),
            (json!({"spec": {"storageClassName": null}}), None, Some("classless")),
            (json!({"spec": {"accessModes": ["ReadWriteMany"]}}), None, None),
            (json!({"spec": {"selector": {"matchLabels": {"disk": "large"}}}}), None, Some("large")),
            (json!({"spec": {"selector": {"matchLabels": {"disk": "none"}}}}), None, None),
            (json!({}), Some(json!({"zone": "a"})), Some("small")),
            (json!({}), Some(json!({"zone": "c"})), Some("large")),
        ] {
            assert_eq!(chosen(claim.clone(), node).as_deref(), want, "{claim}");
        }
    }

    #[test]
    fn a_volume_of_a_claim_that_is_gone_is_not_given_to_its_namesake() {
        let old = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "old"}}});
        let claim =
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "new"}})).unwrap();
        assert_eq!(held(&volume("v", "1Gi", old), &claim), Held::ByAnother);
        let same = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "new"}}});
        assert_eq!(held(&volume("v", "1Gi", same), &claim), Held::ByIt);
    }
}
