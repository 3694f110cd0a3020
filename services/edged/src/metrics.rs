//! The counters of this crate, as one struct.
//!
//! Registered once at start; every task counts. Names begin with `skerry_edged_`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::probe::ProbeLabels;

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) pods: Gauge,
    pub(crate) containers_started: Counter,
    pub(crate) start_failures: Counter,
    pub(crate) sandboxes_created: Counter,
    pub(crate) runtime_errors: Counter,
    pub(crate) objects_refused: Counter,
    pub(crate) reports_rejected: Counter,
    pub(crate) hub_reconnects: Counter,
    pub(crate) probes: Family<ProbeLabels, Counter>,
    pub(crate) evictions: Counter,
    pub(crate) images_removed: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("pods", "Pods that have a worker", metrics.pods.clone());
        registry.register("containers_started", "Containers started", metrics.containers_started.clone());
        registry.register("container_start_failures", "Container starts that failed", metrics.start_failures.clone());
        registry.register("sandboxes_created", "Pod sandboxes created", metrics.sandboxes_created.clone());
        registry.register("runtime_errors", "Calls to the runtime that failed", metrics.runtime_errors.clone());
        registry.register("objects_refused", "Objects that could not be taken", metrics.objects_refused.clone());
        registry.register("reports_rejected", "Reports that edgehub refused", metrics.reports_rejected.clone());
        registry.register("hub_reconnects", "Connections to edgehub that ended", metrics.hub_reconnects.clone());
        registry.register("prober_probe", "Probes of containers by type and result", metrics.probes.clone());
        registry.register("evictions", "Pods evicted by the node", metrics.evictions.clone());
        registry.register("images_removed", "Unused images removed", metrics.images_removed.clone());
        metrics
    }
}
