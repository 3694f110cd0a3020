//! One replica of the source: a watch cache over the API, and the view that a publisher reads.
//!
//! This is the behaviour that a correct edgecontroller must have. A list may be cut short, and the
//! replica may or may not notice; the watch lags; the process may restart with nothing. So a key
//! that is missing is `Absent` only with proof: a deletion seen in the watch, or a read that said
//! "not found" and a watch that has caught up with that read. And a session is served only from a
//! cache that is at least as new as the moment at which the session was opened: whatever the node
//! saw from another replica is older than that. And a list is complete only when a second read
//! agrees with it: a node that lost its store takes `InSync` as proof that the rest is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use skerry_common::{Encoding, Key, Version};
use skerry_sync::{Lookup, Object, View};

use crate::api::{Api, Written};
use crate::bug::Bug;
use crate::rng::Rng;

/// How a list goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Honest,
    /// A page is missing and the replica knows it.
    Partial,
    /// Objects are missing and nothing says so.
    Lying,
}

#[derive(Debug, Default)]
pub(crate) struct Replica {
    cache: BTreeMap<Key, Rc<Written>>,
    /// Changes of the log that the cache has.
    pub(crate) cursor: u64,
    pub(crate) synced: bool,
    /// The number of objects was read a second time and agreed with the list.
    pub(crate) counted: bool,
    /// Keys proved to be deleted, and when.
    gone: BTreeMap<Key, u64>,
    /// Keys that are missing without proof.
    pub(crate) doubtful: BTreeSet<Key>,
    /// When the answer `Absent` given last was true, for each key: a note for the checks.
    pub(crate) absent_at: BTreeMap<Key, u64>,
}

impl Replica {
    /// Reads everything. Returns the keys of which the cache says something else than before.
    pub(crate) fn list(&mut self, api: &Api, list: List, rng: &mut Rng) -> Vec<Key> {
        let mut cache = api.objects.clone();
        if list != List::Honest {
            if rng.one_in(3) {
                cache.clear();
            } else {
                cache.retain(|_, _| rng.one_in(2));
            }
        }
        self.synced = list != List::Partial;
        self.counted = false;
        self.cursor = api.rev();
        let old = std::mem::replace(&mut self.cache, cache);
        // A proof is good for as long as the watch goes on without a gap: what was deleted may have
        // been created again before this list, which does not show it.
        self.gone.clear();
        let mut changed: BTreeSet<Key> = BTreeSet::new();
        for (key, object) in &self.cache {
            if old.get(key).is_none_or(|before| before.rev != object.rev) {
                changed.insert(key.clone());
            }
        }
        changed.extend(old.into_keys().filter(|key| !self.cache.contains_key(key)));
        changed.into_iter().collect()
    }

    /// Takes one change of the watch; its key.
    pub(crate) fn watch(&mut self, api: &Api) -> Option<Key> {
        if !self.synced {
            return None;
        }
        let entry = api.log.get(self.cursor as usize)?.clone();
        self.cursor += 1;
        match entry.object {
            Some(object) => {
                self.gone.remove(&entry.key);
                self.cache.insert(entry.key.clone(), object);
            }
            None => {
                self.cache.remove(&entry.key);
                self.gone.insert(entry.key.clone(), self.cursor);
            }
        }
        Some(entry.key)
    }

    /// Reads one doubtful key from the API. True: it exists, so the list was short.
    pub(crate) fn confirm(&mut self, api: &Api, key: &Key) -> bool {
        self.doubtful.remove(key);
        if self.cache.contains_key(key) {
            return false;
        }
        if api.objects.contains_key(key) {
            return true;
        }
        // Valid once the watch has caught up with this read; until then it is not looked at.
        self.gone.insert(key.clone(), api.rev());
        false
    }

    /// Reads the number of objects, when the watch has caught up. True: the list was short.
    pub(crate) fn count(&mut self, api: &Api) -> bool {
        if !self.synced || self.counted || self.cursor != api.rev() {
            return false;
        }
        self.counted = self.cache.len() == api.objects.len();
        !self.counted
    }

    /// Keys whose proof has just become valid.
    pub(crate) fn proved_now(&self) -> Vec<Key> {
        self.gone.iter().filter(|(_, rev)| **rev == self.cursor).map(|(key, _)| key.clone()).collect()
    }
}

/// What one session sees of a replica.
pub(crate) struct ReplicaView<'a> {
    pub(crate) replica: &'a mut Replica,
    pub(crate) node: usize,
    /// The API's state when the session was opened.
    pub(crate) barrier: u64,
    pub(crate) bug: Option<Bug>,
}

impl ReplicaView<'_> {
    fn fresh(&self) -> bool {
        self.replica.cursor >= self.barrier || (self.bug == Some(Bug::StaleReplica) && self.replica.synced)
    }

    fn absent(&mut self, key: &Key, rev: u64) -> Lookup {
        self.replica.absent_at.insert(key.clone(), rev);
        Lookup::Absent
    }
}

impl View for ReplicaView<'_> {
    fn lookup(&mut self, key: &Key, held: Option<&Version>) -> Lookup {
        if !self.fresh() {
            return Lookup::Unknown;
        }
        if let Some(object) = self.replica.cache.get(key).cloned() {
            if object.node != self.node {
                return self.absent(key, object.rev);
            }
            // A version that is held already needs no body.
            let body = if held == Some(&object.version) { bytes::Bytes::new() } else { object.body.clone() };
            return Lookup::Present(Object { version: object.version.clone(), body, encoding: Encoding::Identity });
        }
        match self.replica.gone.get(key).copied() {
            Some(rev) if rev <= self.replica.cursor => self.absent(key, rev),
            Some(_) => Lookup::Unknown,
            None if self.bug == Some(Bug::EmptyListDeletes) => {
                let now = self.replica.cursor;
                self.absent(key, now)
            }
            None => {
                self.replica.doubtful.insert(key.clone());
                Lookup::Unknown
            }
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        if !self.fresh() {
            return Vec::new();
        }
        let node = self.node;
        self.replica.cache.values().filter(|object| object.node == node).map(|object| object.key.clone()).collect()
    }

    fn complete(&self) -> bool {
        let counted = self.replica.counted || self.bug == Some(Bug::EmptyListDeletes);
        self.replica.synced && counted && self.fresh()
    }
}
