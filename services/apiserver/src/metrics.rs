//! Counters of the API server.
//!
//! Held by the shared state; registered once under `skerry_apiserver_`. Invariant: labels are verbs, codes
//! and reasons from fixed sets, never names from requests. Limits: none. Lost on a crash, as counters are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

/// Verb and status code of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) code: u16,
}

/// What a webhook answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WebhookLabels {
    /// allowed, denied or failed.
    pub(crate) result: &'static str,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) denied: Counter,
    pub(crate) unauthenticated: Counter,
    pub(crate) watchers: Gauge,
    pub(crate) watchers_expired: Counter,
    pub(crate) streams: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) handshakes_failed: Counter,
    pub(crate) webhooks: Family<WebhookLabels, Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let metrics = Self::default();
        registry.sub("apiserver", |r| {
            r.register("requests", "Requests by verb and code", metrics.requests.clone());
            r.register("denied", "Requests that no rule allows", metrics.denied.clone());
            r.register("unauthenticated", "Requests without a good credential", metrics.unauthenticated.clone());
            r.register("watchers", "Open watches", metrics.watchers.clone());
            r.register(
                "watchers_expired",
                "Watches ended because they were too slow",
                metrics.watchers_expired.clone(),
            );
            r.register("streams", "Open streams to kubelets", metrics.streams.clone());
            r.register("connections", "Open connections", metrics.connections.clone());
            r.register("webhooks", "Answers of admission webhooks by result", metrics.webhooks.clone());
            r.register("handshakes_failed", "TLS handshakes that failed", metrics.handshakes_failed.clone());
        });
        metrics
    }
}
