//! Whether this node takes a pod, as the kubelet decides it. No IO.
//!
//! The agent asks once for each pod that it has not taken before. A refused pod is Failed with the
//! reason of the first check that says no; nothing of it is ever started. Invariants: a pod that was
//! taken is never asked about again, also not by a later process; what is not known refuses nobody.

mod fit;
mod node;
mod ports;
mod preempt;
mod security;

pub(crate) use preempt::{preempted, victims};

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::eviction::Pressure;
use crate::pod::failure::Failure;
use crate::pod::resize::Pending;
use crate::runtime::app_armor;
use crate::runtime::sysctls::Allowlist;

/// A pod that wants to run here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) pod: &'a Pod,
    /// The pods that this node has taken and that have not ended.
    pub(crate) others: &'a [Arc<Pod>],
    /// The Node as the API has it, once it was seen.
    pub(crate) node: Option<&'a Node>,
    pub(crate) node_name: &'a str,
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
    pub(crate) kernel: &'a Kernel,
    /// What the machine lacks.
    pub(crate) pressure: Pressure,
    pub(crate) going_down: bool,
}

/// What the kernel of this machine does for pods, as far as the operator allows.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) sysctls: Allowlist,
    pub(crate) app_armor: bool,
}

impl Kernel {
    /// # Errors
    /// A text for people about a kernel parameter that cannot be allowed.
    pub(crate) fn new(unsafe_sysctls: &[String]) -> Result<Self, String> {
        Ok(Self { sysctls: Allowlist::new(unsafe_sysctls)?, app_armor: app_armor::is_enabled() })
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `status.reason`, and the reason of the Event.
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// In the words of the scheduler's predicates.
    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// One rule; the first that refuses is told.
type Check = fn(&Candidate<'_>) -> Option<Refusal>;

const CHECKS: [Check; 10] = [
    node::going_down,
    node::pressure,
    security::sysctls,
    node::system,
    fit::resources,
    node::name,
    node::affinity,
    ports::free,
    node::taints,
    security::app_armor,
];

/// See the module documentation.
///
/// # Errors
/// What becomes of the pod.
pub(crate) fn admit(candidate: &Candidate<'_>) -> Result<(), Failure> {
    let Some(refusal) = CHECKS.iter().find_map(|check| check(candidate)) else { return Ok(()) };
    Err(Failure {
        reason: refusal.reason,
        message: format!("Pod was rejected: {}", refusal.message),
        refused: true,
        ..Failure::default()
    })
}

/// Whether a pod that runs here may have what it now wants.
///
/// # Errors
/// Why it has to wait.
pub(crate) fn resize(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Result<(), Pending> {
    let Some(lack) = fit::lack(pod, others, allocatable) else { return Ok(()) };
    let fit::Lack { name, requested, used, capacity } = lack;
    if requested > capacity {
        let message = format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}");
        return Err(Pending { reason: "Infeasible", message });
    }
    let message =
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
    Err(Pending { reason: "Deferred", message })
}

#[cfg(test)]
mod tests;
