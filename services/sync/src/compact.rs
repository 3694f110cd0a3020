//! A map that costs little when it is small, for processes with tens of thousands of them.
//!
//! Most subscriptions hold a handful of objects, some hold thousands. Up to [`SMALL`] entries are a
//! sorted vector (no allocation when empty, no slack of tree nodes), more are a B-tree; the change
//! back happens at half of that, so that a map at the border does not flap. Order of iteration is
//! the order of the keys: the same inputs give the same outputs.

use std::collections::{BTreeMap, btree_map};

/// Entries up to which a sorted vector is kept: moving 32 entries is cheaper than one cache miss
/// of a tree that is twice as large.
const SMALL: usize = 32;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum CompactMap<K, V> {
    Small(Vec<(K, V)>),
    Large(BTreeMap<K, V>),
}

impl<K: Ord, V> CompactMap<K, V> {
    pub(crate) const fn new() -> Self {
        Self::Small(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Small(entries) => entries.len(),
            Self::Large(map) => map.len(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Small(entries) => {
                let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                entries.get(at).map(|(_, value)| value)
            }
            Self::Large(map) => map.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Small(entries) => {
                let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                entries.get_mut(at).map(|(_, value)| value)
            }
            Self::Large(map) => map.get_mut(key),
        }
    }

    /// Inserts or replaces; an entry that exists keeps its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self {
            Self::Large(map) => {
                map.insert(key, value);
            }
            Self::Small(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(at) => {
                    if let Some(entry) = entries.get_mut(at) {
                        entry.1 = value;
                    }
                }
                Err(at) if entries.len() < SMALL => {
                    if entries.len() == entries.capacity() {
                        // Grow by halves: four is much for a map that mostly has one or two.
                        entries.reserve_exact((entries.len() / 2).max(1));
                    }
                    entries.insert(at, (key, value));
                }
                Err(_) => {
                    let mut map: BTreeMap<K, V> = std::mem::take(entries).into_iter().collect();
                    map.insert(key, value);
                    *self = Self::Large(map);
                }
            },
        }
    }

    /// Removes an entry and gives memory back that is not needed any more.
    pub(crate) fn remove(&mut self, key: &K) -> Option<(K, V)> {
        match self {
            Self::Small(entries) => {
                let at = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                let removed = entries.remove(at);
                if entries.len() < entries.capacity() / 4 || entries.is_empty() {
                    entries.shrink_to_fit();
                }
                Some(removed)
            }
            Self::Large(map) => {
                let removed = map.remove_entry(key);
                if map.len() <= SMALL / 2 {
                    let entries: Vec<(K, V)> = std::mem::take(map).into_iter().collect();
                    *self = Self::Small(entries);
                }
                removed
            }
        }
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        match self {
            Self::Small(entries) => Iter::Small(entries.iter()),
            Self::Large(map) => Iter::Large(map.iter()),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

/// Iterator in the order of the keys.
pub(crate) enum Iter<'a, K, V> {
    Small(std::slice::Iter<'a, (K, V)>),
    Large(btree_map::Iter<'a, K, V>),
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Small(entries) => entries.next().map(|(key, value)| (key, value)),
            Self::Large(map) => map.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u8, u16),
        Remove(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (any::<u8>(), any::<u16>()).prop_map(|(k, v)| Op::Insert(k, v)),
            2 => any::<u8>().prop_map(Op::Remove),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_btree(ops in proptest::collection::vec(op(), 0..400)) {
            let mut map = CompactMap::new();
            let mut model = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(k, v) => {
                        map.insert(k, v);
                        model.insert(k, v);
                    }
                    Op::Remove(k) => prop_assert_eq!(map.remove(&k), model.remove_entry(&k)),
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
            }
            for k in 0..=u8::MAX {
                prop_assert_eq!(map.get(&k), model.get(&k));
                prop_assert_eq!(map.get_mut(&k), model.get_mut(&k));
            }
        }
    }

    #[test]
    fn gives_memory_back_when_it_empties() {
        let mut map = CompactMap::new();
        for k in 0..1000_u32 {
            map.insert(k, k);
        }
        assert!(matches!(map, CompactMap::Large(_)));
        for k in 0..1000 {
            map.remove(&k);
        }
        assert!(matches!(map, CompactMap::Small(entries) if entries.capacity() == 0));
    }
}
