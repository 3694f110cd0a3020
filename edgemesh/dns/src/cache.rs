//! Answers that are kept: bounded in number and in bytes, the least recently used goes first.
//!
//! Used by the answerer for each question, from several sockets at once. Time comes in. An answer is fresh for its time
//! to live, then stale for a while in which it is better than nothing (RFC 8767), then gone.
//!
//! Limits: [`Limits`], both at once. A full cache forgets; it never refuses.

use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::packet::{Age, Packet};

/// What a cache may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    /// For how long an answer may be used after its time to live.
    pub(crate) stale: Duration,
}

struct Entry {
    packet: Arc<Packet>,
    stored: Instant,
    ttl: Duration,
    bytes: usize,
}

/// An answer that was found.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) packet: Arc<Packet>,
    pub(crate) age: Age,
    /// Near to its end: somebody still asks, so it is worth asking again before it is over.
    pub(crate) ending: bool,
}

/// See the module documentation.
pub(crate) struct Cache {
    limits: Limits,
    inner: Mutex<Inner>,
}

struct Inner {
    // Names come from the network: the hash is keyed.
    entries: LruCache<Box<[u8]>, Entry, RandomState>,
    bytes: usize,
    generation: u64,
}

/// Overhead of an entry beside its key and packet: links, hash, pointers.
const ENTRY_BYTES: usize = 160;
/// A tenth of its time is left: then it is asked for again.
const ENDING: u32 = 10;
/// Shorter times are not worth it.
const MIN_PREFETCH: Duration = Duration::from_secs(5);

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        let entries = LruCache::unbounded_with_hasher(RandomState::new());
        Self { limits, inner: Mutex::new(Inner { entries, bytes: 0, generation: 0 }) }
    }

    /// What is there for this key, of this generation of the whole.
    pub(crate) fn get(&self, key: &[u8], generation: u64, now: Instant) -> Option<Hit> {
        let mut inner = self.lock();
        if inner.generation != generation {
            return None;
        }
        let entry = inner.entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored);
        if age < entry.ttl {
            let left = entry.ttl - age;
            let ending = entry.ttl >= MIN_PREFETCH && left * ENDING < entry.ttl;
            let age = Age::Seconds(u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
            Some(Hit { packet: entry.packet.clone(), age, ending })
        } else if age < entry.ttl + self.limits.stale {
            Some(Hit { packet: entry.packet.clone(), age: Age::Stale, ending: false })
        } else {
            None
        }
    }

    /// Keeps an answer. One of another generation than the last begins anew; an older one is not kept.
    pub(crate) fn put(&self, key: &[u8], packet: Arc<Packet>, ttl: Duration, generation: u64, now: Instant) {
        let bytes = key.len() + packet.bytes() + ENTRY_BYTES;
        let mut inner = self.lock();
        if generation < inner.generation || ttl.is_zero() || bytes > self.limits.bytes {
            return;
        }
        if generation > inner.generation {
            inner.entries.clear();
            inner.bytes = 0;
            inner.generation = generation;
        }
        inner.bytes += bytes;
        if let Some(old) = inner.entries.put(key.into(), Entry { packet, stored: now, ttl, bytes }) {
            inner.bytes -= old.bytes;
        }
        while inner.bytes > self.limits.bytes || inner.entries.len() > self.limits.entries {
            let Some((_, old)) = inner.entries.pop_lru() else {
                break;
            };
            inner.bytes -= old.bytes;
        }
    }

    pub(crate) fn remove(&self, key: &[u8]) {
        let mut inner = self.lock();
        if let Some(old) = inner.entries.pop(key) {
            inner.bytes -= old.bytes;
        }
    }

    /// How many answers are kept, and the bytes that they take.
    pub(crate) fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.entries.len(), inner.bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
