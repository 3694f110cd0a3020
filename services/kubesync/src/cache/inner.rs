//! The cache's data and its rules; see the parent module.
//!
//! Called under the cache's lock only. No IO, no clock.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use skerry_common::{Key, NodeName};

use super::Wake;
use super::gone::Gone;
use crate::kinds::{Kind, Scope};
use crate::refs::TokenSpec;
use crate::trim::{BoundFacts, Facts, Trimmed};

/// Whether a key is there.
#[derive(Debug)]
pub(crate) enum Sight<'a> {
    /// It is, and the node may see it.
    Visible(&'a Trimmed),
    /// It is certain that the node may not see it, or that it does not exist.
    Absent,
    /// Not known to exist; the API server has to be asked by name.
    Unproven,
    /// Cannot be told before more of the cluster, or of the node, is known.
    Unsettled,
}

/// How the cache knows that a key is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// There is an object.
    Exists,
    /// A DELETE or a 404 was seen.
    Gone,
    /// Nothing is known.
    None,
}

/// A token that a pod mounts.
#[derive(Debug, Clone)]
pub struct PodToken {
    /// What is asked for.
    pub spec: TokenSpec,
    /// Its name.
    pub pod: Arc<str>,
    /// Of the pod.
    pub uid: Arc<str>,
    /// The pod has ended and needs no fresh token.
    pub finished: bool,
}

#[derive(Debug)]
struct Entry {
    object: Trimmed,
    /// Grows with every apply, to notice races with a GET.
    sequence: u64,
}

#[derive(Debug, Default)]
struct KindStore {
    synced: bool,
    entries: HashMap<Key, Entry>,
    gone: Gone,
    /// Keys of the list that is under way.
    listed: Option<HashSet<Key>>,
}

/// See the module.
#[derive(Debug)]
pub struct Inner {
    /// The kind whose objects are bound to nodes.
    bound: Kind,
    kinds: HashMap<Kind, KindStore>,
    sequence: u64,
    bound_by_node: HashMap<NodeName, BTreeSet<Key>>,
    /// Which nodes' bound objects refer to an object, and how many of them.
    referrers: HashMap<(Kind, Key), HashMap<NodeName, u32>>,
    /// Nodes that said what bound objects they hold, with those of which it is not yet known whether they exist.
    declared: HashMap<NodeName, HashSet<Key>>,
    /// The same the other way round: a bound object whose existence is not settled, and the nodes that hold it.
    awaited: HashMap<Key, HashSet<NodeName>>,
}

impl Inner {
    pub(super) fn new(bound: Kind) -> Self {
        Self {
            bound,
            kinds: HashMap::new(),
            sequence: 0,
            bound_by_node: HashMap::new(),
            referrers: HashMap::new(),
            declared: HashMap::new(),
            awaited: HashMap::new(),
        }
    }

    fn store(&mut self, kind: Kind) -> &mut KindStore {
        self.kinds.entry(kind).or_default()
    }

    fn entry(&self, kind: Kind, key: &Key) -> Option<&Entry> {
        self.kinds.get(&kind).and_then(|store| store.entries.get(key))
    }

    /// The object, whoever may see it.
    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Trimmed> {
        self.entry(kind, key).map(|entry| &entry.object)
    }

    /// The bound object's uid and facts.
    pub(crate) fn bound(&self, key: &Key) -> Option<(&Arc<str>, &BoundFacts)> {
        match self.get(self.bound, key) {
            Some(Trimmed { uid, facts: Facts::Bound(facts), .. }) => Some((uid, facts)),
            _ => None,
        }
    }

    pub(crate) fn is_synced(&self, kind: Kind) -> bool {
        let kind = if kind == Kind::ServiceAccountToken { self.bound } else { kind };
        self.kinds.get(&kind).is_some_and(|store| store.synced)
    }

    pub(crate) fn is_gone(&self, kind: Kind, key: &Key) -> bool {
        self.kinds.get(&kind).is_some_and(|store| store.gone.contains(key))
    }

    pub(crate) fn sequence(&self, kind: Kind, key: &Key) -> Option<u64> {
        self.entry(kind, key).map(|entry| entry.sequence)
    }

    /// How many objects of the kind are kept, and their bytes.
    pub(crate) fn size(&self, kind: Kind) -> (usize, usize) {
        self.kinds.get(&kind).map_or((0, 0), |store| {
            (store.entries.len(), store.entries.values().map(|entry| entry.object.body.len()).sum())
        })
    }

    /// What is known of the existence of a key.
    pub(crate) fn proof(&self, kind: Kind, key: &Key) -> Proof {
        match self.kinds.get(&kind) {
            Some(store) if store.entries.contains_key(key) => Proof::Exists,
            Some(store) if store.gone.contains(key) => Proof::Gone,
            _ => Proof::None,
        }
    }

    // ---- what a node may see ----

    /// Whether everything about the node's bound objects is known: the first list has ended, the node said what
    /// it holds, and the existence of each of those is settled. Only then may an object be called
    /// unreferenced.
    pub fn bound_complete(&self, node: &NodeName) -> bool {
        self.is_synced(self.bound) && self.declared.get(node).is_some_and(HashSet::is_empty)
    }

    /// What a node may be told about a key. The one place that decides it.
    pub(crate) fn visible(&self, node: &NodeName, kind: Kind, key: &Key) -> Sight<'_> {
        match kind.scope() {
            Scope::Own if &*key.name != node.as_str() || !key.namespace.is_empty() => Sight::Absent,
            // Of another kind than what this cache knows as bound.
            Scope::Bound if kind != self.bound => Sight::Unsettled,
            Scope::Bound => match self.bound(key) {
                // A pod cannot move: one that is bound elsewhere is another pod of the same name. A device can.
                Some((_, facts)) if facts.node != *node => Sight::Absent,
                _ => self.sight(kind, key),
            },
            Scope::Own | Scope::All => self.sight(kind, key),
            Scope::Referenced if self.refers(node, kind, key) => self.sight(kind, key),
            Scope::Referenced if self.bound_complete(node) && self.claims_settled(node, kind) => Sight::Absent,
            Scope::Referenced => Sight::Unsettled,
            // Tokens are not in the cache: see `token`.
            Scope::Derived => Sight::Unsettled,
        }
    }

    fn sight(&self, kind: Kind, key: &Key) -> Sight<'_> {
        if let Some(object) = self.get(kind, key) {
            return Sight::Visible(object);
        }
        if self.is_gone(kind, key) {
            Sight::Absent
        } else if self.is_synced(kind) {
            Sight::Unproven
        } else {
            Sight::Unsettled
        }
    }

    /// Whether a bound object of the node refers to the object.
    pub(crate) fn refers(&self, node: &NodeName, kind: Kind, key: &Key) -> bool {
        if kind == Kind::PersistentVolume {
            return self.volumes(node).any(|volume| volume == key);
        }
        self.referrers.get(&(kind, key.clone())).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Volumes are found through claims, so the claims must be known before one is called unreferenced.
    fn claims_settled(&self, node: &NodeName, kind: Kind) -> bool {
        kind != Kind::PersistentVolume
            || (self.is_synced(Kind::PersistentVolumeClaim)
                && self
                    .referenced(node, Kind::PersistentVolumeClaim)
                    .all(|claim| self.proof(Kind::PersistentVolumeClaim, claim) != Proof::None))
    }

    fn bound_to(&self, node: &NodeName) -> impl Iterator<Item = (&Key, &Arc<str>, &BoundFacts)> {
        let keys = self.bound_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| self.bound(key).map(|(uid, facts)| (key, uid, facts)))
    }

    fn referenced(&self, node: &NodeName, kind: Kind) -> impl Iterator<Item = &Key> {
        self.bound_to(node)
            .flat_map(|(_, _, facts)| facts.objects.iter())
            .filter_map(move |(k, key)| (*k == kind).then_some(key))
    }

    fn volumes(&self, node: &NodeName) -> impl Iterator<Item = &Key> {
        self.referenced(node, Kind::PersistentVolumeClaim).filter_map(|claim| {
            match self.get(Kind::PersistentVolumeClaim, claim)?.facts {
                Facts::Claim(Some(ref volume)) => Some(volume),
                _ => None,
            }
        })
    }

    /// All keys of the kind that the node may see now.
    pub(crate) fn keys(&self, node: &NodeName, kind: Kind) -> Vec<Key> {
        match kind.scope() {
            Scope::Own => vec![Key::new("", node.as_str())],
            Scope::Bound if kind != self.bound => Vec::new(),
            Scope::Bound => self.bound_by_node.get(node).into_iter().flatten().cloned().collect(),
            Scope::All => self.kinds.get(&kind).map(|s| s.entries.keys().cloned().collect()).unwrap_or_default(),
            Scope::Referenced if kind == Kind::PersistentVolume => self.volumes(node).cloned().collect(),
            Scope::Referenced => {
                let keys: BTreeSet<&Key> = self.referenced(node, kind).collect();
                keys.into_iter().cloned().collect()
            }
            Scope::Derived => {
                self.bound_to(node).flat_map(|(_, _, facts)| facts.tokens.iter().map(|t| t.key.clone())).collect()
            }
        }
    }

    /// The token of a pod of the node with this key.
    pub fn token(&self, node: &NodeName, key: &Key) -> Option<PodToken> {
        self.bound_to(node).filter(|(pod, ..)| pod.namespace == key.namespace).find_map(|(pod, uid, facts)| {
            let spec = facts.tokens.iter().find(|token| token.key == *key)?.clone();
            Some(PodToken { spec, pod: Arc::clone(&pod.name), uid: Arc::clone(uid), finished: facts.finished })
        })
    }

    // ---- changes ----

    pub(crate) fn apply(&mut self, kind: Kind, mut object: Trimmed) -> Vec<Wake> {
        self.share(&mut object);
        self.sequence += 1;
        let sequence = self.sequence;
        let key = object.key.clone();
        let mut wakes = Vec::new();
        let new_pod = match &object.facts {
            Facts::Bound(facts) => Some(facts.clone()),
            _ => None,
        };
        let store = self.store(kind);
        let was_gone = store.gone.remove(&key);
        let old = store.entries.insert(key.clone(), Entry { object, sequence });
        let old = old.map(|entry| entry.object);
        let changed = was_gone
            || old.as_ref().is_none_or(|old| self.get(kind, &key).is_none_or(|new| new.version != old.version));
        if let Some(new) = &new_pod {
            let old_pod = match old.as_ref().map(|old| &old.facts) {
                Some(Facts::Bound(facts)) => Some(facts.clone()),
                _ => None,
            };
            self.reindex(&key, old_pod.as_deref(), Some(new), &mut wakes);
            self.settle(&key, &mut wakes);
        }
        if changed {
            if let Some(old) = &old {
                self.wakes_of(kind, old, &mut wakes);
            }
            wakes.extend(self.wakes_for(kind, &key));
        }
        wakes
    }

    /// Lets a bound object's names share their memory with those that are known: thousands of pods refer to the same
    /// few objects, and live in a few namespaces.
    fn share(&self, object: &mut Trimmed) {
        let Facts::Bound(facts) = &mut object.facts else { return };
        if let Some((node, _)) = self.bound_by_node.get_key_value(&facts.node) {
            facts.node = node.clone();
        }
        for slot in &mut facts.objects {
            if let Some((known, _)) = self.referrers.get_key_value(slot) {
                *slot = known.clone();
            }
        }
        let namespace = facts.objects.iter().find(|(kind, _)| *kind == Kind::Namespace);
        if let Some((_, Key { name, .. })) = namespace
            && *name == object.key.namespace
        {
            object.key.namespace = Arc::clone(name);
            for token in &mut facts.tokens {
                token.key.namespace = Arc::clone(name);
            }
        }
    }

    pub(crate) fn delete(&mut self, kind: Kind, key: &Key) -> Vec<Wake> {
        let mut wakes = self.wakes_for(kind, key);
        let store = self.store(kind);
        let old = store.entries.remove(key).map(|entry| entry.object);
        store.gone.insert(key.clone());
        if let Some(old) = &old {
            self.wakes_of(kind, old, &mut wakes);
            if let Facts::Bound(facts) = &old.facts {
                self.reindex(key, Some(facts), None, &mut wakes);
            }
        }
        if kind == self.bound {
            self.settle(key, &mut wakes);
            // Whoever held it without our knowing which node that was asks through its declaration.
        }
        wakes
    }

    /// Everybody who may be concerned by the key.
    pub(crate) fn wakes_for(&self, kind: Kind, key: &Key) -> Vec<Wake> {
        match kind.scope() {
            Scope::All => vec![Wake::All(kind, key.clone())],
            Scope::Own => {
                NodeName::parse(&key.name).map(|node| vec![Wake::Key(node, kind, key.clone())]).unwrap_or_default()
            }
            Scope::Bound => match self.bound(key) {
                Some((_, facts)) => vec![Wake::Key(facts.node.clone(), kind, key.clone())],
                // A pod that is not known may be held by any node; those that hold it look.
                None => vec![Wake::All(kind, key.clone())],
            },
            Scope::Referenced => {
                let mut wakes = Vec::new();
                if let Some(object) = self.get(kind, key) {
                    self.wakes_of(kind, object, &mut wakes);
                }
                if let Some(nodes) = self.referrers.get(&(kind, key.clone())) {
                    wakes.extend(nodes.keys().map(|node| Wake::Key(node.clone(), kind, key.clone())));
                }
                wakes
            }
            Scope::Derived => Vec::new(),
        }
    }

    /// Wakes that follow from the facts of an object that is or was there.
    fn wakes_of(&self, kind: Kind, object: &Trimmed, wakes: &mut Vec<Wake>) {
        let (claim, volume) = match &object.facts {
            Facts::Claim(Some(volume)) => (object.key.clone(), volume.clone()),
            Facts::Volume(Some(claim)) => (claim.clone(), object.key.clone()),
            Facts::Bound(facts) => return wakes.push(Wake::Key(facts.node.clone(), kind, object.key.clone())),
            _ => return,
        };
        for node in self.referrers.get(&(Kind::PersistentVolumeClaim, claim)).into_iter().flat_map(HashMap::keys) {
            wakes.push(Wake::Key(node.clone(), Kind::PersistentVolume, volume.clone()));
        }
    }

    fn reindex(&mut self, key: &Key, old: Option<&BoundFacts>, new: Option<&BoundFacts>, wakes: &mut Vec<Wake>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.node == new.node
            && old.objects == new.objects
            && old.tokens == new.tokens
        {
            return;
        }
        // New edges first, so that an object that both refer to never seems unreferenced.
        if let Some(new) = new {
            self.bound_by_node.entry(new.node.clone()).or_default().insert(key.clone());
            for (kind, object) in &new.objects {
                *self.referrers.entry((*kind, object.clone())).or_default().entry(new.node.clone()).or_default() += 1;
                wakes.push(Wake::Key(new.node.clone(), *kind, object.clone()));
                self.wake_volume(&new.node, *kind, object, wakes);
            }
            wakes.extend(new.tokens.iter().map(|t| token_wake(&new.node, t)));
        }
        if let Some(old) = old {
            if new.is_none_or(|new| new.node != old.node)
                && let Some(pods) = self.bound_by_node.get_mut(&old.node)
            {
                pods.remove(key);
                if pods.is_empty() {
                    self.bound_by_node.remove(&old.node);
                }
            }
            for (kind, object) in &old.objects {
                self.unrefer(&old.node, *kind, object);
                wakes.push(Wake::Key(old.node.clone(), *kind, object.clone()));
                self.wake_volume(&old.node, *kind, object, wakes);
            }
            wakes.extend(old.tokens.iter().map(|t| token_wake(&old.node, t)));
        }
    }

    fn wake_volume(&self, node: &NodeName, kind: Kind, object: &Key, wakes: &mut Vec<Wake>) {
        if kind == Kind::PersistentVolumeClaim
            && let Some(Trimmed { facts: Facts::Claim(Some(volume)), .. }) = self.get(kind, object)
        {
            wakes.push(Wake::Key(node.clone(), Kind::PersistentVolume, volume.clone()));
        }
    }

    fn unrefer(&mut self, node: &NodeName, kind: Kind, object: &Key) {
        let slot = (kind, object.clone());
        let Some(nodes) = self.referrers.get_mut(&slot) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.referrers.remove(&slot);
        }
    }

    // ---- lists ----

    pub(crate) fn init(&mut self, kind: Kind) {
        self.store(kind).listed = Some(HashSet::new());
    }

    pub(crate) fn init_seen(&mut self, kind: Kind, key: Key) {
        if let Some(listed) = &mut self.store(kind).listed {
            listed.insert(key);
        }
    }

    pub(crate) fn init_apply(&mut self, kind: Kind, object: Trimmed) -> Vec<Wake> {
        self.init_seen(kind, object.key.clone());
        self.apply(kind, object)
    }

    /// Whether the list under way is the kind's first, and had nothing in it so far.
    pub(crate) fn first_list_is_empty(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_none_or(|store| {
            !store.synced && store.entries.is_empty() && store.listed.as_ref().is_none_or(HashSet::is_empty)
        })
    }

    pub(crate) fn init_done(&mut self, kind: Kind) -> (Vec<Wake>, Vec<Key>) {
        let bound = self.bound;
        let store = self.store(kind);
        let listed = store.listed.take().unwrap_or_default();
        let suspects = store.entries.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        let first = !store.synced;
        store.synced = true;
        let wakes = match (first, kind) {
            (false, _) => Vec::new(),
            // Everything that follows from what is bound waits for its first list.
            (true, kind) if kind == bound => Kind::ALL.into_iter().map(Wake::Kind).collect(),
            (true, Kind::PersistentVolumeClaim) => vec![Wake::Kind(kind), Wake::Kind(Kind::PersistentVolume)],
            (true, _) => vec![Wake::Kind(kind)],
        };
        (wakes, suspects)
    }

    // ---- what nodes hold ----

    pub(crate) fn declare(&mut self, node: &NodeName, held: Vec<Key>) -> Vec<Wake> {
        self.undeclare(node);
        let unproven: HashSet<Key> =
            held.into_iter().filter(|key| self.proof(self.bound, key) == Proof::None).collect();
        for key in &unproven {
            self.awaited.entry(key.clone()).or_default().insert(node.clone());
        }
        self.declared.insert(node.clone(), unproven);
        if self.bound_complete(node) { vec![Wake::Node(node.clone())] } else { Vec::new() }
    }

    pub(crate) fn undeclare(&mut self, node: &NodeName) {
        for key in self.declared.remove(node).into_iter().flatten() {
            if let Some(nodes) = self.awaited.get_mut(&key) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.awaited.remove(&key);
                }
            }
        }
    }

    /// The existence of a bound object is settled now.
    fn settle(&mut self, key: &Key, wakes: &mut Vec<Wake>) {
        for node in self.awaited.remove(key).into_iter().flatten() {
            if let Some(unproven) = self.declared.get_mut(&node) {
                unproven.remove(key);
                if unproven.is_empty() {
                    wakes.push(Wake::Node(node));
                }
            }
        }
    }
}

fn token_wake(node: &NodeName, token: &TokenSpec) -> Wake {
    Wake::Key(node.clone(), Kind::ServiceAccountToken, token.key.clone())
}
