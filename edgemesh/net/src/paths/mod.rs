//! Which connections to which peers: what is dialled and when, which of several is used, which is closed.
//!
//! Sans IO: the engine says what happened and when, and does what [`Paths::plan`] returns. One peer costs some hundred
//! bytes and its addresses; nothing here grows with streams.
//!
//! Rules:
//! - A relayed connection never keeps a direct one from being tried. While the best path is relayed, addresses are
//!   exchanged over it and dialled from both ends at the same moment, again and again, less and less often, and at once
//!   when an address or the network changes.
//! - Direct addresses and circuits are dialled in parallel; circuits wait [`HEAD_START`] where a direct address is
//!   known and has not just failed.
//! - Make before break: new streams go to the best connection that works; a connection that is no longer the best ends
//!   when its last stream has ended, and only at the end with the smaller PeerId, so that both never close their own.
//! - A connection carries streams only after a first ping: then the peer knows us too.

mod peer;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

pub(crate) use peer::{Connection, Kind, Peer, ip_of, is_circuit};

/// How long circuits wait for a direct path: within a LAN and most of a continent that is enough, and a person does
/// not notice it.
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);

/// After a failed attempt, doubled each time.
const BACKOFF: Duration = Duration::from_secs(1);

/// Longest pause between attempts to reach a peer that is not connected, and for relays.
const BACKOFF_DISCONNECTED: Duration = Duration::from_secs(30);

/// The same for a relay that we use: when it is back it is found within this.
const BACKOFF_RELAY: Duration = Duration::from_secs(2);

/// The same for a direct path to a peer that is connected through a relay.
const BACKOFF_UPGRADE: Duration = Duration::from_secs(300);

/// How long the answer to an exchange of addresses may take before the known ones are dialled all the same.
const EXCHANGE: Duration = Duration::from_secs(2);

/// A peer stays connected for this long after its last stream.
pub(crate) const IDLE: Duration = Duration::from_secs(300);

/// A connection that is no longer the best is kept for this long, in case the better one does not last.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// A connection on which nothing came back for this long is dead: two pings, and not the whole of 5 s.
pub(crate) const SILENCE: Duration = Duration::from_secs(4);

/// When nothing was planned for this long, this process itself has stood still, and knows nothing of silence.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// A connection on which no ping came back within this is closed: the peer does not let us in.
const UNPROVED: Duration = Duration::from_secs(10);

/// Most addresses of a peer that were found near or told in an exchange.
pub(crate) const MAX_NEAR: usize = 32;

/// Most addresses in one dial.
pub(crate) const MAX_DIALLED: usize = 48;

/// Most relays through which one peer is dialled at once.
pub(crate) const MAX_CIRCUITS: usize = 8;

/// Of which sort the addresses of a dial are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Direct,
    Relayed,
}

/// What the engine shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Dial all of these at once, and call [`Paths::dialling`].
    Dial { peer: PeerId, class: Class, addresses: Vec<Multiaddr> },
    /// Exchange addresses over this connection.
    Exchange { peer: PeerId, connection: ConnectionId },
    /// Close this connection.
    Close { peer: PeerId, connection: ConnectionId },
}

/// All peers that are known, and their connections.
#[derive(Debug)]
pub(crate) struct Paths {
    own: PeerId,
    peers: HashMap<PeerId, Peer>,
    /// Relays through which peers may be dialled, best first, each with one address.
    relays: Vec<(PeerId, Multiaddr)>,
    /// A relay's connections do not end for being idle.
    keep_idle: bool,
    planned: Option<Instant>,
}

impl Paths {
    pub(crate) fn new(own: PeerId, keep_idle: bool) -> Self {
        Self { own, peers: HashMap::new(), relays: Vec::new(), keep_idle, planned: None }
    }

    /// The peer is known, with these addresses in its record.
    pub(crate) fn know(&mut self, peer: PeerId, published: Vec<Multiaddr>, now: Instant) {
        let peer = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        if peer.published != published {
            peer.published = published;
            peer.try_again(now);
        }
    }

    /// The peer is not known any more. Returns its connections, which the caller closes.
    pub(crate) fn forget(&mut self, peer: &PeerId) -> Vec<ConnectionId> {
        self.peers.remove(peer).map(|peer| peer.connections.iter().map(|c| c.id).collect()).unwrap_or_default()
    }

    /// What is known of one peer.
    pub(crate) fn peer(&self, peer: &PeerId) -> Option<&Peer> {
        self.peers.get(peer)
    }

    /// The relays through which peers are dialled, best first.
    pub(crate) fn set_relays(&mut self, relays: Vec<(PeerId, Multiaddr)>) {
        self.relays = relays;
    }

    /// Somebody wants to reach the peer now.
    pub(crate) fn want(&mut self, peer: &PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.want(now);
        }
    }

    /// The peer is a relay that we use, or is no more: it stays connected, and is dialled again soon.
    pub(crate) fn pin(&mut self, peer: &PeerId, pinned: bool, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer)
            && peer.pinned != pinned
        {
            peer.pinned = pinned;
            peer.want(now);
        }
    }

    /// Addresses of the peer were found in the LAN or told by itself.
    pub(crate) fn near(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.near(addresses, now);
        }
    }

    /// An address of the peer is not there any more.
    pub(crate) fn not_near(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.near.retain(|near| near != address);
        }
    }

    /// The peer told its addresses in an exchange, and dials ours now.
    pub(crate) fn exchanged(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.near(addresses, now);
            peer.exchanged = true;
            peer.direct.next = now;
        }
    }

    /// A dial of this class has begun.
    pub(crate) fn dialling(&mut self, peer: &PeerId, class: Class, connection: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.attempt(class).in_flight = Some(connection);
        }
    }

    /// A dial has failed. Dials of others (DCUtR) are not counted.
    pub(crate) fn dial_failed(&mut self, peer: &PeerId, connection: ConnectionId, reason: String, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.dial_failed(connection, reason, now);
        }
    }

    /// A connection is there. It is not used before [`Paths::ping`].
    pub(crate) fn established(&mut self, peer: &PeerId, connection: Connection) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.established(connection);
        }
    }

    /// A ping came back. Returns whether the connection can be used only now.
    pub(crate) fn ping(&mut self, peer: &PeerId, connection: ConnectionId, rtt: Duration, now: Instant) -> bool {
        let found = self.peers.get_mut(peer).and_then(|p| p.connections.iter_mut().find(|c| c.id == connection));
        found.is_some_and(|found| !found.ping(rtt, now))
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self, peer: &PeerId, connection: ConnectionId, reason: Option<String>, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.closed(connection, reason, now);
        }
    }

    /// The host's addresses or routes have changed: everything may be different now.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            peer.try_again(now);
        }
    }

    /// The connection that new streams to the peer use.
    pub(crate) fn best(&self, peer: &PeerId) -> Option<&Connection> {
        self.peers.get(peer).and_then(|state| state.best(&self.own, peer))
    }

    /// Whether everything that could be tried for a peer has failed since somebody wanted it.
    pub(crate) fn is_hopeless(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_none_or(|state| {
            state.connections.is_empty()
                && state.direct.in_flight.is_none()
                && state.relayed.in_flight.is_none()
                && (state.refuses()
                    || (state.direct.failures > 0 || state.direct_addresses(None).is_empty())
                        && (state.relayed.failures > 0 || self.circuits(peer, state).is_empty()))
        })
    }

    /// What is to be done now. `used` says how many streams a connection has, and a number that changes when something
    /// arrives on them.
    pub(crate) fn plan(&mut self, now: Instant, used: impl Fn(ConnectionId) -> (usize, usize)) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.planned.replace(now).is_some_and(|before| now > before + STOOD_STILL) {
            for connection in self.peers.values_mut().flat_map(|peer| &mut peer.connections) {
                connection.alive = now;
            }
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let circuits = match self.peers.get(&id) {
                Some(peer) if peer.may_need_circuits(now) => self.circuits(&id, peer),
                _ => Vec::new(),
            };
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.plan(&self.own, &id, now, circuits, self.keep_idle, &used, &mut actions);
            }
        }
        actions
    }

    /// When [`Paths::plan`] should be called at the latest.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let soonest = self.peers.values().filter_map(|peer| peer.next(now)).min();
        soonest.unwrap_or(now + IDLE).min(now + Duration::from_secs(1)).max(now)
    }

    /// Circuits to a peer: those of its record, then through our relays.
    fn circuits(&self, id: &PeerId, peer: &Peer) -> Vec<Multiaddr> {
        use libp2p::multiaddr::Protocol;
        let mut found: Vec<Multiaddr> = Vec::new();
        let mut through: Vec<PeerId> = vec![*id];
        let told = peer.published.iter().filter(|address| peer::is_circuit(address)).filter_map(|address| {
            let relay = peer::relay_of(address)?;
            let end = Protocol::P2p(*id);
            let whole =
                if address.iter().last() == Some(end.clone()) { address.clone() } else { address.clone().with(end) };
            Some((relay, whole))
        });
        let ours = self.relays.iter().map(|(relay, address)| {
            let circuit = address.clone().with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit);
            (*relay, circuit.with(Protocol::P2p(*id)))
        });
        for (relay, address) in told.chain(ours) {
            if found.len() < MAX_CIRCUITS && relay != self.own && !through.contains(&relay) {
                through.push(relay);
                found.push(address);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
