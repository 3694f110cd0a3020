//! The objects that the node holds: the store, and an index of keys and versions in memory.
//!
//! Writes go through [`Objects::apply`], which returns when they are on disk and then tells the local
//! subscriptions. A kind is complete when the cloud has once said that everything was sent; until then
//! (a new or a rebuilt store) nobody on the node may conclude from what is missing. Completeness is
//! kept in the store, so that it survives a restart without the cloud.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::{Key, Version, kinds};
use skerry_store::{Change, Store, StoreError};
use skerry_sync::{Lookup, Object, View};

use crate::link::Link;
use crate::listeners::Listeners;
use crate::metrics::Metrics;

/// Name of the value that says that a kind is complete.
const COMPLETE: &str = "complete/";

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) store: Store,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) link: Arc<Link>,
    state: Mutex<State>,
    // One for each kind, so that nobody reads what is held between a write and its entry in the index.
    writing: HashMap<&'static str, Arc<tokio::sync::Mutex<()>>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<String, BTreeMap<Key, Version>>,
    complete: BTreeSet<String>,
}

impl Objects {
    /// Reads the index of the given kinds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn load(
        store: Store,
        kinds: impl Iterator<Item = &'static str>,
        listeners: Arc<Listeners>,
        link: Arc<Link>,
        metrics: Metrics,
    ) -> Result<Self, StoreError> {
        let mut state = State::default();
        let mut writing = HashMap::new();
        for kind in kinds {
            writing.insert(kind, Arc::default());
            state.index.insert(kind.to_owned(), store.held(kind).await?.into_iter().collect());
            if store.get_value(&format!("{COMPLETE}{kind}")).await?.is_some() {
                state.complete.insert(kind.to_owned());
            }
        }
        Ok(Self { store, listeners, link, state: Mutex::new(state), writing, metrics })
    }

    /// What the node holds of a kind, durably; waits for a write that is under way.
    pub(crate) async fn held(&self, kind: &str) -> Vec<(Key, Version)> {
        let _written = self.lock_kind(kind).await;
        let state = self.lock();
        let index = state.index.get(kind);
        index.into_iter().flatten().map(|(key, version)| (key.clone(), version.clone())).collect()
    }

    /// How many objects of a kind the node holds.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.lock().index.get(kind).map_or(0, BTreeMap::len)
    }

    /// Writes changes; they are durable when this returns. When the caller stops waiting, the write and
    /// what follows from it still happen.
    ///
    /// # Errors
    /// When they could not be written; then none of them was.
    pub(crate) async fn apply(self: &Arc<Self>, kind: &'static str, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let written = self.lock_kind(kind).await;
        let objects = self.clone();
        let write = tokio::spawn(async move {
            let _written = written;
            objects.write(kind, changes).await
        });
        write.await.unwrap_or_else(|_| Err(StoreError::Stopped { reason: "the write was aborted".into() }))
    }

    async fn write(&self, kind: &str, changes: Vec<Change>) -> Result<(), StoreError> {
        let effects: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Upsert { key, version, .. } => (key.clone(), Some(version.clone())),
                Change::Delete { key } => (key.clone(), None),
            })
            .collect();
        self.store.apply(kind, changes).await?;
        let mut state = self.lock();
        let index = state.index.entry(kind.to_owned()).or_default();
        let mut keys = Vec::with_capacity(effects.len());
        for (key, version) in effects {
            match version {
                Some(version) => {
                    self.metrics.upserts.inc();
                    index.insert(key.clone(), version);
                }
                None => {
                    self.metrics.tombstones.inc();
                    index.remove(&key);
                }
            }
            keys.push(key);
        }
        drop(state);
        self.listeners.changed(kind, &keys);
        Ok(())
    }

    /// The cloud has sent everything there is of a kind.
    ///
    /// # Errors
    /// When the store could not write it down.
    pub(crate) async fn completed(&self, kind: &str) -> Result<(), StoreError> {
        if !self.is_complete(kind) {
            self.store.put_value(&format!("{COMPLETE}{kind}"), &b"1"[..]).await?;
            self.lock().complete.insert(kind.to_owned());
            self.listeners.wake(kind);
        }
        Ok(())
    }

    pub(crate) fn is_complete(&self, kind: &str) -> bool {
        kind == kinds::LINK || self.lock().complete.contains(kind)
    }

    async fn lock_kind(&self, kind: &str) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        match self.writing.get(kind) {
            Some(writing) => Some(writing.clone().lock_owned().await),
            None => None,
        }
    }

    fn keys(&self, kind: &str) -> Vec<Key> {
        if kind == kinds::LINK {
            return vec![Link::key()];
        }
        self.lock().index.get(kind).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    fn version(&self, kind: &str, key: &Key) -> Option<Version> {
        self.lock().index.get(kind)?.get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kind as its local subscribers see it. Reads the store: for threads that may block.
#[derive(Debug)]
pub(crate) struct KindView<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) kind: &'a str,
}

impl View for KindView<'_> {
    fn lookup(&mut self, key: &Key, held: Option<&Version>) -> Lookup {
        if self.kind == kinds::LINK {
            return if *key == Link::key() { Lookup::Present(self.objects.link.object()) } else { Lookup::Absent };
        }
        match self.objects.version(self.kind, key) {
            // Gone from the store by a tombstone, or never there: only a complete kind may say so.
            None if self.objects.is_complete(self.kind) => Lookup::Absent,
            None => Lookup::Unknown,
            Some(version) if held == Some(&version) => {
                Lookup::Present(Object { version, body: bytes::Bytes::new(), encoding: Default::default() })
            }
            // The caller's thread may block, see above.
            Some(_) => match tokio::runtime::Handle::current().block_on(self.objects.store.get(self.kind, key)) {
                Ok(Some(found)) => {
                    Lookup::Present(Object { version: found.version, body: found.body, encoding: found.encoding })
                }
                // Deleted between the two looks: the listener has the key again.
                Ok(None) => Lookup::Unknown,
                Err(error) => {
                    tracing::error!(error = %error, kind = self.kind, key = %key, "cannot read the store");
                    Lookup::Unknown
                }
            },
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.objects.keys(self.kind)
    }

    fn complete(&self) -> bool {
        self.objects.is_complete(self.kind)
    }
}
