//! A request rate per identity, in one integer: the generic cell rate algorithm.
//!
//! The integer is the time at which the bucket would be full again; a request moves it by one
//! interval and is refused when it would lie more than the burst ahead of now.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Rate;

const MICROS: u64 = 1_000_000;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Whether one more request may go on now.
    pub(crate) fn take(&self, now_ms: u64, rate: Rate) -> bool {
        let now = now_ms.saturating_mul(1000);
        let interval = MICROS / u64::from(rate.per_second.max(1));
        let ahead = interval.saturating_mul(u64::from(rate.burst));
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now).saturating_add(interval);
                (next <= now.saturating_add(ahead)).then_some(next)
            })
            .is_ok()
    }

    /// Whether the bucket is as good as new.
    pub(crate) fn is_full(&self, now_ms: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now_ms.saturating_mul(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let rate = Rate { per_second: 50, burst: 200 };
        let bucket = Bucket::default();
        assert_eq!((0..1000).filter(|_| bucket.take(1, rate)).count(), 200);
        assert!(!bucket.is_full(1));
        // One second later there are fifty more.
        assert_eq!((0..1000).filter(|_| bucket.take(1001, rate)).count(), 50);
        assert!(bucket.is_full(6000));
        assert_eq!((0..1000).filter(|_| bucket.take(60_000, rate)).count(), 200);
    }
}
