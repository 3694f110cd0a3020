//! A keyed work queue: a key waits at most once, is worked on by at most one worker, and is retried
//! with a backoff of its own.
//!
//! Handlers call [`WorkQueue::add`] from informer tasks; workers call [`WorkQueue::next`] and
//! [`WorkQueue::done`] (see [`super::worker`]).
//!
//! Invariants: a key added while it is worked on is worked on again afterwards (no lost wake-up); two
//! workers never hold the same key; the queue holds keys, never objects, so ten changes are one run.
//!
//! Limits: [`MAX_KEYS`] distinct keys. A key that does not fit is dropped and the queue says that it
//! overflowed, upon which the worker loop adds every key of the cache again once there is room.
//! Crash, cancel: nothing is lost that the next list would not bring back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

/// Most distinct keys waiting: above the million pods that one installation is built for.
pub(crate) const MAX_KEYS: usize = 1 << 21;
/// First delay after a failure: short, since most failures are conflicts with our own last write.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest delay after failures: an object that cannot succeed now costs one run a minute.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

struct Inner<T> {
    ready: VecDeque<T>,
    /// Waiting in `ready`, or to be put there when the running reconcile is done.
    dirty: HashSet<T>,
    running: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, T>,
    /// The one delay that counts per key (the earliest), so that `delayed` stays bounded.
    delayed_at: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    next_id: u64,
}

/// The queue of one controller; see the module documentation.
pub(crate) struct WorkQueue<T> {
    inner: Mutex<Inner<T>>,
    wake: Notify,
    overflowed: AtomicBool,
    max_keys: usize,
}

impl<T: Hash + Eq + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::with_capacity(MAX_KEYS)
    }
}

impl<T: Hash + Eq + Clone> WorkQueue<T> {
    /// A queue that holds at most `max_keys` distinct keys.
    pub(crate) fn with_capacity(max_keys: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                running: HashSet::new(),
                delayed: BinaryHeap::new(),
                delayed_keys: HashMap::new(),
                delayed_at: HashMap::new(),
                failures: HashMap::new(),
                next_id: 0,
            }),
            wake: Notify::new(),
            overflowed: AtomicBool::new(false),
            max_keys,
        }
    }

    /// Asks for a run of `key` as soon as a worker is free.
    pub(crate) fn add(&self, key: T) {
        let mut inner = lock(&self.inner);
        self.push(&mut inner, key);
    }

    fn push(&self, inner: &mut Inner<T>, key: T) {
        if inner.dirty.contains(&key) {
            return;
        }
        if inner.dirty.len() >= self.max_keys {
            self.overflowed.store(true, Ordering::Relaxed);
            return;
        }
        inner.dirty.insert(key.clone());
        if !inner.running.contains(&key) {
            inner.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Asks for a run of `key` after `delay`; an earlier one that is already asked for stays.
    pub(crate) fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut inner = lock(&self.inner);
        match inner.delayed_at.get(&key) {
            Some((earlier, _)) if *earlier <= at => return,
            Some((_, id)) => {
                let id = *id;
                inner.delayed_keys.remove(&id);
            }
            None if inner.delayed_at.len() >= self.max_keys => {
                self.overflowed.store(true, Ordering::Relaxed);
                return;
            }
            None => {}
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.delayed_at.insert(key.clone(), (at, id));
        inner.delayed_keys.insert(id, key);
        inner.delayed.push(Reverse((at, id)));
        drop(inner);
        // A worker must learn that its sleep may now be too long.
        self.wake.notify_one();
    }

    /// Asks for a run of `key` after its own backoff, which doubles with each failure in a row.
    pub(crate) fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut inner = lock(&self.inner);
            let failures = inner.failures.entry(key.clone()).or_insert(0);
            let exponent = (*failures).min(20);
            *failures = failures.saturating_add(1);
            BACKOFF_MIN.saturating_mul(1 << exponent).min(BACKOFF_MAX)
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its backoff starts from the beginning next time.
    pub(crate) fn forget(&self, key: &T) {
        lock(&self.inner).failures.remove(key);
    }

    /// The next key to work on. Waits without end when there is none.
    pub(crate) async fn next(&self) -> T {
        loop {
            let notified = self.wake.notified();
            let sleep_until = {
                let mut inner = lock(&self.inner);
                let now = Instant::now();
                self.promote(&mut inner, now);
                if let Some(key) = inner.ready.pop_front() {
                    inner.dirty.remove(&key);
                    inner.running.insert(key.clone());
                    // Somebody else must take the rest, and keep the timer of what is delayed.
                    if !inner.ready.is_empty() || !inner.delayed.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                inner.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match sleep_until {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Takes up to `max` keys that are ready, without waiting and without marking them as worked on:
    /// for a single consumer that handles keys at once.
    pub(crate) fn drain(&self, max: usize) -> Vec<T> {
        let mut inner = lock(&self.inner);
        self.promote(&mut inner, Instant::now());
        let count = max.min(inner.ready.len());
        let keys: Vec<T> = inner.ready.drain(..count).collect();
        for key in &keys {
            inner.dirty.remove(key);
        }
        keys
    }

    fn promote(&self, inner: &mut Inner<T>, now: Instant) {
        while let Some(Reverse((at, id))) = inner.delayed.peek().copied() {
            if at > now {
                break;
            }
            inner.delayed.pop();
            if let Some(key) = inner.delayed_keys.remove(&id) {
                inner.delayed_at.remove(&key);
                self.push(inner, key);
            }
        }
    }

    /// The worker is finished with `key`; if it was added meanwhile it is ready again.
    pub(crate) fn done(&self, key: &T) {
        let mut inner = lock(&self.inner);
        inner.running.remove(key);
        if inner.dirty.contains(key) {
            inner.ready.push_back(key.clone());
            self.wake.notify_one();
        }
    }

    /// Keys waiting now.
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).dirty.len()
    }

    /// Did a key not fit since the last call?
    pub(crate) fn take_overflow(&self) -> bool {
        self.overflowed.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    async fn soon<T: Hash + Eq + Clone>(queue: &WorkQueue<T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_never_runs_twice_at_a_time() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(soon(&queue).await, Some("a"));
        queue.add("a");
        assert_eq!(soon(&queue).await, None, "a runs, so it must not be handed out");
        queue.done(&"a");
        assert_eq!(soon(&queue).await, Some("a"), "a change during a run is not lost");
        queue.done(&"a");
        assert_eq!(soon(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_resets() {
        let queue = WorkQueue::default();
        for expected in [10_u64, 20, 40] {
            queue.add_rate_limited("a");
            let before = Instant::now();
            assert_eq!(queue.next().await, "a");
            assert!(before.elapsed() >= Duration::from_millis(expected));
            assert!(before.elapsed() < Duration::from_millis(expected * 2));
            queue.done(&"a");
        }
        queue.forget(&"a");
        queue.add_rate_limited("a");
        let before = Instant::now();
        queue.next().await;
        assert!(before.elapsed() < Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_wins() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(30));
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(before.elapsed() < Duration::from_secs(2));
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(120), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_says_so() {
        let queue = WorkQueue::with_capacity(1);
        queue.add("a");
        queue.add("b");
        assert!(queue.take_overflow());
        assert!(!queue.take_overflow());
        assert_eq!(queue.len(), 1);
    }
}
