//! What one subscription sees: a [`View`] over the cache for one node and one kind.
//!
//! Made for the moment of one `poll` of a publisher, under the cache's read lock; it never blocks and does
//! no IO. What it cannot tell it answers with `Unknown`, after it has asked the confirmer or the minter to
//! find out.

use std::sync::RwLockReadGuard;

use bytes::Bytes;
use skerry_common::{Encoding, Key, NodeName, Version};
use skerry_sync::{Lookup, Object, View};

use crate::cache::{Inner, PodToken, Sight};
use crate::confirm::Confirm;
use crate::kinds::{Kind, Scope};
use crate::mint::{Mint, Token};

/// See the module.
pub(crate) struct NodeView<'a> {
    pub(crate) cache: RwLockReadGuard<'a, Inner>,
    pub(crate) confirm: &'a Confirm,
    pub(crate) mint: &'a Mint,
    pub(crate) node: &'a NodeName,
    pub(crate) kind: Kind,
    /// Seconds since the Unix epoch.
    pub(crate) now: i64,
}

impl View for NodeView<'_> {
    fn lookup(&mut self, key: &Key, held: Option<&Version>) -> Lookup {
        if self.kind == Kind::ServiceAccountToken {
            return self.token(key, held);
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
            Scope::Referenced | Scope::Derived => synced && self.cache.pods_complete(self.node),
        }
    }
}

impl NodeView<'_> {
    fn token(&self, key: &Key, held: Option<&Version>) -> Lookup {
        let same = |version: &Version| {
            Lookup::Present(Object {
                version: version.clone(),
                body: Bytes::new(),
                encoding: encoding(Encoding::Identity),
            })
        };
        let Some(PodToken { finished, .. }) = self.cache.token(self.node, key) else {
            if !self.cache.pods_complete(self.node) {
                return Lookup::Unknown;
            }
            self.mint.drop_token(self.node, key);
            return Lookup::Absent;
        };
        match (held, self.mint.look(self.node, key, held, self.now)) {
            // A pod that has ended keeps what it has until it is deleted.
            (Some(held), _) if finished => same(held),
            (None, _) if finished => Lookup::Absent,
            (Some(held), Token::HeldIsFresh) => same(held),
            (_, Token::Minted(object)) => Lookup::Present(object),
            (Some(held), Token::Refused) => same(held),
            (None, Token::Refused) => Lookup::Absent,
            (_, Token::Wanted | Token::HeldIsFresh) => {
                self.mint.ask(self.node, key);
                Lookup::Unknown
            }
        }
    }
}

/// The sync crate's name for an encoding.
pub(crate) fn encoding(encoding: Encoding) -> skerry_sync::Encoding {
    match encoding {
        Encoding::Identity => skerry_sync::Encoding::Identity,
        Encoding::Zstd => skerry_sync::Encoding::Zstd,
    }
}
