//! The store's limits, each with its reason.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Metrics;

/// Bytes of rows. A node with 100 pods and 5,000 Services needs about 30 MiB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of droppable reports: a day of a busy node's events.
const MAX_EVENT_BYTES: u64 = 16 * 1024 * 1024;

/// Number of droppable reports; more would only repeat themselves.
const MAX_EVENTS: u64 = 20_000;

/// The API server takes objects of 1.5 MiB, so every object fits.
pub(crate) const MAX_ROW: u64 = 2 * 1024 * 1024;

/// Commands waiting for the writer. At 1,000 commits a second this is a quarter of a second.
const QUEUE: usize = 256;

/// Commands in one transaction: enough to hide the cost of a sync, few enough to stay below 100 ms.
const GROUP: usize = 128;

/// Read-only connections: one for long lists, one for single reads.
const READERS: usize = 2;

/// What is given back when the disk is full: room for the log of some hundred deletions.
const BALLAST: u64 = 1024 * 1024;

/// How the store behaves. `Default` is right for a node.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Most bytes of all rows together.
    pub max_bytes: u64,
    /// Most bytes of droppable reports.
    pub max_event_bytes: u64,
    /// Most droppable reports.
    pub max_events: u64,
    /// Commands that may wait for the writer; further callers wait their turn.
    pub queue: usize,
    /// Commands in one transaction.
    pub group: usize,
    /// Read-only connections.
    pub readers: usize,
    /// Size of the ballast file in bytes; 0 turns it off.
    pub ballast: u64,
    /// Where the store counts.
    pub metrics: Metrics,
    /// The wall clock in milliseconds since the epoch; only session numbers depend on it.
    pub clock_ms: fn() -> u64,
    /// The control of the power-loss tests: what must be seen to lose data.
    #[cfg(test)]
    pub(crate) weak_sync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_bytes: MAX_BYTES,
            max_event_bytes: MAX_EVENT_BYTES,
            max_events: MAX_EVENTS,
            queue: QUEUE,
            group: GROUP,
            readers: READERS,
            ballast: BALLAST,
            metrics: Metrics::default(),
            clock_ms: system_ms,
            #[cfg(test)]
            weak_sync: false,
        }
    }
}

fn system_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
