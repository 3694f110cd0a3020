//! Whom the mesh knows: the records that hold, by node and by PeerId.
//!
//! Sans IO. Records come from the Nodes ([`Directory::set`], the whole set each time) and from peers that introduced
//! themselves ([`Directory::introduce`]). What changes is returned, so that connections of peers that are known no
//! longer are closed at once.
//!
//! Invariants: one record per node and one node per PeerId; a node's sequence never goes down, also after its record
//! was removed and came back; an invalid record never displaces a valid one; a node that was removed or revoked is not
//! let in by its own record, only by its Node.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use libp2p::PeerId;
use skerry_common::NodeName;
use skerry_identity::CredentialWatch;

use crate::{NodeRecord, RecordError};

/// Most nodes. A larger mesh needs more than one full table per node.
pub const MAX_NODES: usize = 10_000;

/// Most nodes that only introduced themselves: how many may join while the cloud is away.
pub const MAX_INTRODUCED: usize = 256;

#[derive(Debug)]
struct Known {
    record: NodeRecord,
    encoded: Vec<u8>,
    /// From its Node, or only from the peer itself.
    published: bool,
}

/// The records that hold.
#[derive(Debug)]
pub(crate) struct Directory {
    own: NodeName,
    nodes: HashMap<NodeName, Known>,
    peers: HashMap<PeerId, NodeName>,
    /// Highest sequence of each node that has or had a record.
    seen: HashMap<NodeName, u64>,
    /// Nodes that were there and are not any more, or were revoked.
    removed: BTreeSet<NodeName>,
}

/// What a change of the directory means for connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// PeerIds that are not known any more.
    pub(crate) gone: BTreeSet<PeerId>,
    /// PeerIds that are known, with a new or other record.
    pub(crate) come: BTreeSet<PeerId>,
}

impl Directory {
    /// A directory of everybody but `own`.
    pub(crate) fn new(own: NodeName) -> Self {
        Self { own, nodes: HashMap::new(), peers: HashMap::new(), seen: HashMap::new(), removed: BTreeSet::new() }
    }

    /// The node with this PeerId.
    pub(crate) fn node(&self, peer: &PeerId) -> Option<&NodeName> {
        self.peers.get(peer)
    }

    /// The record of a node.
    pub(crate) fn record(&self, node: &NodeName) -> Option<&NodeRecord> {
        self.nodes.get(node).map(|known| &known.record)
    }

    /// All records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|known| &known.record)
    }

    /// Takes the records of all Nodes. Nodes that are missing are removed; those that only introduced themselves stay,
    /// because their Node may not have reached us yet.
    pub(crate) fn set(
        &mut self,
        published: &BTreeMap<NodeName, Vec<u8>>,
        credentials: &CredentialWatch,
    ) -> (Changes, Vec<(NodeName, RecordError)>) {
        let mut changes = Changes::default();
        let mut refused = Vec::new();
        let missing: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|(node, known)| known.published && !published.contains_key(*node))
            .map(|(node, _)| node.clone())
            .collect();
        for node in missing {
            self.remove(&node, &mut changes);
        }
        for (node, encoded) in published {
            if *node == self.own {
                continue;
            }
            self.removed.remove(node);
            if let Err(error) = self.take(node, encoded, true, credentials, &mut changes) {
                refused.push((node.clone(), error));
            }
        }
        self.seen.retain(|node, _| {
            published.contains_key(node) || self.nodes.contains_key(node) || self.removed.contains(node)
        });
        (changes, refused)
    }

    /// Takes the record with which a peer introduces itself. Returns the node.
    ///
    /// # Errors
    /// Why it is not let in.
    pub(crate) fn introduce(
        &mut self,
        peer: &PeerId,
        encoded: &[u8],
        credentials: &CredentialWatch,
    ) -> Result<Changes, RecordError> {
        let record = NodeRecord::verify(encoded, credentials)?;
        if record.peer_id != *peer {
            return Err(RecordError::Key);
        }
        if record.node == self.own || self.removed.contains(&record.node) {
            return Err(RecordError::Removed);
        }
        let introduced = self.nodes.values().filter(|known| !known.published).count();
        if introduced >= MAX_INTRODUCED && !self.nodes.contains_key(&record.node) {
            return Err(RecordError::Full);
        }
        let mut changes = Changes::default();
        let node = record.node.clone();
        let published = self.nodes.get(&node).is_some_and(|known| known.published);
        self.take_verified(&node, record, encoded, published, &mut changes)?;
        Ok(changes)
    }

    /// Removes a node and lets it in again only by its Node.
    pub(crate) fn revoke(&mut self, node: &NodeName) -> Changes {
        let mut changes = Changes::default();
        self.remove(node, &mut changes);
        changes
    }

    /// Removes the records that do not hold any more: expired, or their signer revoked or of a CA that is trusted no
    /// longer.
    pub(crate) fn recheck(&mut self, credentials: &CredentialWatch) -> Changes {
        let mut changes = Changes::default();
        let bad: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|(_, known)| NodeRecord::verify(&known.encoded, credentials).is_err())
            .map(|(node, _)| node.clone())
            .collect();
        for node in bad {
            self.forget(&node, &mut changes);
        }
        changes
    }

    fn take(
        &mut self,
        node: &NodeName,
        encoded: &[u8],
        published: bool,
        credentials: &CredentialWatch,
        changes: &mut Changes,
    ) -> Result<(), RecordError> {
        if let Some(known) = self.nodes.get_mut(node)
            && known.encoded == encoded
        {
            known.published |= published;
            return Ok(());
        }
        let record = NodeRecord::verify(encoded, credentials)?;
        if record.node != *node {
            return Err(RecordError::OtherPlace { found: record.node, expected: node.clone() });
        }
        self.take_verified(node, record, encoded, published, changes)
    }

    fn take_verified(
        &mut self,
        node: &NodeName,
        record: NodeRecord,
        encoded: &[u8],
        published: bool,
        changes: &mut Changes,
    ) -> Result<(), RecordError> {
        if self.seen.get(node).is_some_and(|seen| record.sequence < *seen) {
            return Err(RecordError::Replayed);
        }
        if let Some(owner) = self.peers.get(&record.peer_id)
            && owner != node
        {
            return Err(RecordError::Taken { owner: owner.clone() });
        }
        let full = self.nodes.len() >= MAX_NODES || self.seen.len() >= 2 * MAX_NODES;
        if full && !self.nodes.contains_key(node) {
            return Err(RecordError::Full);
        }
        if self.nodes.get(node).is_some_and(|known| known.record.peer_id != record.peer_id) {
            self.forget(node, changes);
        }
        self.seen.insert(node.clone(), record.sequence);
        self.peers.insert(record.peer_id, node.clone());
        changes.gone.remove(&record.peer_id);
        changes.come.insert(record.peer_id);
        self.nodes.insert(node.clone(), Known { record, encoded: encoded.to_vec(), published });
        Ok(())
    }

    fn remove(&mut self, node: &NodeName, changes: &mut Changes) {
        self.forget(node, changes);
        if self.removed.len() >= MAX_NODES {
            // The list is of deleted Nodes; when it is full, the certificates of most have long expired.
            self.removed.pop_first();
        }
        self.removed.insert(node.clone());
    }

    fn forget(&mut self, node: &NodeName, changes: &mut Changes) {
        if let Some(known) = self.nodes.remove(node) {
            self.peers.remove(&known.record.peer_id);
            changes.come.remove(&known.record.peer_id);
            changes.gone.insert(known.record.peer_id);
        }
    }
}

#[cfg(test)]
mod tests;
