//! EdgeHub's metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// Counters of EdgeHub.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connected: Gauge,
    pub(crate) sessions: Counter,
    pub(crate) upserts: Counter,
    pub(crate) tombstones: Counter,
    pub(crate) bodies_refused: Counter,
    pub(crate) reports_committed: Counter,
    pub(crate) reports_rejected: Counter,
    pub(crate) certificate_seconds_left: Gauge,
    pub(crate) renewals_failed: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let m = Self::default();
        registry.sub("edgehub", |r| {
            r.register("connected", "Whether the hub is connected", m.connected.clone());
            r.register("sessions", "Sessions with a hub", m.sessions.clone());
            r.register("upserts", "Objects stored", m.upserts.clone());
            r.register("tombstones", "Objects deleted by a tombstone", m.tombstones.clone());
            r.register("bodies_refused", "Objects refused because of their body", m.bodies_refused.clone());
            r.register("reports_committed", "Reports that the cloud has", m.reports_committed.clone());
            r.register("reports_rejected", "Reports that the cloud rejected", m.reports_rejected.clone());
            r.register(
                "certificate_seconds_left",
                "Life that is left of the node's certificate",
                m.certificate_seconds_left.clone(),
            );
            r.register("renewals_failed", "Attempts to renew the certificate that failed", m.renewals_failed.clone());
        });
        m
    }
}
