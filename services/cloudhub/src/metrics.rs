//! The hub's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// Why something was refused. The values are a fixed list in the code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// A service that the hub relays to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Source {
    pub(crate) source: String,
}

/// Counters of the hub.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) sessions: Gauge,
    pub(crate) sessions_started: Counter,
    pub(crate) sessions_ended: Family<Reason, Counter>,
    pub(crate) refused: Family<Reason, Counter>,
    pub(crate) subscriptions: Gauge,
    pub(crate) deltas: Counter,
    pub(crate) reports: Counter,
    pub(crate) source_up: Family<Source, Gauge>,
    pub(crate) joins: Counter,
    pub(crate) joins_refused: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let m = Self::default();
        registry.sub("cloudhub", |r| {
            r.register("sessions", "Node sessions now", m.sessions.clone());
            r.register("sessions_started", "Node sessions begun", m.sessions_started.clone());
            r.register("sessions_ended", "Node sessions ended, by reason", m.sessions_ended.clone());
            r.register("refused", "Requests of nodes that were refused, by reason", m.refused.clone());
            r.register("subscriptions", "Subscriptions of nodes now", m.subscriptions.clone());
            r.register("deltas", "Deltas relayed to nodes", m.deltas.clone());
            r.register("reports", "Reports relayed from nodes", m.reports.clone());
            r.register("source_up", "Whether a source is connected", m.source_up.clone());
            r.register("joins", "Certificates issued for join tokens", m.joins.clone());
            r.register("joins_refused", "Joins that were refused", m.joins_refused.clone());
        });
        m
    }
}
