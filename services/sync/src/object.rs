//! What flows down: objects, changes, and the view from which they are read.
//!
//! A [`Publisher`](crate::Publisher) keeps no body. It asks its [`View`] at the moment of sending,
//! so an object that changed ten times while the link was slow is read and sent once.

use bytes::Bytes;
use skerry_common::{Encoding, Key, Version};

/// Names one subscription within its stream; chosen by the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// One object as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Opaque: equal or not equal to another.
    pub version: Version,
    /// The bytes that go on the wire. When [`Self::version`] equals the `held` that
    /// [`View::lookup`] was given, the body is not looked at and may be empty.
    pub body: Bytes,
    /// How the body is encoded.
    pub encoding: Encoding,
}

/// What a view says about a key now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The object exists and the subscription selects it.
    Present(Object),
    /// It is certain that the subscriber must not hold it: it was deleted, or is no longer
    /// selected. This is the only answer that deletes at the subscriber.
    Absent,
    /// Cannot tell now: the source is not synced, a list was cut short, a confirmation is pending.
    /// Nothing is sent; the key waits for [`Publisher::changed`](crate::Publisher::changed) or
    /// [`Publisher::recheck`](crate::Publisher::recheck).
    Unknown,
}

/// What one subscription selects, as its source sees it now.
///
/// What the subscriber ends up with is as good as its view. The simulation shows what a view over a
/// watch cache owes:
///
/// - A key that is missing in a list is [`Lookup::Unknown`] until there is proof: a deletion seen in
///   the watch, or a read by name that found nothing. A new list voids the proofs before it, for it
///   may hide what was created again in between.
/// - The view is at least as new as the moment at which the subscription was opened. A subscriber may
///   have been served by another replica, whose cache was ahead; until this one has caught up, the
///   answer to everything is [`Lookup::Unknown`].
/// - A view over a store shows what is committed, nothing earlier.
pub trait View {
    /// Reads one key. `held` is what the subscriber holds; a view may spare itself the body when
    /// the present version equals it.
    fn lookup(&mut self, key: &Key, held: Option<&Version>) -> Lookup;

    /// All keys that the subscription selects now. A list that is short or empty deletes nothing:
    /// each held key that is not in it is still looked up.
    fn keys(&mut self) -> Vec<Key>;

    /// Whether the source has seen everything there is, so that `InSync` would be true. A subscriber
    /// that lost its store takes `InSync` as proof that everything else is gone, so a list that may
    /// have been short is not complete. A view that is complete calls
    /// [`Publisher::changed`](crate::Publisher::changed) for each key of which it learns later.
    fn complete(&self) -> bool;
}

/// One change that the receiving end must commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The object exists with this content.
    Upsert {
        /// Which object.
        key: Key,
        /// Its version, to be stored with it and named in the next `Open`.
        version: Version,
        /// Its content as sent.
        body: Bytes,
        /// How the body is encoded.
        encoding: Encoding,
        /// W3C trace context of the change; empty where there is none.
        traceparent: String,
    },
    /// The object is gone.
    Delete {
        /// Which object.
        key: Key,
    },
}

impl Change {
    /// The key that changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Upsert { key, .. } | Self::Delete { key } => key,
        }
    }
}
