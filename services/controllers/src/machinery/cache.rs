//! An indexed in-memory copy of all objects of one kind, with synchronous change handlers.
//!
//! Filled by exactly one informer task ([`super::informer`]); read by every controller in the process
//! without a request to the API. Handlers run on the informer's task after the change is visible to
//! readers; they only put keys into queues and never wait.
//!
//! Invariants: handlers see changes of one key in order; a handler sees `old` exactly as it was handed
//! out as `new` before; after a relist, what was not listed is reported as deleted only when the list
//! was complete.
//!
//! Limits: memory grows with the number of objects of the kind; nothing is kept per change.
//! Crash, cancel: the cache is lost with the process and rebuilt by the next list.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::Resource;
use skerry_common::Key;
use tokio::sync::watch;

/// One change of one object: `old` is `None` when it is new, `new` is `None` when it is gone.
pub(crate) struct Change<'a, K> {
    /// Namespace and name.
    pub(crate) key: &'a Key,
    /// What the cache held before.
    pub(crate) old: Option<&'a Arc<K>>,
    /// What the cache holds now.
    pub(crate) new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// Old and new object, whichever exist: what a handler looks at to find all the keys that the
    /// change touches.
    pub(crate) fn both(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.old.into_iter().chain(self.new)
    }
}

/// Computes the values under which an object is found in one index.
pub(crate) type IndexFn<K> = fn(&K, &mut Vec<Arc<str>>);

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    indices: Vec<HashMap<Arc<str>, HashSet<Key>>>,
}

/// The cache of one kind; see the module documentation.
pub(crate) struct Cache<K> {
    inner: RwLock<Inner<K>>,
    index_fns: Vec<IndexFn<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// The cache key of an object.
pub(crate) fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

impl<K: Resource> Cache<K> {
    /// An empty cache with the given indices; index numbers are positions in `index_fns`.
    pub(crate) fn new(index_fns: Vec<IndexFn<K>>) -> Arc<Self> {
        let indices = index_fns.iter().map(|_| HashMap::new()).collect();
        Arc::new(Self {
            inner: RwLock::new(Inner { objects: HashMap::new(), indices }),
            index_fns,
            handlers: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Adds a handler; it sees only the changes that come after, so add it before the informer runs.
    pub(crate) fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// The object with this key.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects that index number `index` has under `value`.
    pub(crate) fn by_index(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        let inner = self.read();
        let Some(keys) = inner.indices.get(index).and_then(|i| i.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|k| inner.objects.get(k).cloned()).collect()
    }

    /// All objects.
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().cloned().collect()
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Waits until the first complete list is in the cache.
    pub(crate) async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as self, so this cannot fail while we are borrowed.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Has a complete list been seen?
    #[cfg(test)]
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Stores `object` and tells the handlers.
    pub(crate) fn upsert(&self, object: K) {
        let key = key_of(&object);
        let new = Arc::new(object);
        let old = {
            let mut inner = self.write();
            let old = inner.objects.insert(key.clone(), new.clone());
            for (index, function) in inner.indices.iter_mut().zip(&self.index_fns) {
                if let Some(old) = &old {
                    unindex(index, *function, old, &key);
                }
                let mut values = Vec::new();
                function(&new, &mut values);
                for value in values {
                    index.entry(value).or_default().insert(key.clone());
                }
            }
            old
        };
        self.tell(&Change { key: &key, old: old.as_ref(), new: Some(&new) });
    }

    /// Removes the object with this key and tells the handlers.
    pub(crate) fn remove(&self, key: &Key) {
        let old = {
            let mut inner = self.write();
            let Some(old) = inner.objects.remove(key) else { return };
            for (index, function) in inner.indices.iter_mut().zip(&self.index_fns) {
                unindex(index, *function, &old, key);
            }
            old
        };
        self.tell(&Change { key, old: Some(&old), new: None });
    }

    /// A complete list was seen: everything not in `listed` is gone.
    pub(crate) fn retain_listed(&self, listed: &HashSet<Key>) {
        let gone: Vec<Key> = self.keys().into_iter().filter(|k| !listed.contains(k)).collect();
        for key in gone {
            self.remove(&key);
        }
        self.synced.send_replace(true);
    }

    fn tell(&self, change: &Change<'_, K>) {
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            handler(change);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unindex<K>(index: &mut HashMap<Arc<str>, HashSet<Key>>, function: IndexFn<K>, old: &K, key: &Key) {
    let mut values = Vec::new();
    function(old, &mut values);
    for value in values {
        if let Some(keys) = index.get_mut(&value) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(&value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use std::sync::Mutex;

    fn pod(name: &str, node: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("a".into());
        pod.metadata.name = Some(name.into());
        pod.spec.get_or_insert_default().node_name = Some(node.into());
        pod
    }

    fn by_node(pod: &Pod, out: &mut Vec<Arc<str>>) {
        out.extend(pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).map(Arc::from));
    }

    #[test]
    fn index_follows_every_change() {
        let cache = Cache::new(vec![by_node as IndexFn<Pod>]);
        cache.upsert(pod("p", "n1"));
        assert_eq!(cache.by_index(0, "n1").len(), 1);
        cache.upsert(pod("p", "n2"));
        assert_eq!(cache.by_index(0, "n1").len(), 0);
        assert_eq!(cache.by_index(0, "n2").len(), 1);
        cache.remove(&Key::new("a", "p"));
        assert_eq!(cache.by_index(0, "n2").len(), 0);
    }

    #[test]
    fn relist_reports_what_is_gone_and_only_then_is_synced() {
        let cache = Cache::new(Vec::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(move |c: &Change<'_, Pod>| {
            log.lock().unwrap().push((c.key.name.to_string(), c.old.is_some(), c.new.is_some()));
        });
        cache.upsert(pod("p", "n"));
        cache.upsert(pod("q", "n"));
        assert!(!cache.is_synced());
        cache.retain_listed(&HashSet::from([Key::new("a", "q")]));
        assert!(cache.is_synced());
        let seen = seen.lock().unwrap();
        assert_eq!(seen.last().unwrap(), &("p".to_string(), true, false));
        assert_eq!(cache.len(), 1);
    }
}
