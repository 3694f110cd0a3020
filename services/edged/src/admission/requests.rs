//! What pods request and what the node has to give. Part of [`super`].

use k8s_openapi::api::core::v1::Pod;

use super::{Candidate, Refusal};
use crate::resources::{self, milli};

/// What a pod requests of a resource, in thousandths.
pub(crate) fn requests(pod: &Pod, name: &str) -> i128 {
    resources::total(pod, false, name).unwrap_or(0)
}

/// CPU is counted in thousandths, everything else in units.
fn counted(name: &str, milli: i128) -> i128 {
    if name == "cpu" { milli } else { milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0) }
}

pub(super) fn fit(c: &Candidate<'_>) -> Option<Refusal> {
    let refusal = |name: &str, requested: i128, used: i128, capacity: i128| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Some(Refusal::new(format!("OutOf{name}"), message))
    };
    let capacity = |name: &str| c.allocatable.get(name).and_then(milli).map(|v| counted(name, v));
    let pods = i128::try_from(c.others.len()).unwrap_or(i128::MAX);
    if let Some(most) = capacity("pods").filter(|most| pods >= *most) {
        return refusal("pods", 1, pods, most);
    }
    for name in resources::requested_names(c.pod) {
        let requested = counted(name, requests(c.pod, name));
        // What this node does not know at all is a resource of the cluster, not of the node.
        let Some(most) = capacity(name).filter(|_| requested > 0) else { continue };
        let used = c.others.iter().map(|pod| counted(name, requests(pod, name))).fold(0, i128::saturating_add);
        if used.saturating_add(requested) > most {
            return refusal(name, requested, used, most);
        }
    }
    None
}
