//! Whether what a pod requests is still free on the node. Part of [`super`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Candidate, Refusal};
use crate::resources::{milli, requested_names, total};

/// CPU is counted in thousandths, everything else in units.
fn counted(name: &str, milli: i128) -> i128 {
    if name == "cpu" { milli } else { milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0) }
}

/// A resource of which too little is left.
pub(super) struct Lack {
    pub(super) name: String,
    pub(super) requested: i128,
    pub(super) used: i128,
    pub(super) capacity: i128,
}

pub(super) fn lack(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Option<Lack> {
    let capacity = |name: &str| allocatable.get(name).and_then(milli).map(|v| counted(name, v));
    let pods = i128::try_from(others.len()).unwrap_or(i128::MAX);
    if let Some(most) = capacity("pods").filter(|most| pods >= *most) {
        return Some(Lack { name: "pods".into(), requested: 1, used: pods, capacity: most });
    }
    requested_names(pod).into_iter().find_map(|name| {
        let requests = |pod| counted(name, total(pod, false, name).unwrap_or(0));
        let requested = requests(pod);
        // What this node does not know at all is a resource of the cluster, not of the node.
        let capacity = capacity(name).filter(|_| requested > 0)?;
        let used = others.iter().map(|pod| requests(pod)).fold(0, i128::saturating_add);
        let lacks = used.saturating_add(requested) > capacity;
        lacks.then(|| Lack { name: name.to_owned(), requested, used, capacity })
    })
}

pub(super) fn resources(c: &Candidate<'_>) -> Option<Refusal> {
    let Lack { name, requested, used, capacity } = lack(c.pod, c.others, c.allocatable)?;
    let message =
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
    Some(Refusal::new(format!("OutOf{name}"), message))
}
