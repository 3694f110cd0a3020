//! Which keys and nodes are no longer welcome.
//!
//! The registry publishes the whole list ([`RevocationPublisher::set`]); every listener's handshake
//! asks it, and the hub watches it to end live sessions ([`RevocationList::changed`]). Reading takes
//! no lock that a writer holds for long. A list is bounded by [`MAX_REVOKED`]: certificates live for
//! days, so entries can be dropped when the certificates have expired.

use std::collections::BTreeSet;

use skerry_common::NodeName;
use tokio::sync::watch;

use crate::{Identity, spki_fingerprint};

/// Most entries of each kind. 100,000 fingerprints are 10 MB; a longer list means that the CA must be
/// replaced instead.
pub const MAX_REVOKED: usize = 100_000;

/// The revoked keys and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationSet {
    /// SHA-256 of the SubjectPublicKeyInfo, in lower-case hex.
    pub fingerprints: BTreeSet<String>,
    /// Nodes that are refused whatever their key.
    pub nodes: BTreeSet<NodeName>,
}

/// Where the current list comes in.
#[derive(Debug)]
pub struct RevocationPublisher(watch::Sender<RevocationSet>);

/// The current list. Clones see the same one.
#[derive(Clone, Debug)]
pub struct RevocationList(watch::Receiver<RevocationSet>);

impl RevocationPublisher {
    /// A publisher and its list, which starts empty.
    pub fn new() -> (Self, RevocationList) {
        let (sender, receiver) = watch::channel(RevocationSet::default());
        (Self(sender), RevocationList(receiver))
    }

    /// Replaces the list. Returns whether it changed; watchers are woken only then. Returns false and
    /// keeps the old list when the new one has more than [`MAX_REVOKED`] entries of a kind.
    pub fn set(&self, set: RevocationSet) -> bool {
        if set.fingerprints.len() > MAX_REVOKED || set.nodes.len() > MAX_REVOKED {
            tracing::error!(
                keys = set.fingerprints.len(),
                nodes = set.nodes.len(),
                "revocation list is too long: kept the old one"
            );
            return false;
        }
        self.0.send_if_modified(|current| {
            let changed = *current != set;
            if changed {
                *current = set;
            }
            changed
        })
    }
}

impl RevocationList {
    /// A list that stays empty, for listeners without revocation.
    pub fn empty() -> Self {
        RevocationPublisher::new().1
    }

    /// Whether the certificate's key is revoked. A certificate that cannot be read counts as revoked.
    pub fn is_revoked(&self, certificate: &[u8]) -> bool {
        spki_fingerprint(certificate).map_or(true, |print| self.is_key_revoked(&print))
    }

    /// Whether the key with this fingerprint (lower-case hex) is revoked.
    pub fn is_key_revoked(&self, fingerprint: &str) -> bool {
        self.0.borrow().fingerprints.contains(fingerprint)
    }

    /// Whether the node is revoked by name.
    pub fn is_node_revoked(&self, node: &NodeName) -> bool {
        self.0.borrow().nodes.contains(node)
    }

    /// Whether a peer with this certificate and identity is refused.
    pub fn refuses(&self, certificate: &[u8], identity: &Identity) -> bool {
        identity.node().is_some_and(|node| self.is_node_revoked(node)) || self.is_revoked(certificate)
    }

    /// A copy of the list.
    pub fn current(&self) -> RevocationSet {
        self.0.borrow().clone()
    }

    /// Waits until the list changes. Never returns when the publisher is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
