//! Taints and tolerations, and the taints that the state of a node implies.
//!
//! Pure; used by the scheduler, the DaemonSet controller and the node lifecycle controller.

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint, Toleration};

/// The node says that it is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Nothing is heard of the node.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// A user has cordoned the node.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// No new pods.
pub(crate) const NO_SCHEDULE: &str = "NoSchedule";
/// No new pods if there is a better place.
pub(crate) const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// No new pods, and those that are here must go.
pub(crate) const NO_EXECUTE: &str = "NoExecute";

/// Does `toleration` tolerate `taint`?
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    if set(&toleration.effect).is_some_and(|e| e != taint.effect) {
        return false;
    }
    let key = set(&toleration.key);
    if key.as_ref().is_some_and(|k| *k != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            key.is_some()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The first of `taints` with one of `effects` that nothing tolerates.
pub(crate) fn untolerated<'t>(taints: &'t [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'t Taint> {
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// A taint without value and time.
pub(crate) fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: None }
}

/// The condition of this type.
pub(crate) fn node_condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default().iter().find(|c| c.type_ == type_)
}

/// The NoSchedule taints that a node must have because of its conditions and cordon.
pub(crate) fn implied(node: &Node) -> Vec<Taint> {
    let mut out = Vec::new();
    let status = |type_: &str| node_condition(node, type_).map_or("Unknown", |c| c.status.as_str());
    match status("Ready") {
        "True" => {}
        "False" => out.push(taint(NOT_READY, NO_SCHEDULE)),
        _ if node_condition(node, "Ready").is_none() => out.push(taint(NOT_READY, NO_SCHEDULE)),
        _ => out.push(taint(UNREACHABLE, NO_SCHEDULE)),
    }
    for (type_, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ] {
        if status(type_) == "True" {
            out.push(taint(key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        out.push(taint(UNSCHEDULABLE, NO_SCHEDULE));
    }
    out
}

/// The keys of [`implied`] taints: those that the node lifecycle controller adds and removes.
pub(crate) const MANAGED: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];

/// The taints on the node, and those that its state implies although nobody has written them yet.
pub(crate) fn effective(node: &Node) -> Vec<Taint> {
    let mut out = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    for taint in implied(node) {
        if !out.iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            out.push(taint);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({}), false),
            (json!({"key": "k", "operator": "Like", "value": "v"}), false),
        ] {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn state_implies_taints() {
        let node = |spec, conditions| -> Node {
            serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap()
        };
        let keys = |n: &Node| implied(n).into_iter().map(|t| t.key).collect::<Vec<_>>();
        let ready = |s: &str| json!([{"type": "Ready", "status": s}]);
        assert!(keys(&node(json!({}), ready("True"))).is_empty());
        assert_eq!(keys(&node(json!({}), ready("False"))), [NOT_READY]);
        assert_eq!(keys(&node(json!({}), ready("Unknown"))), [UNREACHABLE]);
        assert_eq!(keys(&node(json!({}), json!([]))), [NOT_READY]);
        assert_eq!(keys(&node(json!({"unschedulable": true}), ready("True"))), [UNSCHEDULABLE]);
        for taint in implied(&node(json!({"unschedulable": true}), ready("False"))) {
            assert!(MANAGED.contains(&taint.key.as_str()));
        }
    }
}
