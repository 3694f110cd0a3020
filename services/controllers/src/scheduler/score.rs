//! Which of the nodes that can take a pod is the best.
//!
//! Pure. The weights are Kubernetes': soft taints 3, preferred node affinity 2, spreading the pods of one
//! owner 2, free resources 1; each part is 0 to [`FULL`] over the candidates.

use k8s_openapi::api::core::v1::PodSpec;

use super::model::NodeState;
use super::need::Need;
use crate::labels::node_term_matches;
use crate::taints::{PREFER_NO_SCHEDULE, tolerates};

/// Best score of one part. Finer than a percent, so that small pods spread evenly over large nodes.
const FULL: i64 = 10_000;

/// Free share of cpu and memory after placing the pod, 0 to [`FULL`].
fn least_allocated(need: &Need, state: &NodeState) -> i64 {
    let part = |have: i64, used: i64| {
        if have <= 0 || used >= have { 0 } else { (have - used).saturating_mul(FULL) / have }
    };
    let cpu = part(state.allocatable.cpu, state.scored.0.saturating_add(need.scored.0));
    let memory = part(state.allocatable.memory, state.scored.1.saturating_add(need.scored.1));
    (cpu + memory) / 2
}

fn preferred(spec: &PodSpec, state: &NodeState) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let labels = state.node.as_ref().and_then(|n| n.metadata.labels.as_ref());
    terms
        .unwrap_or_default()
        .iter()
        .filter(|t| node_term_matches(&t.preference, &state.name, labels))
        .map(|t| i64::from(t.weight))
        .sum()
}

fn soft_taints(spec: &PodSpec, state: &NodeState) -> i64 {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let soft = state.taints.iter().filter(|t| t.effect == PREFER_NO_SCHEDULE);
    let count = soft.filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint))).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn siblings(need: &Need, state: &NodeState) -> i64 {
    need.owner.as_ref().and_then(|o| state.owners.get(o)).map_or(0, |n| i64::from(*n))
}

/// The best of `candidates` (which must be able to take the pod). Among equals the first wins; the
/// caller rotates where it starts.
pub(crate) fn best<'m>(spec: &PodSpec, need: &Need, candidates: &[&'m NodeState]) -> Option<&'m NodeState> {
    let raw: Vec<[i64; 3]> =
        candidates.iter().map(|n| [soft_taints(spec, n), preferred(spec, n), siblings(need, n)]).collect();
    let mut most = [0_i64; 3];
    for parts in &raw {
        for (m, p) in most.iter_mut().zip(parts) {
            *m = (*m).max(*p);
        }
    }
    let [most_taints, most_preferred, most_siblings] = most;
    let share = |value: i64, most: i64, when_none: i64| if most == 0 { when_none } else { value * FULL / most };
    let mut best: Option<(i64, &NodeState)> = None;
    for (node, [taints, wanted, mates]) in candidates.iter().zip(raw) {
        let score = 3 * (FULL - share(taints, most_taints, 0))
            + 2 * share(wanted, most_preferred, 0)
            + 2 * (FULL - share(mates, most_siblings, 0))
            + least_allocated(need, node);
        if best.is_none_or(|(top, _)| score > top) {
            best = Some((score, node));
        }
    }
    best.map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::super::model::Model;
    use super::*;
    use serde_json::{Value, json};
    use skerry_common::Key;
    use std::sync::Arc;

    fn pick(nodes: &[Value], placed: &[(&str, Value)], pod: Value) -> String {
        let mut model = Model::default();
        for node in nodes {
            let mut base = json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi"},
                "conditions": [{"type": "Ready", "status": "True"}]}});
            json_patch::merge(&mut base, node);
            model.set_node(&Arc::new(serde_json::from_value(base).unwrap()));
        }
        for (i, (node, pod)) in placed.iter().enumerate() {
            model.place(
                &Key::new("ns", format!("p{i}")),
                node,
                Need::of(&serde_json::from_value(pod.clone()).unwrap()),
            );
        }
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
        let all: Vec<_> = model.nodes().iter().collect();
        best(pod.spec.as_ref().unwrap(), &Need::of(&pod), &all).unwrap().name.to_string()
    }

    #[test]
    fn table() {
        let a = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}});
        let b = json!({"metadata": {"name": "b"}});
        let owned = |cpu: &str| {
            json!({
            "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "R", "name": "r", "uid": "u", "controller": true}]},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let plain =
            |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let nodes = [a.clone(), b.clone()];
        assert_eq!(pick(&nodes, &[("a", plain("1"))], plain("1")), "b", "the emptier node");
        assert_eq!(pick(&nodes, &[("a", owned("100m")), ("b", plain("2"))], owned("100m")), "b", "away from siblings");
        let mut wish = plain("1");
        wish["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}});
        assert_eq!(pick(&nodes, &[("a", plain("2"))], wish), "a", "preferred affinity");
        let soft = json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        assert_eq!(pick(&[soft, b], &[("b", plain("3"))], plain("1")), "b", "soft taint");
    }
}
