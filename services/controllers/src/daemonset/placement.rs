//! On which nodes a DaemonSet runs, and what its pods look like.
//!
//! Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};

use super::HASH;
use crate::labels::pod_selects_node;
use crate::names;
use crate::pods::{from_template, name, node_name};
use crate::taints::{NO_EXECUTE, NO_SCHEDULE, effective, untolerated};

/// May a daemon pod run on a node?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fate {
    /// It should run there.
    pub(super) run: bool,
    /// One that is there already may stay.
    pub(super) keep: bool,
}

/// The tolerations that every daemon pod gets: a daemon runs where nothing else does.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut keys = vec![
        ("node.kubernetes.io/not-ready", NO_EXECUTE),
        ("node.kubernetes.io/unreachable", NO_EXECUTE),
        ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
        ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
    ];
    if spec.host_network == Some(true) {
        keys.push(("node.kubernetes.io/network-unavailable", NO_SCHEDULE));
    }
    let mut out = spec.tolerations.clone().unwrap_or_default();
    out.extend(keys.into_iter().map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Default::default()
    }));
    out
}

/// Should the DaemonSet with this template run on `node`?
pub(super) fn should_run(template: &PodTemplateSpec, node: &Node) -> Fate {
    let default = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&default);
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name(node));
    if !named || !pod_selects_node(spec, node) {
        return Fate { run: false, keep: false };
    }
    // The taints as Kubernetes sees them: a node that is not ready yet gets its daemons all the same,
    // because they may be what makes it ready.
    let tolerations = tolerations(spec);
    let mut taints = effective(node);
    taints.retain(|t| {
        t.effect != NO_SCHEDULE || !matches!(t.key.as_str(), crate::taints::NOT_READY | crate::taints::UNREACHABLE)
    });
    let run = untolerated(&taints, &tolerations, &[NO_SCHEDULE, NO_EXECUTE]).is_none();
    let keep = untolerated(&taints, &tolerations, &[NO_EXECUTE]).is_none();
    Fate { run, keep }
}

/// The node that a daemon pod is bound to or made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field = terms.iter().flat_map(|t| t.match_fields.iter().flatten()).find(|f| f.key == "metadata.name")?;
    field.values.as_ref()?.first().map(String::as_str)
}

/// The pod of `ds` for the node `node`.
pub(super) fn pod_for(ds: &DaemonSet, template: &PodTemplateSpec, hash: &str, node: String) -> Pod {
    let mut pod = from_template(ds, names::generate(name(ds)), template);
    pod.metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        node_affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    // The node was chosen by the template's own terms, so its name says all.
    required.node_selector_terms = vec![NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None }];
    pod
}

/// Which outdated pods go now: those that are not available anyway, then as many as may be missing.
pub(super) fn to_update(outdated: Vec<(Arc<Pod>, bool)>, allowed: i32, unavailable: i32) -> Vec<Arc<Pod>> {
    let (usable, broken): (Vec<_>, Vec<_>) = outdated.into_iter().partition(|(_, available)| *available);
    let room = usize::try_from(allowed - unavailable).unwrap_or(0);
    broken.into_iter().chain(usable.into_iter().take(room)).map(|(pod, _)| pod).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn where_daemons_run() {
        let node = |labels: Value, spec: Value, ready: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}, "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        let taint = |effect: &str| json!({"taints": [{"key": "k", "effect": effect}]});
        let plain = json!({"containers": []});
        let yes = Fate { run: true, keep: true };
        for (n, spec, expected) in [
            (node(json!({}), json!({}), "True"), plain.clone(), yes),
            (node(json!({}), json!({}), "False"), plain.clone(), yes),
            (node(json!({}), json!({"unschedulable": true}), "True"), plain.clone(), yes),
            (node(json!({}), taint("NoSchedule"), "True"), plain.clone(), Fate { run: false, keep: true }),
            (node(json!({}), taint("NoExecute"), "True"), plain.clone(), Fate { run: false, keep: false }),
            (
                node(json!({}), taint("NoExecute"), "True"),
                json!({"containers": [], "tolerations": [{"operator": "Exists"}]}),
                yes,
            ),
            (
                node(json!({"a": "b"}), json!({}), "True"),
                json!({"containers": [], "nodeSelector": {"a": "c"}}),
                Fate { run: false, keep: false },
            ),
        ] {
            let template = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(should_run(&template, &n), expected, "{n:?} {spec}");
        }
    }

    #[test]
    fn a_pod_is_made_for_one_node() {
        let ds: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {}, "template": {"spec": {"containers": []}}}}))
        .unwrap();
        let template = ds.spec.as_ref().unwrap().template.clone();
        let pod = pod_for(&ds, &template, "h", "n".into());
        assert_eq!(target(&pod), Some("n"));
        assert_eq!(pod.metadata.labels.unwrap().get(HASH).unwrap(), "h");
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    }

    #[test]
    fn updates_keep_to_max_unavailable() {
        let pod = |name: &str| {
            Arc::new(Pod { metadata: serde_json::from_value(json!({"name": name})).unwrap(), ..Default::default() })
        };
        let run = |allowed, unavailable| {
            let outdated = vec![(pod("a"), true), (pod("b"), false), (pod("c"), true)];
            to_update(outdated, allowed, unavailable).iter().map(|p| name(p.as_ref()).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(run(1, 1), ["b"]);
        assert_eq!(run(2, 1), ["b", "a"]);
        assert_eq!(run(1, 2), ["b"]);
    }
}
