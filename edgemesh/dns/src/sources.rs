//! How much one source may ask: a bucket of tokens for each address.
//!
//! Called for every question before it is answered. An answer from memory costs one token, one that has to be asked for
//! costs [`UPSTREAM_COST`]: a pod that floods the node with names that nobody has ever heard of must not take the
//! node's name servers from the others. Programs of the host share one source.
//!
//! Limits: [`MAX_SOURCES`] addresses; the one that was silent longest is forgotten first, and begins with a full bucket.

use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Addresses that are remembered: pods of one node are a few hundred.
pub(crate) const MAX_SOURCES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// Tokens for a question that goes to a name server.
pub(crate) const UPSTREAM_COST: u32 = 50;
/// What may come at once.
const BURST: Duration = Duration::from_secs(1);

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// See the module documentation.
pub(crate) struct Sources {
    per_second: f64,
    buckets: Mutex<LruCache<IpAddr, Bucket, RandomState>>,
}

impl Sources {
    /// So many tokens a second for each source.
    pub(crate) fn new(per_second: u32) -> Self {
        let buckets = LruCache::with_hasher(MAX_SOURCES, RandomState::new());
        Self { per_second: f64::from(per_second), buckets: Mutex::new(buckets) }
    }

    /// Takes tokens; false when there are not enough.
    pub(crate) fn take(&self, source: IpAddr, cost: u32, now: Instant) -> bool {
        let full = self.per_second * BURST.as_secs_f64();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_or_insert_mut(source, || Bucket { tokens: full, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_second).min(full);
        bucket.at = now;
        let cost = f64::from(cost).min(full);
        let enough = bucket.tokens >= cost;
        if enough {
            bucket.tokens -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn a_source_that_asks_too_much_waits_and_the_others_do_not() {
        let sources = Sources::new(100);
        let start = Instant::now();
        assert_eq!((0..200).filter(|_| sources.take(POD, 1, start)).count(), 100);
        assert!(sources.take(Ipv4Addr::new(10, 0, 0, 2).into(), 1, start), "another source has its own");
        let later = start + Duration::from_millis(500);
        assert_eq!((0..200).filter(|_| sources.take(POD, 1, later)).count(), 50);
    }

    #[test]
    fn a_question_for_upstream_costs_more() {
        let sources = Sources::new(100);
        let start = Instant::now();
        assert_eq!((0..200).filter(|_| sources.take(POD, UPSTREAM_COST, start)).count(), 2);
    }

    #[test]
    fn sources_are_bounded() {
        let sources = Sources::new(1);
        let start = Instant::now();
        for number in 0..u32::try_from(MAX_SOURCES.get() * 2).unwrap() {
            sources.take(Ipv4Addr::from(number).into(), 1, start);
        }
        assert_eq!(sources.buckets.lock().unwrap().len(), MAX_SOURCES.get());
    }
}
