//! The counters of the controllers.
//!
//! One cheap, cloneable struct; registered by whoever owns the registry of the process.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    controller: &'static str,
    result: &'static str,
}

/// Counters of all controllers; `Metrics::default()` counts without being registered anywhere.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reconciles: Family<ByResult, Counter>,
    queue: Family<ByController, Gauge>,
    bound: Counter,
    unschedulable: Gauge,
    evicted: Counter,
}

impl Metrics {
    /// Registers the counters.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("controllers");
        registry.register("reconciles", "Reconciles by controller and result", metrics.reconciles.clone());
        registry.register("queue_keys", "Keys waiting by controller", metrics.queue.clone());
        registry.register("pods_bound", "Pods bound to a node", metrics.bound.clone());
        registry.register("pods_unschedulable", "Pods that fit on no node now", metrics.unschedulable.clone());
        registry.register("pods_evicted", "Pods deleted because of a NoExecute taint", metrics.evicted.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, controller: &'static str, fine: bool) {
        let result = if fine { "ok" } else { "error" };
        self.reconciles.get_or_create(&ByResult { controller, result }).inc();
    }

    pub(crate) fn queue_len(&self, controller: &'static str, len: usize) {
        self.queue.get_or_create(&ByController { controller }).set(i64::try_from(len).unwrap_or(i64::MAX));
    }

    pub(crate) fn bound(&self) {
        self.bound.inc();
    }

    pub(crate) fn unschedulable(&self, pods: usize) {
        self.unschedulable.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    pub(crate) fn evicted(&self) {
        self.evicted.inc();
    }
}
