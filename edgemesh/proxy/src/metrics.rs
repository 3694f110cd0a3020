//! The proxy's metrics, under `skerry_mesh_proxy`. Labels are names that this crate's code lists.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// Why or how something ended. The values are fixed lists in the code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// Which way bytes went, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Way {
    pub(crate) way: &'static str,
}

/// Counters of one proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) ended: Family<Reason, Counter>,
    pub(crate) shed: Counter,
    pub(crate) refused: Family<Reason, Counter>,
    pub(crate) wrong_passwords: Counter,
    pub(crate) attempts_failed: Family<Reason, Counter>,
    pub(crate) bytes: Family<Way, Counter>,
    pub(crate) flows: Gauge,
    pub(crate) flows_ended: Family<Reason, Counter>,
    pub(crate) datagrams_up: Counter,
    pub(crate) datagrams_down: Counter,
    pub(crate) datagrams_dropped: Family<Reason, Counter>,
    pub(crate) streams: Gauge,
    pub(crate) streams_ended: Family<Reason, Counter>,
    pub(crate) streams_refused: Family<Reason, Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let m = Self::default();
        registry.sub("mesh_proxy", |r| {
            r.register("connections", "Connections now", m.connections.clone());
            r.register("connections_ended", "Connections that were served and ended, by how", m.ended.clone());
            r.register("connections_shed", "Connections over the limit, reset at once", m.shed.clone());
            r.register("refused", "Flows that nobody serves, by reason", m.refused.clone());
            r.register("wrong_passwords", "Clients of SOCKS5 that named themselves wrongly", m.wrong_passwords.clone());
            r.register("attempts_failed", "Attempts to reach an endpoint that failed", m.attempts_failed.clone());
            r.register("bytes", "Bytes of connections and flows that ended, by direction", m.bytes.clone());
            r.register("flows", "UDP flows now", m.flows.clone());
            r.register("flows_ended", "UDP flows that were served and ended, by how", m.flows_ended.clone());
            r.register("datagrams_up", "Datagrams towards backends", m.datagrams_up.clone());
            r.register("datagrams_down", "Datagrams towards clients", m.datagrams_down.clone());
            r.register("datagrams_dropped", "Datagrams dropped, by reason", m.datagrams_dropped.clone());
            r.register("streams", "Streams of other nodes now", m.streams.clone());
            r.register("streams_ended", "Streams of other nodes that were served and ended", m.streams_ended.clone());
            r.register("streams_refused", "Streams of other nodes refused", m.streams_refused.clone());
        });
        m
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.datagrams_dropped.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn bytes(&self, up: u64, down: u64) {
        self.bytes.get_or_create(&Way { way: "up" }).inc_by(up);
        self.bytes.get_or_create(&Way { way: "down" }).inc_by(down);
    }
}
