//! Metrics and typed events of this crate.
//!
//! Built once by `build`; every part has a clone of the `Arc`. Labels come from closed sets of ours only:
//! node and object names are never labels.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use skerry_telemetry::{Event, Registry};

/// What every name begins with, after `skerry_`.
const PREFIX: &str = "edgecontroller";

/// All counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// What the controllers of the cloud share.
    pub(crate) sync: Arc<skerry_kubesync::Metrics>,
    pub(crate) tokens_minted: Counter,
    pub(crate) nodes: Gauge,
    pub(crate) lease_latency: Histogram,
    pub(crate) lease_lag: Histogram,
    pub(crate) certificates: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers everything under `skerry_edgecontroller_`.
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let metrics = Self {
            sync: Arc::new(skerry_kubesync::Metrics::new(registry, PREFIX)),
            tokens_minted: Counter::default(),
            nodes: Gauge::default(),
            lease_latency: seconds(),
            lease_lag: seconds(),
            certificates: Gauge::default(),
        };
        registry.sub(PREFIX, |r| {
            r.register("tokens_minted", "Service account tokens minted", metrics.tokens_minted.clone());
            r.register("nodes", "Nodes that are connected", metrics.nodes.clone());
            r.register("lease_seconds", "Time of one lease renewal", metrics.lease_latency.clone());
            r.register("lease_lag_seconds", "How late a lease renewal began", metrics.lease_lag.clone());
            r.register("cert_seconds_left", "Life left of the service certificate", metrics.certificates.clone());
        });
        metrics
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.sync.refuse(reason);
    }
}

/// A certificate was issued, or not.
#[derive(Debug)]
pub(crate) struct Issuance<'a> {
    pub(crate) node: &'a str,
    pub(crate) token_id: &'a str,
    pub(crate) remote: &'a str,
    pub(crate) fingerprint: &'a str,
    /// `None`: issued.
    pub(crate) refused: Option<&'static str>,
}

impl Event for Issuance<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        let (node, token, remote, key) = (self.node, self.token_id, self.remote, self.fingerprint);
        match self.refused {
            None => tracing::info!(node, token, remote, key, audit = true, "certificate issued"),
            Some(reason) => tracing::warn!(node, token, remote, reason, audit = true, "certificate refused"),
        }
    }

    fn count(&self, metrics: &Metrics) {
        if let Some(reason) = self.refused {
            metrics.refuse(reason);
        }
    }
}
