//! Drops reports that were committed a moment ago.
//!
//! **For:** sparing the Kubernetes API the writes that a node repeats because the answer to the
//! first was lost. It is only a saving: a report that is older than what is remembered is written
//! again, so every write must be harmless when it is repeated (a status is replaced by itself, an
//! Event has a name made of its node and id).
//!
//! **Called by** a sink, one for each node, after the fence.
//!
//! **Invariants.** Never says "seen" of an id that was not recorded: nothing is lost by it.
//!
//! **Limits.** Remembers the last `limit` ids. **Crash:** starts empty.

use std::collections::{BTreeSet, VecDeque};

/// The ids committed last; see the module.
#[derive(Debug)]
pub struct Dedup {
    limit: usize,
    ids: BTreeSet<u64>,
    order: VecDeque<u64>,
}

impl Dedup {
    /// Remembers at most `limit` ids (at least one). Twice the reporter's window is enough: no more
    /// can be in flight.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), ids: BTreeSet::new(), order: VecDeque::new() }
    }

    /// Was this report committed?
    #[must_use]
    pub fn seen(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// The report is committed.
    pub fn record(&mut self, id: u64) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Ids that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_invents_and_stays_small(
            limit in 0..16_usize,
            ids in proptest::collection::vec(0..40_u64, 0..200),
        ) {
            let mut dedup = Dedup::new(limit);
            let mut recorded = BTreeSet::new();
            for id in ids {
                prop_assert!(!dedup.seen(id) || recorded.contains(&id));
                dedup.record(id);
                recorded.insert(id);
                prop_assert!(dedup.seen(id));
                prop_assert!(dedup.len() <= limit.max(1));
            }
        }
    }
}
