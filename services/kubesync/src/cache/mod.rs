//! What a controller knows of the cluster: trimmed bytes, and the index from nodes over what is bound to them
//! (pods, or devices) to what that refers to.
//!
//! Written by the informers, the confirmer and the token minter; read by the views of all subscriptions.
//! Sync code behind one `RwLock` that is never held across an await.
//!
//! Invariants:
//! - A key leaves the cache only by a watched DELETE or by a GET by name that said 404 (N5). A list that
//!   does not have it only makes it a suspect.
//! - [`Cache::apply`] reports a wake only when the version, or what a node may see, changed.
//! - What a node may see is decided here and nowhere else ([`Inner::visible`]).
//!
//! Limits: objects are bounded by the cluster; remembered deletions by [`gone::GONE_LIMIT`] per kind
//! (beyond it the oldest is confirmed by a GET again). After a crash everything is rebuilt by the
//! informers; until a kind is synced nothing of it is called absent.

mod gone;
mod inner;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use skerry_common::{Key, NodeName};

use crate::kinds::Kind;
use crate::trim::{BoundFacts, Trimmed};

pub(crate) use inner::Sight;
pub use inner::{Inner, PodToken};

/// Somebody has to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// This key, for one node.
    Key(NodeName, Kind, Key),
    /// This key, for every subscriber of the kind.
    All(Kind, Key),
    /// What could not be told about this node before may be told now.
    Node(NodeName),
    /// What could not be told about this kind before may be told now.
    Kind(Kind),
}

/// What is known of a key at one moment, to notice that it changed while a GET was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    sequence: Option<u64>,
    gone: bool,
}

/// Shared handle; see the module.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<RwLock<Inner>>,
}

impl Cache {
    /// An empty cache. `bound` is the kind whose objects belong to a node each, and decide with what they refer
    /// to what else the node may see: pods, or devices.
    pub fn new(bound: Kind) -> Self {
        Self { inner: Arc::new(RwLock::new(Inner::new(bound))) }
    }

    /// Read access, for a few lookups at once. Never keep it across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object as it is now.
    pub(crate) fn apply(&self, kind: Kind, object: Trimmed) -> Vec<Wake> {
        self.write().apply(kind, object)
    }

    /// A watched DELETE.
    pub(crate) fn delete(&self, kind: Kind, key: &Key) -> Vec<Wake> {
        self.write().delete(kind, key)
    }

    /// A list begins.
    pub(crate) fn init(&self, kind: Kind) {
        self.write().init(kind);
    }

    /// An object of the list that began.
    pub(crate) fn init_apply(&self, kind: Kind, object: Trimmed) -> Vec<Wake> {
        self.write().init_apply(kind, object)
    }

    /// A listed object that no node can see (an unbound pod): it counts as listed.
    pub(crate) fn init_seen(&self, kind: Kind, key: Key) {
        self.write().init_seen(kind, key);
    }

    /// The list ended. Returns who must look again, and the suspects: keys that the cache has and the
    /// list had not.
    pub(crate) fn init_done(&self, kind: Kind) -> (Vec<Wake>, Vec<Key>) {
        self.write().init_done(kind)
    }

    /// Before a GET: what is known.
    pub(crate) fn snapshot(&self, kind: Kind, key: &Key) -> Snapshot {
        let inner = self.read();
        Snapshot { sequence: inner.sequence(kind, key), gone: inner.is_gone(kind, key) }
    }

    /// After a GET: takes the answer, unless a watch told something newer meanwhile.
    pub(crate) fn confirmed(&self, kind: Kind, key: &Key, before: Snapshot, answer: Option<Trimmed>) -> Vec<Wake> {
        let mut inner = self.write();
        let now = Snapshot { sequence: inner.sequence(kind, key), gone: inner.is_gone(kind, key) };
        if now != before {
            // The watch told more recent news than our question did; whoever asked looks again.
            return inner.wakes_for(kind, key);
        }
        match answer {
            Some(object) => {
                let mut wakes = inner.apply(kind, object);
                if wakes.is_empty() {
                    wakes = inner.wakes_for(kind, key);
                }
                wakes
            }
            None => inner.delete(kind, key),
        }
    }

    /// Whether the kind's first list has ended.
    pub fn is_synced(&self, kind: Kind) -> bool {
        self.read().is_synced(kind)
    }

    /// A node said which bound objects it holds.
    pub(crate) fn declare(&self, node: &NodeName, held: Vec<Key>) -> Vec<Wake> {
        self.write().declare(node, held)
    }

    /// The node's subscription to what is bound ended.
    pub(crate) fn undeclare(&self, node: &NodeName) {
        self.write().undeclare(node);
    }

    /// Uid and facts of a bound object, if it is known.
    pub fn bound(&self, key: &Key) -> Option<(Arc<str>, BoundFacts)> {
        self.read().bound(key).map(|(uid, facts)| (Arc::clone(uid), facts.clone()))
    }
}

#[cfg(test)]
mod tests;
