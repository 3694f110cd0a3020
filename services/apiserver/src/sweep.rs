//! Removes what nobody deletes: old Events, and the objects of a deleted CustomResourceDefinition.
//!
//! [`events`] runs beside the listener until the server stops; [`all_of`] runs at the end of the request
//! that removed the definition. Invariants: an Event goes an hour after its last change, as in Kubernetes;
//! the objects of a definition do not come back with a new definition of the same name.
//! Limits: [`MAX_EVENTS`], [`AT_ONCE`]. What a crash leaves is swept at the next start or round.

use crate::state::{Api, CRD};
use crate::storage::{Expect, Op};
use futures::{StreamExt as _, stream};
use skerry_apimachinery::json::str_at;
use skerry_apimachinery::{Entry, Filter, Registry, meta};
use std::sync::Arc;
use std::time::Duration;

/// Life of an Event after its last change, in seconds.
const EVENT_LIFE: i64 = 3600;
/// Events kept at most; the oldest go first.
const MAX_EVENTS: usize = 50_000;
const ROUND: Duration = Duration::from_secs(60);
/// Removals under way at once: the writer commits them together.
const AT_ONCE: usize = 128;
const EVENTS: &str = "/events";

/// Sweeps Events until the server stops.
pub(crate) async fn events(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let removed = remove(&api, EVENTS, old_events(&api, jiff::Timestamp::now())).await;
        if removed > 0 {
            tracing::debug!(removed, "events swept");
        }
    }
}

fn old_events(api: &Api, now: jiff::Timestamp) -> Vec<Arc<Entry>> {
    let mut events = api.storage.cache(EVENTS).snapshot(&Filter::default()).entries;
    // Versions grow with time, so the oldest changes come first.
    events.sort_by_key(|entry| entry.version);
    let surplus = events.len().saturating_sub(MAX_EVENTS);
    let mut old: Vec<Arc<Entry>> = events.drain(..surplus).collect();
    old.extend(events.into_iter().filter(|entry| {
        let event = entry.value();
        let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
        let last = times.iter().filter_map(|t| meta::parse_time(str_at(&event, t))).max();
        last.is_none_or(|last| now.as_second() - last.as_second() > EVENT_LIFE)
    }));
    old
}

/// Removes every object of a storage, whatever its finalizers.
pub(crate) async fn all_of(api: &Api, storage: &str) {
    let entries = api.storage.cache(storage).snapshot(&Filter::default()).entries;
    let removed = remove(api, storage, entries).await;
    tracing::info!(storage, removed, "objects of a deleted definition removed");
}

/// Removes objects whose definition is gone (a crash came between the two).
pub(crate) async fn orphans(api: &Api) {
    let known: Registry = Registry::new(
        &api.storage.cache(CRD).snapshot(&Filter::default()).entries.iter().map(|e| e.value()).collect::<Vec<_>>(),
    );
    for storage in api.storage.names() {
        if !known.resources().iter().any(|r| r.storage == storage) {
            all_of(api, &storage).await;
        }
    }
}

async fn remove(api: &Api, storage: &str, entries: Vec<Arc<Entry>>) -> usize {
    let writes = stream::iter(entries).map(|entry| {
        let op =
            Op { storage: storage.into(), value: entry.value(), expect: Expect::Version(entry.version), delete: true };
        // An object that changed meanwhile is looked at in the next round.
        async move { usize::from(api.storage.write(vec![op]).await.is_ok()) }
    });
    writes.buffer_unordered(AT_ONCE).fold(0, |sum, one| async move { sum + one }).await
}
