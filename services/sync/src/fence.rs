//! The newest session of a node wins.
//!
//! **For:** keeping a hub that was paused, or a connection that is half dead, from writing after
//! the node has come back by another way.
//!
//! **Called by** cloudhub when a session opens, and by each sink for every stream *and again in
//! the moment of each write*: between the arrival of a report and its write, a newer session may
//! have been seen.
//!
//! **Invariants.** The newest session of a node never goes back while the fence lives. Equal is the
//! same session, lower is refused. Sessions grow with every connection of a node because the node
//! counts them durably.
//!
//! **Limits.** One number for each node that was seen; the caller forgets nodes that are deleted.
//!
//! **Crash.** A new process knows nothing. Seed it with [`Fence::seed`] from what is durable (the
//! node's lease) before it admits anybody, and never attach an old node stream to a new sink
//! stream: a report stream of a node ends when the stream to its sink ends.

use std::collections::BTreeMap;

use skerry_common::NodeName;
use thiserror::Error;

/// What an admitted session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// The newest session that was known before.
    Same,
    /// Newer than all before it: older ones are to be closed, and it is to be made durable before
    /// anything is written for it.
    Newer,
}

/// A newer session of the node is known. Close the older one with `CLOSE_CODE_STALE_SESSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("session is fenced: the newest session of this node is {newest}")]
pub struct Stale {
    /// The newest session.
    pub newest: u64,
}

/// The newest session of each node; see the module.
#[derive(Debug, Default)]
pub struct Fence {
    newest: BTreeMap<NodeName, u64>,
}

impl Fence {
    /// Knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// May this session of the node speak?
    ///
    /// # Errors
    /// [`Stale`] if a newer one was seen.
    pub fn admit(&mut self, node: &NodeName, session: u64) -> Result<Admit, Stale> {
        match self.newest.get_mut(node) {
            Some(newest) if session < *newest => Err(Stale { newest: *newest }),
            Some(newest) if session == *newest => Ok(Admit::Same),
            Some(newest) => {
                *newest = session;
                Ok(Admit::Newer)
            }
            None => {
                self.newest.insert(node.clone(), session);
                Ok(Admit::Newer)
            }
        }
    }

    /// Is this still the newest session? Changes nothing.
    #[must_use]
    pub fn is_current(&self, node: &NodeName, session: u64) -> bool {
        self.newest.get(node).is_none_or(|newest| session >= *newest)
    }

    /// Takes over what is known durably; never goes back.
    pub fn seed(&mut self, node: NodeName, session: u64) {
        let newest = self.newest.entry(node).or_insert(session);
        *newest = session.max(*newest);
    }

    /// The newest session of the node.
    #[must_use]
    pub fn newest(&self, node: &NodeName) -> Option<u64> {
        self.newest.get(node).copied()
    }

    /// The node was deleted. Not for a node that is only disconnected: its older sessions would
    /// be admitted again.
    pub fn forget(&mut self, node: &NodeName) {
        self.newest.remove(node);
    }

    /// Nodes that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether no node is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn the_newest_session_wins() {
        let mut fence = Fence::new();
        assert!(fence.is_current(&node("a"), 1));
        assert_eq!(fence.admit(&node("a"), 5), Ok(Admit::Newer));
        assert_eq!(fence.admit(&node("a"), 5), Ok(Admit::Same));
        assert_eq!(fence.admit(&node("a"), 4), Err(Stale { newest: 5 }));
        assert_eq!(fence.admit(&node("b"), 4), Ok(Admit::Newer));
        assert_eq!(fence.admit(&node("a"), 6), Ok(Admit::Newer));
        assert_eq!(fence.admit(&node("a"), 5), Err(Stale { newest: 6 }));
        assert!(!fence.is_current(&node("a"), 5));
        assert!(fence.is_current(&node("a"), 6));
    }

    #[test]
    fn a_new_process_is_seeded() {
        let mut fence = Fence::new();
        fence.seed(node("a"), 7);
        fence.seed(node("a"), 3);
        assert_eq!(fence.newest(&node("a")), Some(7));
        assert_eq!(fence.admit(&node("a"), 6), Err(Stale { newest: 7 }));
        fence.forget(&node("a"));
        assert!(fence.is_empty());
        assert_eq!(fence.admit(&node("a"), 1), Ok(Admit::Newer));
    }

    proptest! {
        #[test]
        fn never_goes_back(sessions in proptest::collection::vec((0..3_usize, 0..20_u64), 0..200)) {
            let nodes = [node("a"), node("b"), node("c")];
            let mut fence = Fence::new();
            let mut model = [None::<u64>; 3];
            for (at, session) in sessions {
                let before = model[at];
                let result = fence.admit(&nodes[at], session);
                prop_assert_eq!(result.is_ok(), before.is_none_or(|newest| session >= newest));
                model[at] = before.max(Some(session));
                prop_assert_eq!(fence.newest(&nodes[at]), model[at]);
            }
        }
    }
}
