//! The store's counters.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Commands in a group; the upper ones show that the disk is the bottleneck.
const GROUP_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// What the store counts. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Transactions committed, each with one sync of the log.
    pub syncs: Counter,
    /// Commands in each transaction.
    pub group: Histogram,
    /// Commands that wait for the writer.
    pub queue: Gauge,
    /// Bytes of all rows.
    pub bytes: Gauge,
    /// Droppable reports that were dropped to make room.
    pub dropped: Counter,
    /// Commands refused because there was no room.
    pub full: Counter,
    /// 1 while the disk is full.
    pub disk_full: Gauge,
    /// Damaged or outdated files that were set aside.
    pub set_aside: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            syncs: Counter::default(),
            group: Histogram::new(GROUP_BUCKETS),
            queue: Gauge::default(),
            bytes: Gauge::default(),
            dropped: Counter::default(),
            full: Counter::default(),
            disk_full: Gauge::default(),
            set_aside: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counters that are shown by `registry`, under `store_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("store");
        registry.register("sync", "Transactions committed and synced to disk", metrics.syncs.clone());
        registry.register("group_size", "Commands in one transaction", metrics.group.clone());
        registry.register("queue_depth", "Commands waiting for the writer", metrics.queue.clone());
        registry.register_with_unit("rows", "Size of all rows", Unit::Bytes, metrics.bytes.clone());
        registry.register("dropped_reports", "Reports dropped to make room", metrics.dropped.clone());
        registry.register("refused_full", "Commands refused for lack of room", metrics.full.clone());
        registry.register("disk_full", "1 while the disk is full", metrics.disk_full.clone());
        registry.register("set_aside", "Database files set aside as damaged or outdated", metrics.set_aside.clone());
        metrics
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_stable() {
        let mut registry = Registry::with_prefix("skerry");
        let metrics = Metrics::new(&mut registry);
        metrics.syncs.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "skerry_store_sync_total 1",
            "skerry_store_group_size_count",
            "skerry_store_queue_depth",
            "skerry_store_rows_bytes",
            "skerry_store_dropped_reports_total",
            "skerry_store_refused_full_total",
            "skerry_store_disk_full",
            "skerry_store_set_aside_total",
        ] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }
}
