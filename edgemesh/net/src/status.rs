//! What a user sees of the mesh: each peer with its path.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::{Multiaddr, PeerId};
use skerry_common::NodeName;

use crate::streams::Bytes;

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Within private address space.
    Lan,
    /// Over public addresses, through whatever NATs there are.
    Direct,
    /// Through a relay.
    Relayed {
        /// The relay's node, or its PeerId when its record is not known here.
        by: String,
    },
    /// There is no connection.
    None,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its node.
    pub node: NodeName,
    /// Its PeerId.
    pub peer_id: PeerId,
    /// How it is reached now.
    pub path: Path,
    /// The address of the connection in use.
    pub address: Option<Multiaddr>,
    /// The last ping's time there and back.
    pub rtt: Option<Duration>,
    /// Bytes of applications received from it since this process started.
    pub received: u64,
    /// Bytes of applications sent to it.
    pub sent: u64,
    /// Since when the path is this one.
    pub since: Option<SystemTime>,
    /// Whether it relays for others.
    pub relay: bool,
    /// What failed last: why there is no connection, or no direct one.
    pub reason: Option<String>,
}

/// A peer's status, with its bytes still being counted.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: PeerStatus,
    pub(crate) bytes: Arc<Bytes>,
}

impl Snapshot {
    pub(crate) fn now(&self) -> PeerStatus {
        PeerStatus { received: self.bytes.received(), sent: self.bytes.sent(), ..self.status.clone() }
    }

    /// Whether somebody who watches paths wants to know of the difference: times alone are none.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let key = |s: &Self| (s.status.node.clone(), s.status.path.clone(), s.status.address.clone(), s.status.since);
        key(self) != key(other)
    }
}
