//! Which nodes can take a pod, and in Kubernetes' words why the others cannot.
//!
//! Pure. Order as in Kubernetes: the first check that fails gives the reasons for its node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, Toleration};

use super::model::NodeState;
use super::need::Need;
use crate::labels::pod_selects_node;
use crate::taints::{NO_EXECUTE, NO_SCHEDULE, UNSCHEDULABLE, taint, tolerates, untolerated};

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The node is cordoned.
    Cordoned,
    /// A taint (key, value) that the pod does not tolerate.
    Taint(String, String),
    /// nodeSelector or required node affinity.
    Affinity,
    /// A host port is taken.
    Ports,
    /// The node is full: too many pods.
    TooManyPods,
    /// Not enough of this resource.
    Insufficient(String),
    /// No wanted peer is near.
    PodAffinity,
    /// A peer that the pod does not want is near.
    PodAntiAffinity,
    /// A peer that does not want the pod is near.
    ExistingAntiAffinity,
    /// The topology would become too uneven.
    Spread,
    /// The node is in no topology domain.
    SpreadLabel,
}

impl Reason {
    /// Can a pod that leaves a node make room?
    pub(crate) fn waits_for_room(&self) -> bool {
        matches!(self, Self::Ports | Self::TooManyPods | Self::Insufficient(_))
    }

    /// Can other pods, when they come or go, change this?
    pub(crate) fn waits_for_peers(&self) -> bool {
        matches!(self, Self::PodAffinity | Self::PodAntiAffinity | Self::ExistingAntiAffinity | Self::Spread)
    }

    fn text(&self) -> String {
        match self {
            Self::Cordoned => "node(s) were unschedulable".into(),
            Self::Taint(key, value) => format!("node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector".into(),
            Self::Ports => "node(s) didn't have free ports for the requested pod ports".into(),
            Self::TooManyPods => "Too many pods".into(),
            Self::Insufficient(name) => format!("Insufficient {name}"),
            Self::PodAffinity => "node(s) didn't match pod affinity rules".into(),
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules".into(),
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules".into(),
            Self::Spread => "node(s) didn't match pod topology spread constraints".into(),
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)".into(),
        }
    }
}

/// Empty: the node can take the pod.
pub(crate) fn check(spec: &PodSpec, need: &Need, state: &NodeState) -> Vec<Reason> {
    let Some(node) = &state.node else { return vec![Reason::Affinity] };
    let tolerations: &[Toleration] = spec.tolerations.as_deref().unwrap_or_default();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        let cordon = taint(UNSCHEDULABLE, NO_SCHEDULE);
        if !tolerations.iter().any(|t| tolerates(t, &cordon)) {
            return vec![Reason::Cordoned];
        }
    }
    if let Some(taint) = untolerated(&state.taints, tolerations, &[NO_SCHEDULE, NO_EXECUTE]) {
        return vec![Reason::Taint(taint.key.clone(), taint.value.clone().unwrap_or_default())];
    }
    if !pod_selects_node(spec, node) {
        return vec![Reason::Affinity];
    }
    if need.ports.iter().any(|p| state.ports.keys().any(|q| p.conflicts(q))) {
        return vec![Reason::Ports];
    }
    let mut reasons = Vec::new();
    if state.pods >= state.max_pods {
        reasons.push(Reason::TooManyPods);
    }
    let short = |want: i64, have: i64, used: i64| want > 0 && want > have.saturating_sub(used);
    let (want, have, used) = (&need.amounts, &state.allocatable, &state.used);
    if short(want.cpu, have.cpu, used.cpu) {
        reasons.push(Reason::Insufficient("cpu".into()));
    }
    if short(want.memory, have.memory, used.memory) {
        reasons.push(Reason::Insufficient("memory".into()));
    }
    for (name, amount) in &want.other {
        let get = |a: &BTreeMap<std::sync::Arc<str>, i64>| a.get(name).copied().unwrap_or(0);
        if short(*amount, get(&have.other), get(&used.other)) {
            reasons.push(Reason::Insufficient(name.to_string()));
        }
    }
    reasons
}

/// The message of the PodScheduled condition and of the FailedScheduling event.
pub(crate) fn explain(nodes: usize, reasons: impl IntoIterator<Item = Reason>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.text()).or_insert(0) += 1;
    }
    let mut parts: Vec<String> = counts.into_iter().map(|(text, n)| format!("{n} {text}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::super::model::Model;
    use super::*;
    use serde_json::{Value, json};
    use skerry_common::Key;
    use std::sync::Arc;

    fn model(node: Value, pods: &[Value]) -> Model {
        let mut model = Model::default();
        let mut base = json!({
            "metadata": {"name": "n", "labels": {"zone": "a", "kubernetes.io/hostname": "n"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1"},
                       "conditions": [{"type": "Ready", "status": "True"}]}
        });
        json_patch::merge(&mut base, &node);
        model.set_node(&Arc::new(serde_json::from_value(base).unwrap()));
        for (i, spec) in pods.iter().enumerate() {
            let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            model.place(&Key::new("ns", format!("p{i}")), "n", Need::of(&pod));
        }
        model
    }

    fn c(requests: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    #[test]
    fn table() {
        let ok = json!({});
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        let with = |mut spec: Value, key: &str, value: Value| {
            spec[key] = value;
            spec
        };
        let plain = c(json!({}));
        let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let gone = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        let affinity = |value: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]}]}}})
        };
        let insufficient = |n: &str| Reason::Insufficient(n.into());
        for (node, placed, spec, expected) in [
            (ok.clone(), vec![], plain.clone(), vec![]),
            (ok.clone(), vec![], c(json!({"cpu": "2", "memory": "1Gi"})), vec![]),
            (
                ok.clone(),
                vec![],
                c(json!({"cpu": "2001m", "memory": "2Gi"})),
                vec![insufficient("cpu"), insufficient("memory")],
            ),
            (ok.clone(), vec![c(json!({"cpu": "1500m"}))], c(json!({"cpu": "600m"})), vec![insufficient("cpu")]),
            (ok.clone(), vec![c(json!({"cpu": "5"}))], plain.clone(), vec![]),
            (ok.clone(), vec![plain.clone(); 3], plain.clone(), vec![Reason::TooManyPods]),
            (
                ok.clone(),
                vec![c(json!({"example.com/gpu": "1"}))],
                c(json!({"example.com/gpu": "1"})),
                vec![insufficient("example.com/gpu")],
            ),
            (ok.clone(), vec![], c(json!({"example.com/none": "1"})), vec![insufficient("example.com/none")]),
            (ok.clone(), vec![port.clone()], port.clone(), vec![Reason::Ports]),
            (ok.clone(), vec![], with(plain.clone(), "nodeSelector", json!({"zone": "a"})), vec![]),
            (ok.clone(), vec![], with(plain.clone(), "nodeSelector", json!({"zone": "b"})), vec![Reason::Affinity]),
            (ok.clone(), vec![], with(plain.clone(), "affinity", affinity("a")), vec![]),
            (ok.clone(), vec![], with(plain.clone(), "affinity", affinity("b")), vec![Reason::Affinity]),
            (tainted.clone(), vec![], plain.clone(), vec![Reason::Taint("k".into(), "v".into())]),
            (tainted, vec![], with(plain.clone(), "tolerations", json!([{"key": "k", "operator": "Exists"}])), vec![]),
            (soft, vec![], plain.clone(), vec![]),
            (gone, vec![], plain.clone(), vec![Reason::Taint(crate::taints::UNREACHABLE.into(), String::new())]),
            (json!({"spec": {"unschedulable": true}}), vec![], plain.clone(), vec![Reason::Cordoned]),
            (
                json!({"spec": {"unschedulable": true}}),
                vec![],
                with(plain, "tolerations", json!([{"key": UNSCHEDULABLE, "operator": "Exists"}])),
                vec![],
            ),
        ] {
            let model = model(node.clone(), &placed);
            let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let got = check(pod.spec.as_ref().unwrap(), &Need::of(&pod), &model.nodes()[0]);
            assert_eq!(got, expected, "{node} {spec}");
        }
    }

    #[test]
    fn wording_is_that_of_kubernetes() {
        assert_eq!(explain(0, []), "no nodes available to schedule pods");
        assert_eq!(
            explain(1, [Reason::Taint("node.kubernetes.io/unreachable".into(), String::new())]),
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."
        );
        assert_eq!(
            explain(3, [Reason::Insufficient("cpu".into()), Reason::Insufficient("cpu".into()), Reason::Cordoned]),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
    }
}
