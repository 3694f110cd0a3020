//! What a service of the node has to say: reports on their way to edgehub.
//!
//! Any task puts reports; [`crate::report()`] sends them. Invariants: of a kind that coalesces only the
//! newest report of a key waits; Events wait in order; a report leaves only when edgehub has it
//! durably. Limits: one report per key and [`MAX_EVENTS`] Events; a further one drops the oldest.
//! Lost with the process: what matters is computed again at the next start, and Events are not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use skerry_common::{Key, kinds};
use tokio::sync::Notify;

/// EdgeHub takes Events at once unless it is away; then the oldest matter least.
const MAX_EVENTS: usize = 1_000;
/// How often to look whether the outbox is empty at a stop.
const FLUSH_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// One report. The body is JSON, or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its kind, of `skerry_common::kinds`.
    pub kind: &'static str,
    /// The object that it is about.
    pub key: Key,
    /// Uid of the object, where it has one.
    pub uid: String,
    /// JSON, or empty.
    pub body: Bytes,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// By kind, key and uid: two pods of one name are two.
    newest: BTreeMap<(&'static str, Key, String), u64>,
    waiting: BTreeMap<u64, Report>,
    events: VecDeque<u64>,
    /// Ids that were replaced or dropped since the sender asked last.
    superseded: Vec<u64>,
    dropped: u64,
}

/// See the module documentation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

impl Outbox {
    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a report.
    pub fn put(&self, report: Report) {
        let mut state = self.locked();
        state.next_id += 1;
        let id = state.next_id;
        if kinds::coalesces(report.kind) {
            let key = (report.kind, report.key.clone(), report.uid.clone());
            if let Some(old) = state.newest.insert(key, id) {
                state.waiting.remove(&old);
                state.superseded.push(old);
            }
        } else {
            state.events.push_back(id);
            if state.events.len() > MAX_EVENTS
                && let Some(old) = state.events.pop_front()
            {
                state.waiting.remove(&old);
                state.superseded.push(old);
                state.dropped += 1;
            }
        }
        state.waiting.insert(id, report);
        drop(state);
        self.news.notify_one();
    }

    /// Resolves after something was put.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// The reports with an id above `after`, oldest first.
    pub fn after(&self, after: u64, limit: usize) -> Vec<(u64, Report)> {
        self.locked().waiting.range(after.saturating_add(1)..).take(limit).map(|(id, r)| (*id, r.clone())).collect()
    }

    /// A report that waits.
    pub fn get(&self, id: u64) -> Option<Report> {
        self.locked().waiting.get(&id).cloned()
    }

    /// Ids that need not be sent any more.
    pub fn take_superseded(&self) -> Vec<u64> {
        std::mem::take(&mut self.locked().superseded)
    }

    /// EdgeHub has it, or will never take it.
    pub fn remove(&self, id: u64) {
        let mut state = self.locked();
        if let Some(report) = state.waiting.remove(&id) {
            let key = (report.kind, report.key, report.uid);
            if state.newest.get(&key) == Some(&id) {
                state.newest.remove(&key);
            }
            state.events.retain(|e| *e != id);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.locked().waiting.len()
    }

    /// Resolves when nothing waits.
    pub async fn flushed(&self) {
        while !self.is_empty() {
            tokio::time::sleep(FLUSH_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: &'static str, name: &str, uid: &str) -> Report {
        Report { kind, key: Key::new("a", name), uid: uid.into(), body: Bytes::new() }
    }

    #[test]
    fn the_newest_status_replaces_the_one_that_waits() {
        let outbox = Outbox::default();
        outbox.put(report(kinds::POD_STATUS, "p", "u"));
        outbox.put(report(kinds::POD_STATUS, "p", "v"));
        outbox.put(report(kinds::POD_STATUS, "p", "u"));
        let ids: Vec<u64> = outbox.after(0, 10).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [2, 3]);
        assert_eq!(outbox.take_superseded(), [1]);
        // The outcome of the replaced report says nothing about the new one.
        outbox.remove(1);
        assert_eq!(outbox.len(), 2);
        outbox.remove(3);
        outbox.put(report(kinds::POD_STATUS, "p", "u"));
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn events_are_bounded_and_the_oldest_goes() {
        let outbox = Outbox::default();
        for i in 0..=MAX_EVENTS {
            outbox.put(report(kinds::EVENT, &i.to_string(), "u"));
        }
        assert_eq!(outbox.len(), MAX_EVENTS);
        assert_eq!(outbox.take_superseded(), [1]);
    }
}
