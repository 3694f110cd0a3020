//! Which pods make way for a critical one that does not fit, as the kubelet chooses them. Pure. Part of
//! [`super`].
//!
//! Pods of the lowest class go first, and of a class those whose requests come nearest to what is missing.
//! What ends anyway is waited for before anybody else is chosen, so that the choice can be repeated until the
//! critical pod fits. Invariant: nobody is chosen when all together would not be enough.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{Candidate, admit, fit};
use crate::pod::failure::Failure;
use crate::pod::priority::is_critical;
use crate::pod::spec::PodExt;
use crate::resources::{Qos, qos};

/// What is missing: names of resources and amounts, in the units of [`fit`].
type Missing = BTreeMap<String, i128>;

/// The pods that have to end before the candidate fits, besides those that do so already (`ending`, by uid).
/// `None`: it is not critical, it is refused for another reason, or there are no such pods.
pub(crate) fn victims(candidate: &Candidate<'_>, ending: &BTreeSet<String>) -> Option<Vec<Arc<Pod>>> {
    let unlimited = BTreeMap::new();
    if !is_critical(candidate.pod) || admit(&Candidate { allocatable: &unlimited, ..*candidate }).is_err() {
        return None;
    }
    let missing: Missing = fit::lacks(candidate.pod, candidate.others, candidate.allocatable)
        .map(|lack| (lack.name, lack.used.saturating_add(lack.requested).saturating_sub(lack.capacity)))
        .collect();
    let (ends, stays): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        candidate.others.iter().partition(|pod| ending.contains(pod.uid()));
    let missing = without(&missing, &ends);
    let of = |class: Qos| -> Vec<&Arc<Pod>> {
        stays.iter().filter(|pod| qos(pod) == class && makes_way(pod, candidate.pod)).copied().collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    // As few as possible of the higher class, given everything of the lower ones.
    let lower = [best_effort.as_slice(), &burstable].concat();
    let guaranteed = nearest(guaranteed, without(&missing, &lower))?;
    let others = [best_effort.as_slice(), &guaranteed].concat();
    let burstable = nearest(burstable, without(&missing, &others))?;
    let others = [burstable.as_slice(), &guaranteed].concat();
    let best_effort = nearest(best_effort, without(&missing, &others))?;
    Some([best_effort, burstable, guaranteed].concat().into_iter().cloned().collect())
}

/// What becomes of such a pod.
pub(crate) fn preempted() -> Failure {
    Failure {
        reason: "Preempting".into(),
        message: "Preempted in order to admit critical pod".into(),
        disruption: Some("Pod was preempted by Kubelet to accommodate a critical pod.".into()),
        ..Failure::default()
    }
}

fn makes_way(pod: &Pod, critical: &Pod) -> bool {
    let lower = pod.spec().priority.zip(critical.spec().priority).is_some_and(|(own, other)| own < other);
    !is_critical(pod) || lower
}

/// What is still missing when these have ended.
fn without(missing: &Missing, pods: &[&Arc<Pod>]) -> Missing {
    let left = missing.iter().map(|(name, amount)| {
        let freed = pods.iter().map(|pod| fit::requests(pod, name)).fold(0, i128::saturating_add);
        (name.clone(), amount.saturating_sub(freed))
    });
    left.filter(|(_, amount)| *amount > 0).collect()
}

/// Takes the pod that comes nearest, until nothing is missing. `None`: all of them are not enough.
fn nearest(mut pods: Vec<&Arc<Pod>>, mut missing: Missing) -> Option<Vec<&Arc<Pod>>> {
    let mut taken = Vec::new();
    while !missing.is_empty() {
        let smaller = |pod: &Pod| ["memory", "cpu"].map(|name| fit::requests(pod, name));
        let order = |a: &Arc<Pod>, b: &Arc<Pod>| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| smaller(a).cmp(&smaller(b)))
        };
        let (at, _) = pods.iter().enumerate().min_by(|(_, a), (_, b)| order(a, b))?;
        let pod = pods.swap_remove(at);
        missing = without(&missing, &[pod]);
        taken.push(pod);
    }
    Some(taken)
}

/// How much would still be missing, each resource as a part of what is missing of it now.
fn distance(missing: &Missing, pod: &Pod) -> f64 {
    let part = |(name, amount): (&String, &i128)| {
        let left = amount.saturating_sub(fit::requests(pod, name)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}
