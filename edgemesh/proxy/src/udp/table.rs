//! Which flows there are: a bounded map that gives up what has been idle for the longest time.
//!
//! No IO and no clock. Both directions of a flow stamp it without a lock; the order is put right when it is
//! needed: the recorded stamp of a flow is never newer than its real one, so a flow whose recorded stamp is the
//! oldest and also its real one is the one that has been idle for the longest time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// When a flow was used last, on any clock that does not go back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stamp(Arc<AtomicU64>);

impl Stamp {
    /// Used now. An older time than the one there is leaves it.
    pub(crate) fn touch(&self, now: u64) {
        self.0.fetch_max(now, Ordering::Relaxed);
    }

    /// When it was used last.
    pub(crate) fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    stamp: Stamp,
    /// Its place in the order: a stamp and a number that no other flow has.
    place: (u64, u64),
}

/// At most so many flows.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    most: usize,
    flows: HashMap<K, Entry<V>>,
    order: BTreeMap<(u64, u64), K>,
    next: u64,
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, flows: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.flows.len()
    }

    /// The flow of a key.
    pub(crate) fn get(&self, key: &K) -> Option<(&V, &Stamp)> {
        self.flows.get(key).map(|entry| (&entry.value, &entry.stamp))
    }

    /// A new flow, in place of one of the same key, and its number. The one that had to go comes back.
    pub(crate) fn insert(&mut self, key: K, value: V, stamp: Stamp) -> (u64, Option<V>) {
        let mut gone = self.take(&key);
        if gone.is_none() && self.flows.len() >= self.most {
            gone = self.oldest().and_then(|key| self.take(&key));
        }
        let number = self.next;
        self.next += 1;
        let place = (stamp.last(), number);
        self.order.insert(place, key.clone());
        self.flows.insert(key, Entry { value, stamp, place });
        (number, gone)
    }

    /// Removes a flow, unless another has its key by now.
    pub(crate) fn remove(&mut self, key: &K, number: u64) -> Option<V> {
        self.flows.get(key).is_some_and(|entry| entry.place.1 == number).then(|| self.take(key)).flatten()
    }

    fn take(&mut self, key: &K) -> Option<V> {
        let entry = self.flows.remove(key)?;
        self.order.remove(&entry.place);
        Some(entry.value)
    }

    fn oldest(&mut self) -> Option<K> {
        loop {
            let (place, key) = self.order.pop_first()?;
            let entry = self.flows.get_mut(&key)?;
            let last = entry.stamp.last();
            if last == place.0 {
                self.order.insert(place, key.clone());
                return Some(key);
            }
            entry.place.0 = last;
            self.order.insert(entry.place, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flow_that_has_a_successor_does_not_remove_it() {
        let mut table = Table::new(4);
        let (first, _) = table.insert("a", 1, Stamp::default());
        let (second, gone) = table.insert("a", 2, Stamp::default());
        assert_eq!(gone, Some(1));
        assert_eq!(table.remove(&"a", first), None);
        assert_eq!(table.remove(&"a", second), Some(2));
        assert_eq!((table.len(), table.order.len()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Use(u8),
        End(u8),
    }

    proptest! {
        /// Against a model that looks at every flow: the bound holds, and who goes is who was used longest ago.
        #[test]
        fn the_one_that_was_idle_longest_goes(
            steps in proptest::collection::vec(
                prop_oneof![4 => (0u8..24).prop_map(Step::Use), 1 => (0u8..24).prop_map(Step::End)], 1..200)
        ) {
            const MOST: usize = 8;
            let mut table = Table::new(MOST);
            let mut model: HashMap<u8, (u64, u64)> = HashMap::new();
            for (now, step) in (1u64..).zip(steps) {
                match step {
                    Step::Use(key) => if let Some((_, stamp)) = table.get(&key) {
                        stamp.touch(now);
                        model.get_mut(&key).unwrap().0 = now;
                    } else {
                        let expected = (model.len() == MOST)
                            .then(|| *model.iter().min_by_key(|(_, used)| used.0).unwrap().0);
                        if let Some(gone) = expected {
                            model.remove(&gone);
                        }
                        let stamp = Stamp::default();
                        stamp.touch(now);
                        let (number, gone) = table.insert(key, key, stamp);
                        prop_assert_eq!(gone, expected);
                        model.insert(key, (now, number));
                    },
                    Step::End(key) => {
                        let number = model.remove(&key).map(|used| used.1);
                        prop_assert_eq!(table.remove(&key, number.unwrap_or(u64::MAX)), number.map(|_| key));
                    }
                }
                prop_assert!(table.len() <= MOST);
                prop_assert_eq!((table.len(), table.order.len()), (model.len(), model.len()));
            }
        }
    }
}
