//! A set of things to do, each at most once, and a rate at which to do them.
//!
//! Used by the confirmer and the token minter: subscriptions put keys in (sync code, under locks), a few
//! tasks take them out. Level triggered: what is in the set already is not added again.
//! Limits: [`WORK_LIMIT`] entries; what does not fit is dropped and counted, and comes back with the next
//! look of its subscription (at the latest after a minute).

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Entries that one set keeps: every object of 1,000 nodes that come back at once after a truncated list.
pub(crate) const WORK_LIMIT: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub struct WorkSet<T> {
    state: Mutex<State<T>>,
    notify: Notify,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    members: HashSet<T>,
    dropped: u64,
}

impl<T> Default for WorkSet<T> {
    fn default() -> Self {
        let state = State { queue: VecDeque::new(), members: HashSet::new(), dropped: 0 };
        Self { state: Mutex::new(state), notify: Notify::new() }
    }
}

impl<T: Clone + Eq + Hash> WorkSet<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds it, unless it waits already or the set is full.
    pub fn push(&self, item: T) {
        let mut state = self.lock();
        if state.queue.len() >= WORK_LIMIT {
            state.dropped += 1;
        } else if state.members.insert(item.clone()) {
            state.queue.push_back(item);
            drop(state);
            self.notify.notify_one();
        }
    }

    /// Waits for the oldest. Cancel safe.
    pub async fn pop(&self) -> T {
        loop {
            let notified = self.notify.notified();
            if let Some(item) = self.try_pop() {
                return item;
            }
            notified.await;
        }
    }

    fn try_pop(&self) -> Option<T> {
        let mut state = self.lock();
        let item = state.queue.pop_front()?;
        state.members.remove(&item);
        if !state.queue.is_empty() {
            // One permit may stand for several entries when several tasks wait.
            self.notify.notify_one();
        }
        Some(item)
    }

    /// Entries that wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }
}

/// A rate with a burst (GCRA). Those who wait are served in the order in which they came.
#[derive(Debug)]
pub struct RateLimit {
    /// When the next call would be due if there was no burst.
    next: Mutex<Option<Instant>>,
    interval: Duration,
    tolerance: Duration,
}

impl RateLimit {
    /// `per_second` calls in the long run, `burst` at once after a pause.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { next: Mutex::new(None), interval, tolerance: interval * burst.saturating_sub(1) }
    }

    /// Waits until the call may be made. A cancelled wait keeps its place in the rate.
    pub async fn acquire(&self) {
        let now = Instant::now();
        let due = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(self.tolerance).unwrap_or(now);
            let due = next.unwrap_or(earliest).max(earliest);
            *next = Some(due + self.interval);
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

/// A rate for each of many: who is too fast is told when to come back, the others do not notice.
#[derive(Debug)]
pub struct RatePerKey<K> {
    next: Mutex<HashMap<K, Instant>>,
    interval: Duration,
    tolerance: Duration,
}

/// Keys whose rate is remembered before those that rest are forgotten.
const REMEMBERED: usize = 20_000;

impl<K: Clone + Eq + Hash> RatePerKey<K> {
    /// `per_second` turns in the long run of each, `burst` at once after a pause.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { next: Mutex::default(), interval, tolerance: interval * burst.saturating_sub(1) }
    }

    /// Takes one turn.
    ///
    /// # Errors
    /// How long to wait, when it is too early; no turn is taken then.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= REMEMBERED {
            next.retain(|_, at| *at > now);
        }
        let due = next.get(key).copied().unwrap_or(now).max(now);
        let early = due.duration_since(now).saturating_sub(self.tolerance);
        if !early.is_zero() {
            return Err(early);
        }
        next.insert(key.clone(), due + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once() {
        let set = WorkSet::default();
        set.push(1);
        set.push(2);
        set.push(1);
        assert_eq!(set.waiting(), 2);
        assert_eq!((set.pop().await, set.pop().await), (1, 2));
        set.push(1);
        assert_eq!(set.pop().await, 1);
    }

    #[tokio::test]
    async fn a_full_set_drops_and_counts() {
        let set = WorkSet::default();
        for i in 0..WORK_LIMIT + 5 {
            set.push(i);
        }
        assert_eq!(set.waiting(), WORK_LIMIT);
        assert_eq!(set.lock().dropped, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds() {
        let limit = RateLimit::new(200, 50);
        let started = Instant::now();
        for _ in 0..1_050 {
            limit.acquire().await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(4_900) && took <= Duration::from_millis(5_100), "{took:?}");
    }

    /// The control: with the rate out of the way everybody who comes back is let through at once.
    #[tokio::test(start_paused = true)]
    async fn control_without_the_rate_all_come_at_once() {
        let limit = RateLimit::new(1_000_000, 1_050);
        let started = Instant::now();
        for _ in 0..1_050 {
            limit.acquire().await;
        }
        assert!(started.elapsed() < Duration::from_millis(10), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_too_fast_slows_only_itself() {
        let rate = RatePerKey::new(50, 10);
        assert!((0..10).all(|_| rate.take(&1).is_ok()));
        assert_eq!(rate.take(&1), Err(Duration::from_millis(20)));
        assert!(rate.take(&2).is_ok());
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(rate.take(&1).is_ok());
        assert!(rate.take(&1).is_err());
    }
}
