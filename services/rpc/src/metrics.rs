//! What servers and clients count. Labels are classes, never names of nodes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// Label: which server and which class of caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServerClass {
    pub(crate) server: &'static str,
    pub(crate) class: &'static str,
}

/// Label: which server and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServerReason {
    pub(crate) server: &'static str,
    pub(crate) reason: &'static str,
}

/// Label: which server, class of caller, and `received` or `sent`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServerBytes {
    pub(crate) server: &'static str,
    pub(crate) class: &'static str,
    pub(crate) direction: &'static str,
}

/// Label: which server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServerName {
    pub(crate) server: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) servers: Gauge,
    pub(crate) connections: Family<ServerClass, Gauge>,
    pub(crate) ended: Family<ServerReason, Counter>,
    pub(crate) handshakes_failed: Family<ServerReason, Counter>,
    pub(crate) accept_errors: Family<ServerName, Counter>,
    pub(crate) refused: Family<ServerReason, Counter>,
    pub(crate) streams: Family<ServerClass, Gauge>,
    pub(crate) requests: Family<ServerClass, Counter>,
    pub(crate) bytes: Family<ServerBytes, Counter>,
    pub(crate) drain_millis: Family<ServerName, Gauge>,
}

/// The counters of all servers of a process. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub(crate) Arc<Inner>);

impl Metrics {
    /// The process's counters, which `registry` prints from now on under `skerry_rpc_`. Services that
    /// run in one process may each call this with the registry that they share.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        static OF_THE_PROCESS: LazyLock<Metrics> = LazyLock::new(Metrics::default);
        let metrics = OF_THE_PROCESS.clone();
        // A registry does not tell what it has, but it prints it. Twice would be malformed.
        if registry.encode().contains("skerry_rpc_servers") {
            return metrics;
        }
        let m = &metrics.0;
        registry.sub("rpc", |r| {
            r.register("servers", "Servers that are serving", m.servers.clone());
            r.register("connections", "Open connections", m.connections.clone());
            r.register("connections_ended", "Connections that ended, by reason", m.ended.clone());
            r.register("handshakes_failed", "Connections that failed before a request", m.handshakes_failed.clone());
            r.register("accept_errors", "Failed accept calls, for example out of descriptors", m.accept_errors.clone());
            r.register("refused", "Requests and connections refused, by reason", m.refused.clone());
            r.register("streams", "Open calls", m.streams.clone());
            r.register("requests", "Calls that reached the authorization table", m.requests.clone());
            r.register("bytes", "Bytes on connections, with TLS", m.bytes.clone());
            r.register("drain_milliseconds", "How long the last drain took", m.drain_millis.clone());
        });
        metrics
    }

    pub(crate) fn drained(&self, server: &'static str, took: Duration) {
        let millis = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        self.0.drain_millis.get_or_create(&ServerName { server }).set(millis);
    }

    pub(crate) fn refuse(&self, server: &'static str, reason: &'static str) {
        self.0.refused.get_or_create(&ServerReason { server, reason }).inc();
    }

    pub(crate) fn handshake_failed(&self, server: &'static str, reason: &'static str) {
        self.0.handshakes_failed.get_or_create(&ServerReason { server, reason }).inc();
    }

    /// Connections refused or failed so far with this reason, for tests and status pages.
    #[must_use]
    pub fn refusals(&self, server: &'static str, reason: &'static str) -> u64 {
        let label = ServerReason { server, reason };
        self.0.refused.get_or_create(&label).get() + self.0.handshakes_failed.get_or_create(&label).get()
    }

    /// Connections that ended so far with this reason, for tests and status pages.
    #[must_use]
    pub fn ended(&self, server: &'static str, reason: &'static str) -> u64 {
        self.0.ended.get_or_create(&ServerReason { server, reason }).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_one_process_share_the_counters() {
        let registry = Registry::new();
        let (first, second) = (Metrics::new(&registry), Metrics::new(&registry));
        first.refuse("one", "rate");
        second.refuse("two", "rate");
        let text = registry.encode();
        assert_eq!(text.matches("# TYPE skerry_rpc_refused").count(), 1, "{text}");
        assert!(text.contains(r#"skerry_rpc_refused_total{server="one",reason="rate"} 1"#), "{text}");
        assert!(text.contains(r#"skerry_rpc_refused_total{server="two",reason="rate"} 1"#), "{text}");
    }
}
