//! Metrics and typed events of what the controllers share, under each controller's own prefix.
//!
//! Built once by a controller's `build`; every part has a clone of the `Arc`. Labels come from closed sets of
//! ours only: node and object names are never labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::{Event, Registry};

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// As on the wire.
    pub kind: &'static str,
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
#[derive(Debug, Default)]
pub struct Metrics {
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
    pub(crate) subscriptions: Gauge,
    /// Keys that wait to be asked for by name.
    pub unproven: Gauge,
    /// Tasks that ended by a panic.
    pub panics: Counter,
}

impl Metrics {
    /// Registers everything under `skerry_<prefix>_`.
    pub fn new(registry: &Registry, prefix: &str) -> Self {
        let metrics = Self::default();
        registry.sub(prefix, |r| {
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
            r.register("unproven", "Keys that wait to be asked for by name", metrics.unproven.clone());
            r.register("subscriptions", "Open subscriptions", metrics.subscriptions.clone());
            r.register("panics", "Tasks that ended by a panic", metrics.panics.clone());
        });
        metrics
    }

    /// Counts a refusal, by a reason of a closed set.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// A node asked for what is not its own.
#[derive(Debug)]
pub struct Refused<'a> {
    /// Who asked.
    pub node: &'a str,
    /// The kind of the object or report.
    pub what: &'a str,
    /// Which object.
    pub key: &'a str,
    /// Stable.
    pub reason: &'static str,
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
