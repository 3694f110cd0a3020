//! The counters of this crate, as one struct. No label holds a name that was asked for.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module documentation. Names begin with `skerry_dns_`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) answers_cluster: Counter,
    pub(crate) answers_cache: Counter,
    pub(crate) answers_stale: Counter,
    pub(crate) answers_upstream: Counter,
    pub(crate) answers_failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) malformed: Counter,
    pub(crate) limited: Counter,
    pub(crate) busy: Counter,
    pub(crate) unsent: Counter,
    pub(crate) loops: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) prefetches: Counter,
    pub(crate) upstream_queries: Counter,
    pub(crate) upstream_failures: Counter,
    pub(crate) upstream_refusals: Counter,
    pub(crate) tcp_connections: Gauge,
    pub(crate) tcp_refused: Counter,
    pub(crate) cache_entries: Gauge,
    pub(crate) cache_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        let counters = [
            ("answers_cluster", "Answers about the cluster", &m.answers_cluster),
            ("answers_cache", "Answers from the cache", &m.answers_cache),
            ("answers_stale", "Answers from the cache after their time", &m.answers_stale),
            ("answers_upstream", "Answers of a name server", &m.answers_upstream),
            ("answers_failed", "Answers that there is none, because no name server answered", &m.answers_failed),
            ("refused", "Questions that are not answered by their kind", &m.refused),
            ("malformed", "Packets that are no question", &m.malformed),
            ("limited", "Questions of a source that asks too much", &m.limited),
            ("busy", "Questions that found everything in use", &m.busy),
            ("unsent", "Answers that could not be sent", &m.unsent),
            ("loops", "Own questions that came back", &m.loops),
            ("coalesced", "Questions that joined an equal one", &m.coalesced),
            ("prefetches", "Questions asked again before their answer ended", &m.prefetches),
            ("upstream_queries", "Questions sent to name servers", &m.upstream_queries),
            ("upstream_failures", "Questions that a name server did not answer", &m.upstream_failures),
            ("upstream_refusals", "Questions that a name server could not help with", &m.upstream_refusals),
            ("tcp_refused", "TCP connections beyond their limits", &m.tcp_refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("tcp_connections", "Open TCP connections", m.tcp_connections.clone());
        registry.register("cache_entries", "Answers of name servers that are kept", m.cache_entries.clone());
        registry.register("cache_bytes", "Memory of the answers that are kept", m.cache_bytes.clone());
        m
    }
}
