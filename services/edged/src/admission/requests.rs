//! What pods request and what the node has to give. Part of [`super`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Candidate, Refusal};
use crate::pod::spec::{PodExt, is_sidecar};
use crate::resources::milli;

/// What a pod requests of a resource, in thousandths: the containers that run together, or the largest
/// init container with the sidecars before it, whichever is more, and the overhead.
pub(crate) fn requests(pod: &Pod, name: &str) -> i128 {
    let of = |c: &Container| {
        let request = c.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name));
        // The API server writes limits into requests; a file need not.
        let limit = c.resources.as_ref().and_then(|r| r.limits.as_ref()).and_then(|r| r.get(name));
        request.or(limit).and_then(milli).unwrap_or(0).max(0)
    };
    let (mut sidecars, mut init) = (0_i128, 0_i128);
    for c in pod.init_containers() {
        if is_sidecar(c) {
            sidecars = sidecars.saturating_add(of(c));
            init = init.max(sidecars);
        } else {
            init = init.max(sidecars.saturating_add(of(c)));
        }
    }
    let together = pod.containers().iter().map(of).fold(sidecars, i128::saturating_add);
    let own = pod.spec().resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)).and_then(milli);
    let overhead = pod.spec().overhead.as_ref().and_then(|o| o.get(name)).and_then(milli).unwrap_or(0);
    own.unwrap_or_else(|| together.max(init)).saturating_add(overhead)
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
    for name in names(c.pod) {
        let requested = counted(&name, requests(c.pod, &name));
        // What this node does not know at all is a resource of the cluster, not of the node.
        let Some(most) = capacity(&name).filter(|_| requested > 0) else { continue };
        let used = c.others.iter().map(|pod| counted(&name, requests(pod, &name))).fold(0, i128::saturating_add);
        if used.saturating_add(requested) > most {
            return refusal(&name, requested, used, most);
        }
    }
    None
}

fn names(pod: &Pod) -> BTreeSet<String> {
    let containers = pod.containers().iter().chain(pod.init_containers()).filter_map(|c| c.resources.as_ref());
    let lists = containers.chain(&pod.spec().resources).flat_map(|r| [&r.requests, &r.limits]);
    lists.flat_map(|l| l.iter().flat_map(|l| l.keys().cloned())).collect()
}
