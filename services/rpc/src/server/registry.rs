//! The open connections of a server, and what is kept per identity.
//!
//! The sweeper, the drain and revocation walk over the connections; the rate of an identity is shared
//! by its connections and outlives them until it is full again, so reconnecting gains nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::NodeName;
use skerry_identity::ServiceName;

use super::gate::prefix;
use super::rate::Bucket;
use crate::connection::ConnectionHandle;
use crate::peer::{Identity, Peer};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Node(NodeName),
    Service(ServiceName),
    Address(IpAddr),
}

#[derive(Default)]
struct Entry {
    bucket: Arc<Bucket>,
    /// Oldest first.
    connections: Vec<ConnectionHandle>,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Registry {
    connections: Mutex<HashMap<u64, Arc<Peer>>>,
    identities: Mutex<HashMap<Key, Entry>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Adds a connection. At most `max` of one identity stay: the oldest makes room, because it is
    /// most likely the one whose link was cut. Returns the identity's rate; processes of this machine
    /// have none.
    pub(super) fn join(&self, peer: &Arc<Peer>, max: usize) -> Option<Arc<Bucket>> {
        lock(&self.connections).insert(peer.connection.id(), Arc::clone(peer));
        let key = key(peer)?;
        let counted = !matches!(key, Key::Address(_));
        let mut identities = lock(&self.identities);
        let entry = identities.entry(key).or_default();
        if counted {
            while entry.connections.len() >= max.max(1) {
                let oldest = entry.connections.remove(0);
                oldest.close("replaced by a newer connection of the same identity");
            }
            entry.connections.push(peer.connection.clone());
        }
        Some(Arc::clone(&entry.bucket))
    }

    pub(super) fn leave(&self, peer: &Peer) {
        let id = peer.connection.id();
        let mut connections = lock(&self.connections);
        connections.remove(&id);
        if connections.capacity() > 1024 && connections.len() < connections.capacity() / 8 {
            connections.shrink_to_fit();
        }
        drop(connections);
        if let Some(key) = key(peer)
            && let Some(entry) = lock(&self.identities).get_mut(&key)
        {
            entry.connections.retain(|connection| connection.id() != id);
        }
    }

    /// All connections at this moment.
    pub(super) fn all(&self) -> Vec<Arc<Peer>> {
        lock(&self.connections).values().cloned().collect()
    }

    /// Calls `with` for every connection, under the lock: it must not block.
    pub(super) fn each(&self, mut with: impl FnMut(&Peer)) {
        lock(&self.connections).values().for_each(|peer| with(peer));
    }

    /// Forgets identities that have no connection and a full bucket.
    pub(super) fn tidy(&self, now_ms: u64) {
        let mut identities = lock(&self.identities);
        // Connections of addresses hold the bucket itself.
        identities.retain(|_, entry| {
            !entry.connections.is_empty() || Arc::strong_count(&entry.bucket) > 1 || !entry.bucket.is_full(now_ms)
        });
        if identities.capacity() > 1024 && identities.len() < identities.capacity() / 8 {
            identities.shrink_to_fit();
        }
    }
}

fn key(peer: &Peer) -> Option<Key> {
    match &peer.identity {
        Identity::Node(name) => Some(Key::Node(name.clone())),
        Identity::Service(name) => Some(Key::Service(name.clone())),
        Identity::Anonymous => peer.remote.map(|remote| Key::Address(prefix(remote.ip()))),
        Identity::Local { .. } => None,
    }
}
