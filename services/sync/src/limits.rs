//! The bounds of the protocol: how much may be in one message, in flight, and in one list.
//!
//! Both ends of a subscription take their limits from here, the receiving end with more room than
//! the sending end, so that a change of the defaults never makes two versions refuse each other.

/// Deltas that may wait for their acknowledgement. Eight cover a link of 2 s round trip with
/// group commits of 250 ms; more would only hold memory.
pub const WINDOW_DELTAS: usize = 8;

/// Bytes of one delta that the sending end packs (names and bodies). Large enough to amortise
/// one fsync, small enough that a pod's tombstone never waits long behind it on a slow link.
pub const MAX_DELTA_BYTES: usize = 256 * 1024;

/// Changes in one delta that the sending end packs.
pub const MAX_DELTA_OBJECTS: usize = 256;

/// The largest body of one object, as sent. etcd refuses requests over 1.5 MiB, so every object of
/// a cluster fits, and with its envelope stays under [`MAX_DELTA_BYTES_RECEIVED`].
pub const MAX_OBJECT_BYTES: usize = 1792 * 1024;

/// What one delta may weigh at the receiving end, which is also the limit of one gRPC message.
pub const MAX_DELTA_BYTES_RECEIVED: usize = 2 * 1024 * 1024;

/// Changes in one delta that the receiving end takes.
pub const MAX_DELTA_OBJECTS_RECEIVED: usize = 4096;

/// Objects that one subscriber may hold of one kind: a node that sees every Service of a large
/// cluster. It bounds what a hostile node can make the source remember (about 100 bytes each).
pub const MAX_HELD_OBJECTS: usize = 200_000;

/// Objects named in one `Open` or `Held`. With names of ordinary length a message is under 100 KiB,
/// with the longest names under 1 MiB.
pub const HELD_PER_MESSAGE: usize = 1000;

/// Bytes of one version. Kubernetes' are a decimal number; another source may use a hash.
pub const MAX_VERSION_BYTES: usize = 128;

/// Bytes of a node's name: a DNS-1123 subdomain.
pub const MAX_NAME_BYTES: usize = 253;

/// Bytes of a kind.
pub const MAX_KIND_BYTES: usize = 63;

/// Bytes of a label selector.
pub const MAX_SELECTOR_BYTES: usize = 1024;

/// Bytes of the reason in a `Failure`, `Rejected` or `RetryLater`; longer ones are cut at the
/// sending end.
pub const MAX_REASON_BYTES: usize = 1024;

/// The largest body of one report, as sent: as for an object.
pub const MAX_REPORT_BYTES: usize = MAX_OBJECT_BYTES;

/// Reports that may wait for their outcome. A sink writes to the Kubernetes API at some 10 ms
/// each, so 64 fill a link of 600 ms round trip.
pub const WINDOW_REPORTS: usize = 64;

/// The longest wait that a sink may ask for with `RetryLater`, in milliseconds: five minutes.
/// A wrong value in one answer must not silence a node.
pub const MAX_RETRY_AFTER_MS: u64 = 5 * 60 * 1000;

/// The shortest wait before a report is sent again after `RetryLater`, in milliseconds.
pub const MIN_RETRY_AFTER_MS: u64 = 50;

/// What the sending end of a subscription packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// Deltas that may wait for their acknowledgement, at least 1.
    pub window_deltas: usize,
    /// Bytes of one delta; an object that is larger goes alone, up to [`MAX_OBJECT_BYTES`].
    pub max_delta_bytes: usize,
    /// Changes in one delta, at least 1.
    pub max_delta_objects: usize,
}

impl Default for PublishLimits {
    fn default() -> Self {
        Self { window_deltas: WINDOW_DELTAS, max_delta_bytes: MAX_DELTA_BYTES, max_delta_objects: MAX_DELTA_OBJECTS }
    }
}

/// What the receiving end of a subscription takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeLimits {
    /// Deltas that may wait for their commit. Twice the sender's window by default, so that the
    /// sender's may be raised in one release and the receiver's in the next.
    pub window_deltas: usize,
    /// Bytes of one delta.
    pub max_delta_bytes: usize,
    /// Changes in one delta.
    pub max_delta_objects: usize,
}

impl Default for SubscribeLimits {
    fn default() -> Self {
        Self {
            window_deltas: 2 * WINDOW_DELTAS,
            max_delta_bytes: MAX_DELTA_BYTES_RECEIVED,
            max_delta_objects: MAX_DELTA_OBJECTS_RECEIVED,
        }
    }
}
