//! Metrics and typed events of this crate.
//!
//! Built once by `build`; every part has a clone of the `Arc`. Labels come from closed sets of ours only:
//! node and object names are never labels.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use skerry_telemetry::{Event, Registry};

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    pub(crate) kind: &'static str,
}

/// Something refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

/// A call of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ApiLabel {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    /// HTTP status; 0 when there was none.
    pub(crate) code: u16,
}

/// All counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) changes_in: Family<KindLabel, Counter>,
    pub(crate) resyncs: Family<KindLabel, Counter>,
    pub(crate) delivered: Family<KindLabel, Counter>,
    pub(crate) acked: Family<KindLabel, Counter>,
    pub(crate) nacked: Family<KindLabel, Counter>,
    pub(crate) oversize: Family<KindLabel, Counter>,
    pub(crate) reports: Family<KindLabel, Counter>,
    pub(crate) committed: Family<KindLabel, Counter>,
    pub(crate) retried: Family<KindLabel, Counter>,
    pub(crate) refused: Family<ReasonLabel, Counter>,
    pub(crate) api_requests: Family<ApiLabel, Counter>,
    pub(crate) confirmations: Family<ReasonLabel, Counter>,
    pub(crate) tokens_minted: Counter,
    pub(crate) nodes: Gauge,
    pub(crate) unproven: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) lease_latency: Histogram,
    pub(crate) lease_lag: Histogram,
    pub(crate) panics: Counter,
    pub(crate) certificates: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers everything under `skerry_edgecontroller_`.
    pub(crate) fn new(registry: &Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let metrics = Self {
            changes_in: Family::default(),
            resyncs: Family::default(),
            delivered: Family::default(),
            acked: Family::default(),
            nacked: Family::default(),
            oversize: Family::default(),
            reports: Family::default(),
            committed: Family::default(),
            retried: Family::default(),
            refused: Family::default(),
            api_requests: Family::default(),
            confirmations: Family::default(),
            tokens_minted: Counter::default(),
            nodes: Gauge::default(),
            unproven: Gauge::default(),
            subscriptions: Gauge::default(),
            lease_latency: seconds(),
            lease_lag: seconds(),
            panics: Counter::default(),
            certificates: Gauge::default(),
        };
        registry.sub("edgecontroller", |r| {
            r.register("changes_in", "Changes that the Kubernetes API told of", metrics.changes_in.clone());
            r.register("resync", "Lists that were started again", metrics.resyncs.clone());
            r.register("delivered", "Objects and tombstones sent", metrics.delivered.clone());
            r.register("acked", "Objects and tombstones that nodes have durably", metrics.acked.clone());
            r.register("nacked", "Objects that nodes could not store", metrics.nacked.clone());
            r.register("oversize", "Objects too large to send", metrics.oversize.clone());
            r.register("reports", "Reports received", metrics.reports.clone());
            r.register("committed", "Reports that are in the Kubernetes API", metrics.committed.clone());
            r.register("retried", "Reports answered with retry-later", metrics.retried.clone());
            r.register("refused", "Requests and reports refused", metrics.refused.clone());
            r.register("api_requests", "Calls of the Kubernetes API", metrics.api_requests.clone());
            r.register("confirmations", "Absent keys that were asked for by name", metrics.confirmations.clone());
            r.register("tokens_minted", "Service account tokens minted", metrics.tokens_minted.clone());
            r.register("nodes", "Nodes that are connected", metrics.nodes.clone());
            r.register("unproven", "Keys that wait to be asked for by name", metrics.unproven.clone());
            r.register("subscriptions", "Open subscriptions", metrics.subscriptions.clone());
            r.register("lease_seconds", "Time of one lease renewal", metrics.lease_latency.clone());
            r.register("lease_lag_seconds", "How late a lease renewal began", metrics.lease_lag.clone());
            r.register("panics", "Tasks that ended by a panic", metrics.panics.clone());
            r.register("cert_seconds_left", "Life left of the service certificate", metrics.certificates.clone());
        });
        metrics
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// A node asked for what is not its own.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) node: &'a str,
    pub(crate) what: &'a str,
    pub(crate) key: &'a str,
    pub(crate) reason: &'static str,
}

impl Event for Refused<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::warn!(node = self.node, what = self.what, key = self.key, reason = self.reason, "refused");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.refuse(self.reason);
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
