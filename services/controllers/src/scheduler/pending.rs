//! The pods that wait for a node: ready to be tried, backing off, or parked until something changes.
//!
//! No IO and no clock: the time comes in. Higher priority first, then older first.
//!
//! Invariants: a pod is in exactly one place; a parked pod is tried again after `flush` at the latest;
//! between two tries of a pod lies at least its backoff.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use skerry_common::Key;
use tokio::time::Instant;

/// What can help a pod that fits nowhere now, beside a change of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// Nothing else.
    Nodes,
    /// A pod that leaves its node.
    Room,
    /// A pod that comes or goes.
    Peers,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A node has changed.
    Node,
    /// A pod has left its node.
    Left,
    /// A pod has come to a node.
    Came,
}

impl WaitsFor {
    fn helped_by(self, cause: Cause) -> bool {
        match cause {
            Cause::Node => true,
            Cause::Left => self != Self::Nodes,
            Cause::Came => self == Self::Peers,
        }
    }
}

type Order = (Reverse<i32>, Option<Timestamp>, Key);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Parked {
        since: Instant,
        waits: WaitsFor,
    },
    /// Popped: a decision or a call is under way.
    Out,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    tried: Option<Instant>,
    place: Place,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Pending {
    entries: HashMap<Key, Entry>,
    active: BTreeSet<Order>,
    backoff: BTreeSet<(Instant, Key)>,
    parked: HashSet<Key>,
    /// How many of `parked` wait for room and for peers: many pods come and go while none does.
    waiting: (usize, usize),
    limits: (Duration, Duration),
    flush: Duration,
}

fn order(key: &Key, pod: &Pod) -> Order {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    (Reverse(priority), pod.metadata.creation_timestamp.as_ref().map(|t| t.0), key.clone())
}

impl Pending {
    /// `limits` are the first and the longest backoff.
    pub(crate) fn new(limits: (Duration, Duration), flush: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            parked: HashSet::new(),
            waiting: (0, 0),
            limits,
            flush,
        }
    }

    /// A pod without node is seen. A new one, or one whose spec changed, may be tried now.
    pub(crate) fn offer(&mut self, key: &Key, pod: &Arc<Pod>) {
        if let Some(entry) = self.entries.get_mut(key) {
            let same_pod = entry.pod.metadata.uid == pod.metadata.uid;
            if same_pod && (entry.pod.spec == pod.spec || entry.place == Place::Out) {
                entry.pod = pod.clone();
                return;
            }
            self.remove(key);
        }
        self.active.insert(order(key, pod));
        self.entries.insert(key.clone(), Entry { pod: pod.clone(), attempts: 0, tried: None, place: Place::Active });
    }

    /// The pod is bound or gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        match entry.place {
            Place::Active => {
                self.active.remove(&order(key, &entry.pod));
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(at, key.clone()));
            }
            Place::Parked { waits, .. } => self.unpark(key, waits),
            Place::Out => {}
        }
    }

    /// The next pod to try.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Key, Arc<Pod>)> {
        self.promote(now);
        let (_, _, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Out;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.tried = Some(now);
        Some((key, entry.pod.clone()))
    }

    /// A popped pod fits nowhere.
    pub(crate) fn park(&mut self, key: &Key, waits: WaitsFor, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Parked { since: now, waits };
            self.parked.insert(key.clone());
            self.waiting.0 += usize::from(waits == WaitsFor::Room);
            self.waiting.1 += usize::from(waits == WaitsFor::Peers);
        }
    }

    fn unpark(&mut self, key: &Key, waits: WaitsFor) {
        if self.parked.remove(key) {
            self.waiting.0 -= usize::from(waits == WaitsFor::Room);
            self.waiting.1 -= usize::from(waits == WaitsFor::Peers);
        }
    }

    /// The call for a popped pod failed.
    pub(crate) fn failed(&mut self, key: &Key, now: Instant) {
        self.wake(key.clone(), now);
    }

    /// Something happened: parked pods that it can help are tried again after their backoff.
    pub(crate) fn wake_parked(&mut self, cause: Cause, now: Instant) {
        let (room, peers) = self.waiting;
        let nobody = match cause {
            Cause::Node => self.parked.is_empty(),
            Cause::Left => room + peers == 0,
            Cause::Came => peers == 0,
        };
        if !nobody {
            self.wake_if(now, |_, waits| waits.helped_by(cause));
        }
    }

    /// Wakes what has been parked for too long. Call it now and then.
    pub(crate) fn flush(&mut self, now: Instant) {
        let flush = self.flush;
        self.wake_if(now, |since, _| now - since >= flush);
    }

    fn wake_if(&mut self, now: Instant, due: impl Fn(Instant, WaitsFor) -> bool) {
        let is_due = |key: &&Key| match self.entries.get(*key).map(|e| e.place) {
            Some(Place::Parked { since, waits }) => due(since, waits),
            _ => false,
        };
        let keys: Vec<Key> = self.parked.iter().filter(is_due).cloned().collect();
        for key in keys {
            self.wake(key, now);
        }
    }

    fn wake(&mut self, key: Key, now: Instant) {
        let (first, longest) = self.limits;
        if let Some(Place::Parked { waits, .. }) = self.entries.get(&key).map(|e| e.place) {
            self.unpark(&key, waits);
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let exponent = entry.attempts.saturating_sub(1).min(16);
        let backoff = first.saturating_mul(1 << exponent).min(longest);
        match entry.tried.map(|t| t + backoff).filter(|at| *at > now) {
            Some(at) => {
                entry.place = Place::Backoff(at);
                self.backoff.insert((at, key));
            }
            None => {
                entry.place = Place::Active;
                self.active.insert(order(&key, &entry.pod));
            }
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some((at, _)) = self.backoff.first()
            && *at <= now
        {
            let Some((_, key)) = self.backoff.pop_first() else { return };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Active;
                self.active.insert(order(&key, &entry.pod));
            }
        }
    }

    /// Is a pod ready to be tried?
    #[cfg(test)]
    pub(crate) fn has_active(&mut self, now: Instant) -> bool {
        self.promote(now);
        !self.active.is_empty()
    }

    /// When the next backoff ends.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.backoff.first().map(|(at, _)| *at)
    }

    /// Pods that fitted nowhere when they were last tried.
    pub(crate) fn unschedulable(&self) -> usize {
        self.entries.values().filter(|e| matches!(e.place, Place::Parked { .. } | Place::Backoff(_))).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, created: &str) -> (Key, Arc<Pod>) {
        let pod = json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"containers": [], "priority": priority}});
        (Key::new("ns", name), Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn pending() -> Pending {
        Pending::new((Duration::from_secs(1), Duration::from_secs(10)), Duration::from_secs(300))
    }

    #[tokio::test(start_paused = true)]
    async fn priority_then_age() {
        let mut p = pending();
        for (name, priority, created) in [
            ("young", 0, "2026-01-02T00:00:00Z"),
            ("old", 0, "2026-01-01T00:00:00Z"),
            ("vip", 9, "2026-01-03T00:00:00Z"),
        ] {
            let (key, pod) = pod(name, priority, created);
            p.offer(&key, &pod);
            p.offer(&key, &pod);
        }
        let now = Instant::now();
        let order: Vec<_> = std::iter::from_fn(|| p.pop(now)).map(|(k, _)| k.name.to_string()).collect();
        assert_eq!(order, ["vip", "old", "young"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_pod_waits_for_a_change_that_can_help_and_for_its_backoff() {
        let mut p = pending();
        let (key, pod) = pod("a", 0, "2026-01-01T00:00:00Z");
        p.offer(&key, &pod);
        let start = Instant::now();
        p.pop(start).unwrap();
        p.park(&key, WaitsFor::Nodes, start);
        p.offer(&key, &pod);
        assert!(!p.has_active(start), "its own status write must not wake it");
        p.wake_parked(Cause::Left, start);
        p.wake_parked(Cause::Came, start);
        assert_eq!(p.next_wake(), None, "room does not help it");
        p.wake_parked(Cause::Node, start);
        assert_eq!(p.next_wake(), Some(start + Duration::from_secs(1)));
        assert!(p.has_active(start + Duration::from_secs(1)));
        let second = start + Duration::from_secs(1);
        p.pop(second).unwrap();
        p.failed(&key, second);
        assert_eq!(p.next_wake(), Some(second + Duration::from_secs(2)), "backoff doubles");
        p.remove(&key);
        assert_eq!(p.next_wake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_come_and_go_wake_those_they_can_help() {
        for (waits, left, came) in
            [(WaitsFor::Nodes, false, false), (WaitsFor::Room, true, false), (WaitsFor::Peers, true, true)]
        {
            for (cause, wakes) in [(Cause::Left, left), (Cause::Came, came), (Cause::Node, true)] {
                let mut p = pending();
                let (key, pod) = pod("a", 0, "2026-01-01T00:00:00Z");
                let now = Instant::now();
                p.offer(&key, &pod);
                p.pop(now).unwrap();
                p.park(&key, waits, now);
                p.wake_parked(cause, now);
                assert_eq!(p.next_wake().is_some(), wakes, "{waits:?} {cause:?}");
                p.remove(&key);
                assert_eq!((p.waiting, p.parked.len()), ((0, 0), 0));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_spec_is_tried_at_once_and_flush_wakes_the_rest() {
        let mut p = pending();
        let (key, before) = pod("a", 0, "2026-01-01T00:00:00Z");
        let (_, after) = pod("a", 1, "2026-01-01T00:00:00Z");
        let now = Instant::now();
        p.offer(&key, &before);
        p.pop(now).unwrap();
        p.park(&key, WaitsFor::Nodes, now);
        p.offer(&key, &after);
        assert!(p.has_active(now));
        p.pop(now).unwrap();
        p.park(&key, WaitsFor::Nodes, now);
        assert_eq!(p.unschedulable(), 1);
        p.flush(now + Duration::from_secs(299));
        assert_eq!(p.next_wake(), None);
        p.flush(now + Duration::from_secs(301));
        assert!(p.has_active(now + Duration::from_secs(301)));
    }
}
