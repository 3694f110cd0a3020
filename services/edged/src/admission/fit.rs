//! Whether what a pod requests is still free on the node. Part of [`super`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Candidate, Refusal};
use crate::resources::{milli, requested_names, total};

/// The resource of which every pod needs one.
const PODS: &str = "pods";

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

/// What a pod requests of a resource.
pub(super) fn requests(pod: &Pod, name: &str) -> i128 {
    if name == PODS { 1 } else { counted(name, total(pod, false, name).unwrap_or(0)) }
}

/// Everything of which too little is left.
pub(super) fn lacks<'a>(
    pod: &'a Pod,
    others: &'a [Arc<Pod>],
    allocatable: &'a BTreeMap<String, Quantity>,
) -> impl Iterator<Item = Lack> + 'a {
    let names = std::iter::once(PODS).chain(requested_names(pod));
    names.filter_map(move |name| {
        let requested = requests(pod, name);
        // What this node does not know at all is a resource of the cluster, not of the node.
        let capacity = allocatable.get(name).and_then(milli).filter(|_| requested > 0).map(|v| counted(name, v))?;
        let used = others.iter().map(|pod| requests(pod, name)).fold(0, i128::saturating_add);
        let lacks = used.saturating_add(requested) > capacity;
        lacks.then(|| Lack { name: name.to_owned(), requested, used, capacity })
    })
}

pub(super) fn lack(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Option<Lack> {
    lacks(pod, others, allocatable).next()
}

pub(super) fn resources(c: &Candidate<'_>) -> Option<Refusal> {
    let Lack { name, requested, used, capacity } = lack(c.pod, c.others, c.allocatable)?;
    let message =
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
    Some(Refusal::new(format!("OutOf{name}"), message))
}
