//! Keys that are known to be deleted: by a watched DELETE or a GET that said 404.
//!
//! Owned by the cache. Bounded; forgetting one costs a GET, never a wrong answer.

use std::collections::{HashMap, VecDeque};

use skerry_common::Key;

/// Remembered deletions per kind: more than any burst of deletes that nodes have yet to acknowledge.
pub(crate) const GONE_LIMIT: usize = 65_536;

/// A bounded set that forgets the oldest.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    keys: HashMap<Key, u64>,
    order: VecDeque<(Key, u64)>,
    next: u64,
}

impl Gone {
    pub(crate) fn insert(&mut self, key: Key) {
        self.next += 1;
        self.keys.insert(key.clone(), self.next);
        self.order.push_back((key, self.next));
        while self.keys.len() > GONE_LIMIT || self.order.len() > 2 * GONE_LIMIT {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            if self.keys.get(&oldest) == Some(&number) {
                self.keys.remove(&oldest);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        self.keys.remove(key).is_some()
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut gone = Gone::default();
        let key = |i: usize| Key::new("ns", format!("k{i}"));
        for i in 0..GONE_LIMIT + 10 {
            gone.insert(key(i));
        }
        assert!(!gone.contains(&key(9)));
        assert!(gone.contains(&key(10)));
        for _ in 0..3 * GONE_LIMIT {
            gone.insert(key(1));
            gone.remove(&key(1));
        }
        assert!(gone.order.len() <= 2 * GONE_LIMIT);
    }
}
