//! What goes into the store and comes out of it.
//!
//! Plain values; bodies are opaque bytes with the encoding that the caller chose.

use std::sync::Arc;

use bytes::Bytes;
use skerry_common::{Encoding, Key, Version};

/// One change of an object of the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is now this.
    Upsert {
        /// Its name.
        key: Key,
        /// Its uid.
        uid: Arc<str>,
        /// Its opaque version.
        version: Version,
        /// Its body, as sent.
        body: Bytes,
        /// How the body is encoded.
        encoding: Encoding,
    },
    /// The object is gone.
    Delete {
        /// Its name.
        key: Key,
    },
}

/// An object of the cloud, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name.
    pub key: Key,
    /// Its uid.
    pub uid: Arc<str>,
    /// Its opaque version.
    pub version: Version,
    /// Its body, as sent.
    pub body: Bytes,
    /// How the body is encoded.
    pub encoding: Encoding,
}

/// Something to tell the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind of report, see `skerry_common::kinds`.
    pub kind: Arc<str>,
    /// The object that it is about.
    pub key: Key,
    /// The object's uid.
    pub uid: Arc<str>,
    /// The report.
    pub body: Bytes,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// Whether it replaces an older pending report of the same kind and key.
    pub coalesce: bool,
    /// When it was observed, in milliseconds since the epoch by the node's clock.
    pub observed_ms: u64,
    /// W3C trace context, or empty.
    pub traceparent: Arc<str>,
}

/// A report that the cloud has not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingReport {
    /// Its id: grows with every report of this node, also over restarts.
    pub id: u64,
    /// The report.
    pub report: Report,
}

/// What storing a report did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The report's id.
    pub id: u64,
    /// The id of the pending report that it replaced.
    pub superseded: Option<u64>,
}

/// Whether the store takes everything at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    #[default]
    Good,
    /// The disk is full: only deletions and confirmations are taken. Turns back by itself.
    DiskFull,
}

/// How much is stored, in bytes of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Everything that is never dropped.
    pub control: u64,
    /// Events and other reports that may be dropped.
    pub events: u64,
    /// Number of those.
    pub event_rows: u64,
}

impl Usage {
    /// Bytes of all rows.
    pub fn total(&self) -> u64 {
        self.control.saturating_add(self.events)
    }
}
