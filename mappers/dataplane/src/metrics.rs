//! What the data plane counts, by kind of sink. No label comes from a device.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use skerry_telemetry::Registry;

/// Label of all counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    /// A name of the closed set of [`crate::route::SinkKey::kind`].
    sink: &'static str,
}

/// Counters of all sinks of a mapper. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    delivered: Family<Kind, Counter>,
    spooled: Family<Kind, Counter>,
    dropped: Family<Kind, Counter>,
    refused: Family<Kind, Counter>,
    failures: Family<Kind, Counter>,
}

impl Metrics {
    /// Registered under `mapper_dataplane`.
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        registry.sub("mapper_dataplane", |r| {
            r.register("delivered", "Values that a sink has taken", metrics.delivered.clone());
            r.register("spooled", "Values that waited on disk for a sink", metrics.spooled.clone());
            r.register("dropped", "Values that no room was left for, the oldest first", metrics.dropped.clone());
            r.register("refused", "Values that a sink will never take", metrics.refused.clone());
            r.register("failures", "Attempts that a sink did not answer", metrics.failures.clone());
        });
        metrics
    }

    /// Those of one kind of sink.
    pub(crate) fn of(&self, sink: &'static str) -> SinkMetrics {
        let kind = Kind { sink };
        SinkMetrics {
            delivered: self.delivered.get_or_create_owned(&kind),
            spooled: self.spooled.get_or_create_owned(&kind),
            dropped: self.dropped.get_or_create_owned(&kind),
            refused: self.refused.get_or_create_owned(&kind),
            failures: self.failures.get_or_create_owned(&kind),
        }
    }
}

/// Counters of one kind of sink.
#[derive(Debug, Clone, Default)]
pub(crate) struct SinkMetrics {
    pub(crate) delivered: Counter,
    pub(crate) spooled: Counter,
    pub(crate) dropped: Counter,
    pub(crate) refused: Counter,
    pub(crate) failures: Counter,
}
