//! The edge store: what a node knows and has yet to say, on SQLite.
//!
//! EdgeHub owns it; the other services of the node reach it through EdgeHub. It keeps the objects that
//! the cloud sent, the reports that the cloud has not confirmed (the outbox), small named values, and
//! checkpoints of local services.
//!
//! Invariants:
//! - A call that returned `Ok` is on disk: it survives a kill and a power cut.
//! - After a failed write or sync nothing is accepted any more; the process must restart and read again.
//! - What is read back is what was written, or an error: every row carries a checksum.
//! - Control state is never dropped to make room; events are, oldest first, and counted.
//! - Deleting and confirming still work when the disk is full.
//!
//! One thread writes, with group commit; a few read-only connections serve reads. Everything is bounded
//! by [`StoreOptions`].

mod check;
mod connection;
mod disk;
mod error;
mod metrics;
mod ops;
mod options;
mod reader;
mod recover;
mod row;
mod schema;
mod store;
mod types;
mod writer;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use metrics::Metrics;
pub use options::StoreOptions;
pub use store::{Opened, Store};
pub use types::{Change, Health, PendingReport, Queued, Report, StoredObject, Usage};
