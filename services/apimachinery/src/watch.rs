//! The watch cache of one resource: current objects, a ring of recent events, and cursors over it.
//!
//! The storage writer calls [`WatchCache::apply`] after each commit, in version order; lists call
//! [`WatchCache::snapshot`]; each watcher owns a [`Cursor`] on its connection's task.
//! Invariants: a watcher has no queue of its own, it reads the shared ring from its own position, so a
//! slow watcher costs nobody anything and is ended alone (`Expired`) when the ring has moved past it;
//! a snapshot's version covers exactly the objects in it; a bookmark is only sent for a version whose
//! events were all delivered before.
//! Limits: [`RING_EVENTS`] and [`RING_BYTES`] per resource, [`CURSOR_BATCH`] events per read.
//! On a crash everything is rebuilt from the database (objects and tombstones); see [`WatchCache::seed`].

use crate::error::ApiError;
use crate::object::{Entry, EventType, Filter, ObjectKey};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// Events kept per resource for watchers to resume from.
pub const RING_EVENTS: usize = 16_384;
/// Bytes of objects that the ring may keep alive per resource.
pub const RING_BYTES: usize = 64 << 20;
/// Events that a cursor takes from the ring at once: the lock is held for this many at most.
pub const CURSOR_BATCH: usize = 256;

/// What an object was before an event.
#[derive(Debug, Clone)]
pub enum Before {
    /// It did not exist.
    Nothing,
    /// It had this state.
    Known(Arc<Entry>),
    /// It existed, the state is not known any more (after a restart).
    Unknown,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Event {
    /// The version of the change.
    pub version: u64,
    /// The new state; for a deletion the last state.
    pub entry: Arc<Entry>,
    /// The state before.
    pub before: Before,
    /// True for a deletion.
    pub deleted: bool,
}

impl Event {
    /// What this event is for a watcher with this filter.
    pub fn seen_by(&self, filter: &Filter) -> Option<EventType> {
        let now = !self.deleted && filter.matches(&self.entry);
        let was = match &self.before {
            Before::Nothing => false,
            Before::Known(before) => filter.matches(before),
            // It may have been selected: telling a watcher of a deletion that it does not know is harmless.
            Before::Unknown => !now || self.entry.created < self.version,
        };
        match (was, now) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) if matches!(self.before, Before::Unknown) && !filter.namespace.is_empty() => {
                // A namespace never changes, so the unknown state was in the same one.
                (*filter.namespace == *self.entry.key.namespace).then_some(EventType::Deleted)
            }
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Arc<Entry>>,
    ring: VecDeque<Event>,
    ring_bytes: usize,
    /// Events up to here are no longer in the ring.
    floor: u64,
    /// The newest version applied to this resource.
    last: u64,
}

/// The objects of one resource.
#[derive(Debug)]
pub struct WatchCache {
    state: RwLock<State>,
    /// Shared by all resources of a store: every event up to here has been applied somewhere.
    applied: Arc<AtomicU64>,
    head: watch::Sender<u64>,
    ring_events: usize,
}

/// Objects at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Selected objects in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The version that they are a snapshot of.
    pub version: u64,
}

impl WatchCache {
    /// An empty cache. `applied` is shared by all caches of one store.
    pub fn new(applied: Arc<AtomicU64>, floor: u64) -> Self {
        Self::with_ring(applied, floor, RING_EVENTS)
    }

    /// As [`WatchCache::new`] with a smaller ring (tests).
    pub fn with_ring(applied: Arc<AtomicU64>, floor: u64, ring_events: usize) -> Self {
        let state = State { floor, last: floor, ..State::default() };
        Self { state: RwLock::new(state), applied, head: watch::channel(floor).0, ring_events }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the cache at start: all objects, then the tombstones that are still known. Every change that
    /// is newer than `floor` goes into the ring with an unknown state before it.
    pub fn seed(&self, objects: Vec<Arc<Entry>>, tombstones: Vec<Arc<Entry>>, floor: u64) {
        let mut state = self.write();
        state.floor = floor;
        let recent = objects.iter().filter(|e| e.version > floor).map(|e| (e, false));
        let gone = tombstones.iter().filter(|e| e.version > floor).map(|e| (e, true));
        let mut events: Vec<Event> = recent
            .chain(gone)
            .map(|(entry, deleted)| Event {
                version: entry.version,
                entry: entry.clone(),
                before: if !deleted && entry.created == entry.version { Before::Nothing } else { Before::Unknown },
                deleted,
            })
            .collect();
        events.sort_by_key(|e| e.version);
        for entry in objects {
            state.last = state.last.max(entry.version);
            state.objects.insert(entry.key.clone(), entry);
        }
        for event in events {
            state.push(event, self.ring_events);
        }
        let last = state.last;
        drop(state);
        self.head.send_replace(last);
    }

    /// Applies a committed change. Versions must come in order.
    pub fn apply(&self, entry: Arc<Entry>, deleted: bool) {
        let mut state = self.write();
        let old = if deleted {
            state.objects.remove(&entry.key)
        } else {
            state.objects.insert(entry.key.clone(), entry.clone())
        };
        let version = entry.version;
        let before = old.map_or(Before::Nothing, Before::Known);
        state.push(Event { version, entry, before, deleted }, self.ring_events);
        drop(state);
        self.head.send_replace(version);
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest version that this cache is certainly up to date with.
    pub fn version(&self) -> u64 {
        // Read before the lock: all events up to it are in, whichever cache they belong to.
        let applied = self.applied.load(Ordering::Acquire);
        applied.max(self.read().last)
    }

    /// The version of the newest change of this resource itself.
    pub fn last_change(&self) -> u64 {
        self.read().last
    }

    /// The selected objects. Matching happens outside the lock.
    pub fn snapshot(&self, filter: &Filter) -> Snapshot {
        let applied = self.applied.load(Ordering::Acquire);
        let state = self.read();
        let version = applied.max(state.last);
        let mut entries: Vec<Arc<Entry>> = match (filter.namespace.as_str(), filter.fields.exact_name()) {
            ("", _) => state.objects.values().cloned().collect(),
            (namespace, Some(name)) => {
                state.objects.get(&ObjectKey::new(namespace, name)).cloned().into_iter().collect()
            }
            (namespace, None) => {
                let from = ObjectKey::new(namespace, "");
                state
                    .objects
                    .range((Bound::Included(from), Bound::Unbounded))
                    .take_while(|(key, _)| *key.namespace == *namespace)
                    .map(|(_, entry)| entry.clone())
                    .collect()
            }
        };
        drop(state);
        entries.retain(|entry| filter.matches(entry));
        Snapshot { entries, version }
    }

    /// A cursor that delivers every event after `after`.
    pub fn cursor(self: &Arc<Self>, after: u64, filter: Filter) -> Result<Cursor, ApiError> {
        let version = self.version();
        let floor = self.read().floor;
        if after < floor || after > version {
            return Err(expired(after, floor));
        }
        let mut head = self.head.subscribe();
        // The first read must look at the ring without waiting for a change.
        head.mark_changed();
        Ok(Cursor { cache: self.clone(), after, filter, head })
    }
}

impl State {
    fn push(&mut self, event: Event, ring_events: usize) {
        self.last = self.last.max(event.version);
        self.ring_bytes += event.entry.body().len();
        self.ring.push_back(event);
        while self.ring.len() > ring_events || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            if let Some(old) = self.ring.pop_front() {
                self.floor = self.floor.max(old.version);
                self.ring_bytes = self.ring_bytes.saturating_sub(old.entry.body().len());
            }
        }
    }
}

fn expired(after: u64, floor: u64) -> ApiError {
    ApiError::Expired(format!("too old resource version: {after} ({floor})"))
}

/// One event as a watcher sees it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What it is for this watcher.
    pub kind: EventType,
    /// The object.
    pub entry: Arc<Entry>,
    /// The version of the event.
    pub version: u64,
}

impl Delivery {
    /// The line to send.
    pub fn line(&self) -> Bytes {
        self.entry.line(self.kind)
    }
}

/// A watcher's position.
#[derive(Debug)]
pub struct Cursor {
    cache: Arc<WatchCache>,
    after: u64,
    filter: Filter,
    head: watch::Receiver<u64>,
}

impl Cursor {
    /// Events after the position that the filter selects, at most [`CURSOR_BATCH`] looked at; empty when
    /// there are none now. `Err`: the ring has moved past this watcher.
    pub fn take(&mut self) -> Result<Vec<Delivery>, ApiError> {
        let applied = self.cache.applied.load(Ordering::Acquire);
        let state = self.cache.read();
        if self.after < state.floor {
            return Err(expired(self.after, state.floor));
        }
        let start = state.ring.partition_point(|e| e.version <= self.after);
        let events: Vec<Event> = state.ring.range(start..).take(CURSOR_BATCH).cloned().collect();
        let drained = start + events.len() == state.ring.len();
        let last = state.last;
        drop(state);
        if let Some(event) = events.last() {
            self.after = event.version;
        }
        if drained {
            // Nothing of this resource is missing up to here, so a bookmark may say so.
            self.after = self.after.max(applied).max(last);
        }
        let deliver = |event: Event| {
            let kind = event.seen_by(&self.filter)?;
            Some(Delivery { kind, entry: event.entry, version: event.version })
        };
        let out: Vec<Delivery> = events.into_iter().filter_map(deliver).collect();
        if !drained {
            self.head.mark_changed();
        }
        Ok(out)
    }

    /// Waits until there may be something to take.
    pub async fn changed(&mut self) {
        if self.head.changed().await.is_err() {
            // The cache is gone: the server is stopping, and ends this watch by its own signal.
            std::future::pending::<()>().await;
        }
    }

    /// Everything up to here has been taken.
    pub fn position(&self) -> u64 {
        self.after
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    fn entry(name: &str, label: &str, version: u64, created: u64) -> Arc<Entry> {
        let object = json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": label}}});
        Arc::new(Entry::new("/pods", &object, version, created, EventType::Modified))
    }
    fn cache(ring: usize) -> Arc<WatchCache> {
        Arc::new(WatchCache::with_ring(Arc::new(AtomicU64::new(0)), 0, ring))
    }
    fn filter(labels: &str) -> Filter {
        Filter { labels: crate::selector::LabelSelector::parse(labels).unwrap(), ..Filter::default() }
    }
    fn kinds(cursor: &mut Cursor) -> Vec<(EventType, u64)> {
        cursor.take().unwrap().iter().map(|d| (d.kind, d.version)).collect()
    }

    #[test]
    fn a_selector_turns_changes_into_added_and_deleted() {
        let cache = cache(16);
        let mut cursor = cache.cursor(0, filter("app=web")).unwrap();
        cache.apply(entry("a", "db", 1, 1), false);
        cache.apply(entry("a", "web", 2, 1), false);
        cache.apply(entry("a", "web", 3, 1), false);
        cache.apply(entry("a", "db", 4, 1), false);
        cache.apply(entry("a", "db", 5, 1), true);
        assert_eq!(kinds(&mut cursor), [(EventType::Added, 2), (EventType::Modified, 3), (EventType::Deleted, 4)]);
        assert_eq!(cursor.position(), 5);
    }

    #[test]
    fn a_slow_watcher_is_ended_alone() {
        let cache = cache(2);
        let mut slow = cache.cursor(0, Filter::default()).unwrap();
        let mut fast = cache.cursor(0, Filter::default()).unwrap();
        for version in 1..=4 {
            cache.apply(entry("a", "x", version, 1), false);
            assert_eq!(fast.take().unwrap().len(), 1);
        }
        assert!(matches!(slow.take(), Err(ApiError::Expired(_))));
        assert!(cache.cursor(1, Filter::default()).is_err());
        assert!(cache.cursor(2, Filter::default()).is_ok());
        assert!(cache.cursor(99, Filter::default()).is_err());
    }

    #[test]
    fn a_watch_resumes_across_a_restart() {
        let cache = cache(16);
        let kept = vec![entry("a", "web", 3, 1), entry("b", "web", 9, 9), entry("c", "db", 8, 2)];
        cache.seed(kept, vec![entry("z", "web", 7, 2)], 5);
        let mut cursor = cache.cursor(5, filter("app=web")).unwrap();
        assert_eq!(kinds(&mut cursor), [(EventType::Deleted, 7), (EventType::Deleted, 8), (EventType::Added, 9)]);
        assert!(cache.cursor(4, Filter::default()).is_err());
    }

    #[test]
    fn a_batch_is_bounded_and_nothing_is_lost() {
        let cache = cache(4096);
        for version in 1..=1000 {
            cache.apply(entry("a", "x", version, 1), false);
        }
        let mut cursor = cache.cursor(0, Filter::default()).unwrap();
        let mut seen = Vec::new();
        loop {
            let batch = cursor.take().unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= CURSOR_BATCH);
            seen.extend(batch.iter().map(|d| d.version));
        }
        assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
    }
}
