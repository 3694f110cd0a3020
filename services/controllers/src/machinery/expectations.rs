//! The guard against a cache that lags behind our own writes.
//!
//! Before a controller creates or deletes dependents it says so here, by name (creates) and uid
//! (deletes); until the cache has shown every one of them, its owner is not acted upon again. Names are
//! chosen by the controller and not by the server, so an expectation is exact: no counting, and a change
//! seen before the create call returned is not lost.
//!
//! Limits: an entry per write in flight; an owner that waits longer than [`TIMEOUT`] is let go, since
//! then the cache is broken in a way that waiting does not mend.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::lock;

/// How long writes are waited for, as in Kubernetes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

struct Pending {
    /// By name: has the API said that it is created? If not, the call failed in a way that leaves that
    /// open, or was dropped.
    creates: HashMap<Arc<str>, bool>,
    deletes: HashSet<Arc<str>>,
    since: Instant,
}

/// Writes of one controller that its cache has not shown yet, by owner.
pub(crate) struct Expectations<O> {
    inner: Mutex<HashMap<O, Pending>>,
}

impl<O> Default for Expectations<O> {
    fn default() -> Self {
        Self { inner: Mutex::new(HashMap::new()) }
    }
}

impl<O: Hash + Eq + Clone> Expectations<O> {
    /// May `owner` be acted upon, that is: has the cache shown all its earlier writes?
    pub(crate) fn satisfied(&self, owner: &O) -> bool {
        let mut inner = lock(&self.inner);
        match inner.get(owner) {
            None => true,
            Some(p) if p.since.elapsed() >= TIMEOUT => {
                inner.remove(owner);
                true
            }
            Some(_) => false,
        }
    }

    /// `owner` is about to create a dependent with this name.
    pub(crate) fn expect_create(&self, owner: &O, name: &str) {
        self.with(owner, |p| {
            p.creates.insert(name.into(), false);
        });
    }

    /// The API has created the dependent with this name.
    pub(crate) fn confirmed(&self, owner: &O, name: &str) {
        if let Some(sure) = lock(&self.inner).get_mut(owner).and_then(|p| p.creates.get_mut(name)) {
            *sure = true;
        }
    }

    /// Names of which nobody knows whether they were created. Ask while no create of `owner` is under way.
    pub(crate) fn uncertain(&self, owner: &O) -> Vec<Arc<str>> {
        let inner = lock(&self.inner);
        let creates = inner.get(owner).into_iter().flat_map(|p| &p.creates);
        creates.filter(|(_, sure)| !**sure).map(|(name, _)| name.clone()).collect()
    }

    /// `owner` is about to delete the dependent with this uid.
    pub(crate) fn expect_delete(&self, owner: &O, uid: &str) {
        self.with(owner, |p| {
            p.deletes.insert(uid.into());
        });
    }

    /// The cache shows a dependent with this name, or the create failed.
    pub(crate) fn created(&self, owner: &O, name: &str) {
        self.settle(owner, |p| {
            p.creates.remove(name);
        });
    }

    /// The cache shows that the dependent with this uid is going or gone, or the delete failed.
    pub(crate) fn deleted(&self, owner: &O, uid: &str) {
        self.settle(owner, |p| {
            p.deletes.remove(uid);
        });
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &O) {
        lock(&self.inner).remove(owner);
    }

    fn with(&self, owner: &O, change: impl FnOnce(&mut Pending)) {
        let mut inner = lock(&self.inner);
        let pending = inner.entry(owner.clone()).or_insert_with(|| Pending {
            creates: HashMap::new(),
            deletes: HashSet::new(),
            since: Instant::now(),
        });
        pending.since = Instant::now();
        change(pending);
    }

    fn settle(&self, owner: &O, change: impl FnOnce(&mut Pending)) {
        let mut inner = lock(&self.inner);
        if let Some(pending) = inner.get_mut(owner) {
            change(pending);
            if pending.creates.is_empty() && pending.deletes.is_empty() {
                inner.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn owner_waits_until_the_cache_shows_every_write() {
        let e = Expectations::default();
        assert!(e.satisfied(&1));
        e.expect_create(&1, "a");
        e.expect_create(&1, "b");
        e.expect_delete(&1, "uid");
        e.created(&1, "a");
        e.created(&1, "unknown");
        assert!(!e.satisfied(&1));
        e.created(&1, "b");
        assert!(!e.satisfied(&1));
        e.deleted(&1, "uid");
        assert!(e.satisfied(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_api_did_not_answer_stays_uncertain() {
        let e = Expectations::default();
        e.expect_create(&1, "answered");
        e.expect_create(&1, "lost");
        e.confirmed(&1, "answered");
        assert_eq!(e.uncertain(&1), ["lost".into()]);
        e.created(&1, "lost");
        assert!(e.uncertain(&1).is_empty());
        assert!(!e.satisfied(&1), "the cache has not shown the other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_write_blocks_no_longer_than_the_timeout() {
        let e = Expectations::default();
        e.expect_create(&1, "a");
        tokio::time::advance(TIMEOUT).await;
        assert!(e.satisfied(&1));
    }
}
