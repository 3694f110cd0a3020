//! Answers of name servers: what is kept of them, and what of it may be given.
//!
//! Two caches, so that a flood of names that do not exist pushes out nothing that does. A failure is kept among the
//! negative ones for a moment; it never replaces an answer that could still be given stale.

use std::time::Instant;

use crate::cache::{Cache, Hit};
use crate::config::Config;
use crate::lifetime;
use crate::metrics::Metrics;
use crate::packet::{Age, Explanation, NO_ERROR, NX_DOMAIN};
use crate::upstream::forward::{End, Outcome};

/// The generation of everything here: it never begins anew.
const ALWAYS: u64 = 0;

/// What there is without asking.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// An answer to give; when it is near its end it should be asked for again.
    Fresh(Hit),
    /// An answer whose time is over. `just_failed`: asking again so soon makes no sense.
    Stale {
        /// It.
        hit: Hit,
        /// Why it is given.
        why: Explanation,
        /// A server was asked a moment ago.
        just_failed: bool,
    },
    /// Nothing.
    Nothing,
}

/// See the module documentation.
pub(crate) struct Store {
    positive: Cache,
    negative: Cache,
    metrics: Metrics,
}

impl Store {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        Self { positive: Cache::new(config.positive()), negative: Cache::new(config.negative()), metrics }
    }

    /// What is there for a question.
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Known {
        let positive = self.positive.get(key, ALWAYS, now);
        if let Some(hit) = positive.as_ref().filter(|hit| hit.age != Age::Stale) {
            return Known::Fresh(hit.clone());
        }
        let negative = self.negative.get(key, ALWAYS, now);
        let failed = negative.as_ref().is_some_and(is_failure);
        let fresh = negative.as_ref().is_some_and(|hit| hit.age != Age::Stale);
        match (positive, negative) {
            (Some(hit), _) => Known::Stale { hit, why: Explanation::STALE, just_failed: failed && fresh },
            (None, Some(hit)) if fresh => Known::Fresh(hit),
            // A failure is never given after its time.
            (None, Some(hit)) if !failed => Known::Stale { hit, why: Explanation::STALE_NX, just_failed: false },
            (None, _) => Known::Nothing,
        }
    }

    /// Keeps what became of a question.
    pub(crate) fn keep(&self, key: &[u8], outcome: &Outcome, now: Instant) {
        let packet = outcome.packet.clone();
        match outcome.end {
            End::Answer(lifetime) => {
                let (into, other) = match lifetime.positive {
                    true => (&self.positive, &self.negative),
                    false => (&self.negative, &self.positive),
                };
                // Also when it may not be kept: what was there is not true any more.
                other.remove(key);
                into.remove(key);
                into.put(key, packet, lifetime.ttl, ALWAYS, now);
            }
            End::Refused | End::Unreachable => match self.get(key, now) {
                Known::Fresh(_) | Known::Stale { why: Explanation::STALE_NX, .. } => {}
                Known::Stale { .. } => self.negative.put(key, packet, lifetime::FAILURE_WITH_STALE, ALWAYS, now),
                Known::Nothing => self.negative.put(key, packet, lifetime::FAILURE, ALWAYS, now),
            },
        }
        let ((entries, bytes), (negative, negative_bytes)) = (self.positive.size(), self.negative.size());
        self.metrics.cache_entries.set(i64::try_from(entries + negative).unwrap_or(i64::MAX));
        self.metrics.cache_bytes.set(i64::try_from(bytes + negative_bytes).unwrap_or(i64::MAX));
    }
}

fn is_failure(hit: &Hit) -> bool {
    ![NO_ERROR, NX_DOMAIN].contains(&hit.packet.code())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
