//! Quantities, quality-of-service classes, and what they mean for control groups. Pure.
//!
//! Used when containers and sandboxes are configured, by the status, by downward API fields and by
//! the node's capacity. Formulas and limits are the kubelet's. A quantity that cannot be read counts
//! as absent: the API server has checked it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skerry_common::quantity;
use skerry_proto::cri::v1::{HugepageLimit, LinuxContainerResources};

use crate::pod::spec::{PodExt, is_sidecar};

/// The kernel's smallest share and smallest quota, and the period of a quota in µs.
pub(crate) const MIN_SHARES: i64 = 2;
pub(crate) const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_US: i64 = 1_000;
pub(crate) const PERIOD_US: i64 = 100_000;
/// What the kernel adds to the badness of a process that is to be killed last.
const GUARANTEED_OOM_SCORE: i64 = -997;
/// Priorities of `system-cluster-critical` and above.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A quantity in thousandths: enough for CPU, and exact for bytes.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    quantity::scaled(&quantity.0, 1000)
}

/// A quantity in whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    quantity::units(&quantity.0)
}

/// Quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What of the node decides about the limits of its containers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeResources {
    /// Memory of the machine in bytes.
    pub(crate) memory_capacity: i64,
    /// Sizes of huge pages that the kernel offers, as control groups name them: `2MB`.
    pub(crate) huge_pages: Vec<String>,
    /// Control groups are version 2.
    pub(crate) unified: bool,
    /// The kernel limits swap per control group (version 2).
    pub(crate) swap_limits: bool,
    /// Requests of memory are guaranteed, and use above them is throttled from this part of the way to the
    /// limit on (version 2).
    pub(crate) memory_throttling: Option<f64>,
}

/// `memory.high` is a whole number of these; the kernel rounds otherwise.
const PAGE_BYTES: i64 = 4096;

fn listed(resources: Option<&ResourceRequirements>, limit: bool, name: &str) -> Option<i128> {
    let resources = resources?;
    let map = if limit { resources.limits.as_ref() } else { resources.requests.as_ref() };
    map?.get(name).and_then(milli).filter(|v| *v > 0)
}

fn amount(container: &Container, limit: bool, name: &str) -> Option<i128> {
    listed(container.resources.as_ref(), limit, name)
}

/// A request, which defaults to the limit.
fn request(container: &Container, name: &str) -> Option<i128> {
    amount(container, false, name).or_else(|| amount(container, true, name))
}

/// A request or limit of the pod as a whole, where the user gave one.
fn of_pod_itself(pod: &Pod, limit: bool, name: &str) -> Option<i128> {
    let resources = pod.spec().resources.as_ref();
    listed(resources, limit, name).or_else(|| listed(resources, true, name).filter(|_| !limit))
}

fn bytes(milli: i128) -> i64 {
    i64::try_from(milli / 1000).unwrap_or(i64::MAX)
}

/// The class of a pod: Guaranteed when every container has equal CPU and memory requests and limits,
/// BestEffort when none has any. Resources of the pod as a whole decide alone where they are given.
pub(crate) fn qos(pod: &Pod) -> Qos {
    const NAMES: [&str; 2] = ["cpu", "memory"];
    let classify = |any: bool, equal: bool| match (any, equal) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    };
    let limited = |name: &&str| of_pod_itself(pod, true, name);
    if NAMES.iter().any(|n| of_pod_itself(pod, false, n).is_some()) {
        let equal = |n: &&str| limited(n).is_some() && of_pod_itself(pod, false, n) == limited(n);
        return classify(true, NAMES.iter().all(equal));
    }
    let all = || pod.containers().iter().chain(pod.init_containers());
    let any = all().any(|c| NAMES.iter().any(|r| request(c, r).is_some()));
    let equal =
        all().all(|c| NAMES.iter().all(|r| amount(c, true, r).is_some() && request(c, r) == amount(c, true, r)));
    classify(any, equal)
}

/// What the pod's containers need of a resource at any time, in thousandths: all containers and sidecars
/// together, or one init container with the sidecars before it, whichever is more. `None`: nothing is
/// said about it.
fn sum(pod: &Pod, limit: bool, name: &str) -> Option<i128> {
    let add = |a: Option<i128>, b: Option<i128>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    let value = |c: &Container| if limit { amount(c, true, name) } else { request(c, name) };
    let (mut running, mut starting) = (None, None);
    for container in pod.init_containers() {
        if is_sidecar(container) {
            running = add(running, value(container));
            starting = running.max(starting);
        } else {
            starting = add(running, value(container)).max(starting);
        }
    }
    for container in pod.containers() {
        running = add(running, value(container));
    }
    of_pod_itself(pod, limit, name).or(running.max(starting))
}

/// What the pod needs at any time as [`sum`] says, and the overhead of its RuntimeClass.
pub(crate) fn total(pod: &Pod, limit: bool, name: &str) -> Option<i128> {
    let overhead = overhead(pod, name);
    match sum(pod, limit, name) {
        Some(sum) => Some(sum.saturating_add(overhead.unwrap_or(0))),
        // Overhead alone does not make a limit.
        None => overhead.filter(|_| !limit),
    }
}

/// Whether the pod as a whole, or each of its containers, has a limit: only then the sum is one.
pub(crate) fn is_limited(pod: &Pod, name: &str) -> bool {
    of_pod_itself(pod, true, name).is_some()
        || pod.containers().iter().chain(pod.init_containers()).all(|c| amount(c, true, name).is_some())
}

/// Names of resources that the pod's containers or the pod itself request.
pub(crate) fn requested_names(pod: &Pod) -> BTreeSet<&str> {
    let all = pod.containers().iter().chain(pod.init_containers()).map(|c| c.resources.as_ref());
    let maps = all.chain([pod.spec().resources.as_ref()]).flatten().flat_map(|r| [&r.requests, &r.limits]);
    maps.flatten().flat_map(|m| m.keys().map(String::as_str)).collect()
}

/// CPU shares of version 1 for thousandths of a CPU.
pub(crate) fn shares(milli_cpu: i128) -> i64 {
    let shares = milli_cpu.saturating_mul(1024) / 1000;
    i64::try_from(shares).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

/// Quota in µs of a period for thousandths of a CPU.
pub(crate) fn quota(milli_cpu: i128) -> i64 {
    let quota = milli_cpu.saturating_mul(i128::from(PERIOD_US)) / 1000;
    i64::try_from(quota).unwrap_or(i64::MAX).max(MIN_QUOTA_US)
}

/// The size of huge pages that a resource is about, as control groups name it: `hugepages-2Mi` is `2MB`.
pub(crate) fn huge_page_size(resource: &str) -> Option<String> {
    let size = units(&Quantity(resource.strip_prefix("hugepages-")?.to_owned())).filter(|s| *s > 0)?;
    let (mut size, mut unit) = (size / 1024, "KB");
    for larger in ["MB", "GB"] {
        if size >= 1024 {
            (size, unit) = (size / 1024, larger);
        }
    }
    Some(format!("{size}{unit}"))
}

/// The limits of one container.
pub(crate) fn of_container(pod: &Pod, container: &Container, node: &NodeResources) -> LinuxContainerResources {
    let limit = amount(container, true, "cpu");
    let memory = amount(container, true, "memory").map_or(0, bytes);
    let limits = || container.resources.iter().flat_map(|r| r.limits.iter().flatten());
    let pages = |size: &String| HugepageLimit {
        page_size: size.clone(),
        // What is not asked for is forbidden.
        limit: limits()
            .find(|(name, _)| huge_page_size(name).as_ref() == Some(size))
            .and_then(|(_, q)| u64::try_from(units(q)?).ok())
            .unwrap_or(0),
    };
    LinuxContainerResources {
        cpu_shares: shares(request(container, "cpu").unwrap_or(0)),
        cpu_period: if limit.is_some() { PERIOD_US } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        memory_limit_in_bytes: memory,
        // Without swap for containers: the limit of memory and swap together is the same.
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom_score_adj(pod, container, node.memory_capacity),
        hugepage_limits: node.huge_pages.iter().map(pages).collect(),
        unified: unified(pod, container, node),
        ..LinuxContainerResources::default()
    }
}

/// Files of version 2 that have no field of their own in the runtime's interface.
fn unified(pod: &Pod, container: &Container, node: &NodeResources) -> HashMap<String, String> {
    let mut files = HashMap::new();
    if node.unified && node.swap_limits {
        files.insert("memory.swap.max".to_owned(), "0".to_owned());
    }
    if let Some(factor) = node.memory_throttling.filter(|_| node.unified) {
        let request = request(container, "memory").map_or(0, bytes);
        if request > 0 {
            files.insert("memory.min".to_owned(), request.to_string());
        }
        // Where limit and request are the same there is nothing to throttle between them.
        if qos(pod) != Qos::Guaranteed {
            let limit = amount(container, true, "memory").map_or(node.memory_capacity, bytes);
            let between = scaled(limit.saturating_sub(request).max(0), factor);
            let high = request.saturating_add(between) / PAGE_BYTES * PAGE_BYTES;
            if high > request {
                files.insert("memory.high".to_owned(), high.to_string());
            }
        }
    }
    files
}

/// A part of some bytes; to a millionth, which is finer than a page.
fn scaled(bytes: i64, factor: f64) -> i64 {
    const PARTS: i128 = 1_000_000;
    #[allow(clippy::cast_possible_truncation, reason = "the configuration allows 0 to 1")]
    let parts = (factor.clamp(0.0, 1.0) * 1e6).round() as i128;
    i64::try_from(i128::from(bytes) * parts / PARTS).unwrap_or(i64::MAX)
}

/// The sum over the containers, for the sandbox; overhead apart.
pub(crate) fn of_pod(pod: &Pod) -> LinuxContainerResources {
    let limit = |name: &str| if is_limited(pod, name) { sum(pod, true, name) } else { None };
    let cpu = limit("cpu");
    LinuxContainerResources {
        cpu_shares: shares(sum(pod, false, "cpu").unwrap_or(0)),
        cpu_period: if cpu.is_some() { PERIOD_US } else { 0 },
        cpu_quota: cpu.map_or(0, quota),
        memory_limit_in_bytes: limit("memory").map_or(0, bytes),
        ..LinuxContainerResources::default()
    }
}

fn overhead(pod: &Pod, name: &str) -> Option<i128> {
    pod.spec().overhead.as_ref()?.get(name).and_then(milli).filter(|v| *v > 0)
}

/// What the pod's RuntimeClass needs beside the containers, for the sandbox.
pub(crate) fn of_overhead(pod: &Pod) -> Option<LinuxContainerResources> {
    let (cpu, memory) = (overhead(pod, "cpu"), overhead(pod, "memory"));
    (cpu.is_some() || memory.is_some()).then(|| LinuxContainerResources {
        cpu_shares: shares(cpu.unwrap_or(0)),
        memory_limit_in_bytes: memory.map_or(0, bytes),
        ..LinuxContainerResources::default()
    })
}

fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let spec = pod.spec();
    let critical = spec.priority_class_name.as_deref() == Some("system-node-critical")
        && spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY);
    match qos(pod) {
        _ if critical => GUARANTEED_OOM_SCORE,
        Qos::Guaranteed => GUARANTEED_OOM_SCORE,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let own = |c: &Container| request(c, "memory").unwrap_or(0);
            let all = || pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c)));
            // What the pod asks for beyond its containers is shared among them.
            let asked: i128 = all().map(own).sum();
            let rest = of_pod_itself(pod, false, "memory").map_or(0, |pod| pod.saturating_sub(asked).max(0));
            let share = rest / i128::try_from(all().count().max(1)).unwrap_or(1);
            let score =
                |request: i128| 1000 - request.saturating_add(share) / 1000 * 1000 / i128::from(memory_capacity.max(1));
            let mut adjust = score(own(container));
            if is_sidecar(container) {
                // A sidecar serves the others: it is not killed before them.
                let least = pod.containers().iter().map(|c| score(own(c))).min();
                adjust = adjust.min(least.unwrap_or(adjust));
            }
            // Above a guaranteed pod, below a pod that asks for nothing.
            i64::try_from(adjust).unwrap_or(999).clamp(1000 + GUARANTEED_OOM_SCORE, 999)
        }
    }
}

/// Requests and limits by `resourceFieldRef`'s names, in units of the divisor, rounded up.
pub(crate) fn field(
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
    allocatable: &BTreeMap<String, Quantity>,
) -> Option<String> {
    let (kind, name) = resource.split_once('.')?;
    let value = match kind {
        // A container without a limit may use all of the node.
        "limits" => amount(container, true, name).or_else(|| allocatable.get(name).and_then(milli))?,
        "requests" => request(container, name).unwrap_or(0),
        _ => return None,
    };
    let divisor = divisor.and_then(milli).filter(|d| *d > 0).unwrap_or(1000);
    Some((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
