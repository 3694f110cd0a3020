//! What one subscription sees: a [`View`] over the cache for one node and one kind.
//!
//! Made for the moment of one `poll` of a publisher, under the cache's read lock; it never blocks and does
//! no IO. What it cannot tell it answers with `Unknown`, after it has asked the confirmer, or who makes
//! the derived objects, to find out.

use std::sync::RwLockReadGuard;

use skerry_common::{Encoding, Key, NodeName, Version};
use skerry_sync::{Lookup, Object, View};

use crate::cache::{Inner, Sight};
use crate::confirm::Confirm;
use crate::kinds::{Kind, Scope};

/// What is made for the pods of a node and is no object of the API.
pub trait Derive: std::fmt::Debug + Send + Sync {
    /// What the node may be told about the key, given what it holds. `now` is in seconds since the Unix
    /// epoch. Called under the cache's lock: it asks for what it has not, and must not block.
    fn lookup(&self, cache: &Inner, node: &NodeName, key: &Key, held: Option<&Version>, now: i64) -> Lookup;

    /// The node has it durably.
    fn acked(&self, node: &NodeName, key: &Key);

    /// The node's subscription ended.
    fn forget(&self, node: &NodeName);
}

/// See the module.
pub(crate) struct NodeView<'a> {
    pub(crate) cache: RwLockReadGuard<'a, Inner>,
    pub(crate) confirm: &'a Confirm,
    pub(crate) derived: Option<&'a dyn Derive>,
    pub(crate) node: &'a NodeName,
    pub(crate) kind: Kind,
    /// Seconds since the Unix epoch.
    pub(crate) now: i64,
}

impl View for NodeView<'_> {
    fn lookup(&mut self, key: &Key, held: Option<&Version>) -> Lookup {
        if self.kind.scope() == Scope::Derived {
            let derived = self.derived.map(|derived| derived.lookup(&self.cache, self.node, key, held, self.now));
            return derived.unwrap_or(Lookup::Unknown);
        }
        match self.cache.visible(self.node, self.kind, key) {
            Sight::Visible(object) => Lookup::Present(Object {
                version: object.version.clone(),
                body: object.body.clone(),
                encoding: encoding(object.encoding),
            }),
            Sight::Absent => Lookup::Absent,
            // A node that joins has no Node yet. It holds none either, so nothing can be deleted by this.
            Sight::Unproven if held.is_none() && self.kind.scope() == Scope::Own => Lookup::Absent,
            Sight::Unproven => {
                self.confirm.ask(self.kind, key.clone());
                Lookup::Unknown
            }
            Sight::Unsettled => Lookup::Unknown,
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.cache.keys(self.node, self.kind)
    }

    fn complete(&self) -> bool {
        let synced = self.cache.is_synced(self.kind);
        match self.kind.scope() {
            Scope::Own | Scope::Bound | Scope::All => synced,
            Scope::Referenced | Scope::Derived => synced && self.cache.bound_complete(self.node),
        }
    }
}

/// The sync crate's name for an encoding.
pub fn encoding(encoding: Encoding) -> skerry_sync::Encoding {
    match encoding {
        Encoding::Identity => skerry_sync::Encoding::Identity,
        Encoding::Zstd => skerry_sync::Encoding::Zstd,
    }
}
