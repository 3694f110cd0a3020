//! Which pods matter more: their priority, and those that the node must keep. Pure.
//!
//! Used by eviction, admission and the node's shutdown.

use k8s_openapi::api::core::v1::Pod;

use super::spec::PodExt;

/// Priority of `system-cluster-critical`, from which on pods are critical.
pub(crate) const CRITICAL: i32 = 2_000_000_000;
const SOURCE: &str = "kubernetes.io/config.source";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The priority; pods without one have 0.
pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec().priority.unwrap_or(0)
}

/// Whether the pod comes from a file of this machine, not from the API.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(name));
    annotation(MIRROR).is_some() || annotation(SOURCE).is_some_and(|s| s != "api")
}

/// Whether the node must not end it to help itself.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || priority(pod) >= CRITICAL
}
