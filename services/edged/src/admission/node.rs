//! What a pod asks of the node itself: its system, name, labels and taints. Part of [`super`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Taint, Toleration};

use super::{Candidate, Refusal};
use crate::eviction;
use crate::pod::spec::PodExt;
use crate::static_pods;

pub(super) fn going_down(c: &Candidate<'_>) -> Option<Refusal> {
    let text = "Pod was rejected as the node is shutting down.";
    c.going_down.then(|| Refusal::new("NodeShutdown", text))
}

pub(super) fn pressure(c: &Candidate<'_>) -> Option<Refusal> {
    eviction::admit(c.pod, c.pressure).map(|message| Refusal::new(eviction::REASON, message))
}

pub(super) fn system(c: &Candidate<'_>) -> Option<Refusal> {
    let other = c.pod.spec().os.as_ref().is_some_and(|os| os.name != "linux");
    other.then(|| Refusal::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

pub(super) fn name(c: &Candidate<'_>) -> Option<Refusal> {
    let wanted = c.pod.spec().node_name.as_deref().filter(|n| !n.is_empty());
    let other = wanted.is_some_and(|n| n != c.node_name);
    other.then(|| Refusal::predicate("NodeName", "node(s) didn't match the requested node name"))
}

pub(super) fn affinity(c: &Candidate<'_>) -> Option<Refusal> {
    let labels = c.node?.metadata.labels.clone().unwrap_or_default();
    let selected = c.pod.spec().node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = c.pod.spec().affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    // One term is enough; a term with nothing in it matches nothing.
    let matched = required.is_none_or(|selector| {
        selector.node_selector_terms.iter().any(|term| {
            let expressions = term.match_expressions.as_deref().unwrap_or_default();
            let fields = term.match_fields.as_deref().unwrap_or_default();
            let own = BTreeMap::from([("metadata.name".to_owned(), c.node_name.to_owned())]);
            !(expressions.is_empty() && fields.is_empty())
                && expressions.iter().all(|e| matches(e, &labels))
                && fields.iter().all(|e| matches(e, &own))
        })
    });
    let refused = !selected || !matched;
    refused.then(|| Refusal::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
}

fn matches(wanted: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&wanted.key);
    let list = wanted.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    let both = number(value).zip(number(list.first()));
    match wanted.operator.as_str() {
        "In" => value.is_some_and(|v| list.contains(v)),
        "NotIn" => value.is_none_or(|v| !list.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => both.is_some_and(|(have, limit)| have > limit),
        "Lt" => both.is_some_and(|(have, limit)| have < limit),
        _ => false,
    }
}

/// Only what would end the pod at once; the scheduler has looked at the rest. Static pods stay.
pub(super) fn taints(c: &Candidate<'_>) -> Option<Refusal> {
    if static_pods::is_from_file(c.pod) {
        return None;
    }
    let taints = c.node?.spec.as_ref()?.taints.as_deref()?;
    let tolerations = c.pod.spec().tolerations.as_deref().unwrap_or_default();
    let untolerated = taints
        .iter()
        .any(|t| t.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, t)));
    untolerated.then(|| Refusal::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if toleration.operator.as_deref() == Some("Exists") {
        return key.is_empty() || key == taint.key;
    }
    key == taint.key && text(&toleration.value) == text(&taint.value)
}
