//! Where relays come from, and that they stay connected: the operator's list first, then the nodes that say in their
//! records that they relay.
//!
//! A relay that is given by address alone is dialled until it has introduced itself; from then on it is a node like
//! the others.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{ConnectionId, dial_opts::DialOpts},
};

use super::Engine;
use crate::{
    Relay,
    config::split_peer,
    paths::{Kind, is_circuit},
    relays::{self, MAX_RELAYS},
};

/// Most relays that an operator may name; the nearest [`MAX_RELAYS`] of all are used.
const MAX_NAMED: usize = 32;

/// Between dials of a relay that has not introduced itself.
const BOOTSTRAP: Duration = Duration::from_secs(2);

/// How often the list is made anew while nothing has changed: the order is by measured times.
const REFRESH: Duration = Duration::from_secs(5);

/// The relays that are named, and what is known of those that are only addresses.
#[derive(Debug)]
pub(super) struct Relaying {
    /// This node relays itself: it is reachable, and needs no reservation.
    is_relay: bool,
    named: Vec<Relay>,
    /// Who answered at an address.
    answered: HashMap<Multiaddr, PeerId>,
    dialling: HashMap<ConnectionId, Multiaddr>,
    dialled: HashMap<Multiaddr, Instant>,
    refreshed: Option<Instant>,
}

impl Relaying {
    pub(super) fn new(is_relay: bool, named: Vec<Relay>) -> Self {
        let mut new = Self {
            is_relay,
            named: Vec::new(),
            answered: HashMap::new(),
            dialling: HashMap::new(),
            dialled: HashMap::new(),
            refreshed: None,
        };
        new.set(named);
        new
    }

    pub(super) fn set(&mut self, mut named: Vec<Relay>) {
        if named.len() > MAX_NAMED {
            tracing::warn!(named = named.len(), used = MAX_NAMED, "too many relays are named");
            named.truncate(MAX_NAMED);
        }
        self.answered.retain(|address, _| named.contains(&Relay::Address(address.clone())));
        self.dialled.clear();
        self.named = named;
        self.touch();
    }

    /// The list is to be made anew.
    pub(super) fn touch(&mut self) {
        self.refreshed = None;
    }

    pub(super) fn connected(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(address) = self.dialling.remove(&connection) {
            self.answered.insert(address, peer);
            self.touch();
        }
    }

    pub(super) fn dial_failed(&mut self, connection: ConnectionId) {
        self.dialling.remove(&connection);
    }
}

impl Engine {
    /// Keeps relays connected and reservations made.
    pub(super) fn plan_relays(&mut self, now: Instant) {
        if self.relaying.refreshed.is_none_or(|at| now >= at + REFRESH) {
            self.relaying.refreshed = Some(now);
            self.refresh_relays(now);
        }
        self.dial_named(now);
        for action in self.relays.plan(now) {
            match action {
                relays::Action::Reserve(peer) => self.reserve(peer, now),
                relays::Action::Release(listener) => {
                    if !self.swarm.remove_listener(listener) {
                        self.relays.ended(listener, now);
                    }
                }
            }
        }
    }

    fn refresh_relays(&mut self, now: Instant) {
        let own = *self.swarm.local_peer_id();
        let mut list: Vec<PeerId> = Vec::new();
        for named in self.relaying.named.clone() {
            let peer = match &named {
                Relay::Node(node) => self.directory.record(node).map(|record| record.peer_id),
                Relay::Address(address) => self.relaying.answered.get(address).copied(),
            };
            let Some(peer) = peer.filter(|peer| self.directory.node(peer).is_some()) else {
                continue;
            };
            if let Relay::Address(address) = named {
                self.paths.near(&peer, vec![split_peer(address).0], now);
            }
            if !list.contains(&peer) {
                list.push(peer);
            }
        }
        let mut marked: Vec<PeerId> =
            self.directory.records().filter(|record| record.relay).map(|record| record.peer_id).collect();
        marked.sort();
        list.extend(marked.into_iter().filter(|peer| !list.contains(peer)).collect::<Vec<_>>());
        list.retain(|peer| *peer != own);
        list.truncate(MAX_RELAYS);
        let (gone, released) = self.relays.set(if self.relaying.is_relay { &[] } else { &list });
        for peer in gone {
            self.paths.pin(&peer, false, now);
        }
        for action in released {
            if let relays::Action::Release(listener) = action {
                self.swarm.remove_listener(listener);
            }
        }
        let order = self.relays.by_distance();
        list.sort_by_key(|peer| order.iter().position(|other| other == peer).unwrap_or(usize::MAX));
        let mut through = Vec::new();
        for peer in list {
            if self.relays.contains(&peer) {
                self.paths.pin(&peer, true, now);
            }
            if let Some(address) = self.address_of(&peer) {
                through.push((peer, address));
            }
        }
        self.paths.set_relays(through);
    }

    /// Where a relay is: where it is connected, or else the first address that it tells.
    fn address_of(&self, peer: &PeerId) -> Option<Multiaddr> {
        let state = self.paths.peer(peer)?;
        let connected = state.connections.iter().filter(|c| !matches!(c.kind, Kind::Relayed(_)) && c.dialled);
        let connected = connected.map(|c| without_peer(c.address.clone())).next();
        connected.or_else(|| state.direct_addresses(None).into_iter().map(without_peer).find(|a| !is_circuit(a)))
    }

    fn dial_named(&mut self, now: Instant) {
        for named in self.relaying.named.clone() {
            let Relay::Address(address) = named else {
                continue;
            };
            let known = self.relaying.answered.get(&address).is_some_and(|peer| self.directory.node(peer).is_some());
            let waits = self.relaying.dialled.get(&address).is_some_and(|at| now < *at + BOOTSTRAP);
            if known || waits || self.relaying.dialling.values().any(|dialled| *dialled == address) {
                continue;
            }
            self.relaying.dialled.insert(address.clone(), now);
            if let Some(peer) = split_peer(address.clone()).1
                && self.directory.node(&peer).is_some()
            {
                self.relaying.answered.insert(address, peer);
                self.relaying.touch();
                continue;
            }
            let options = DialOpts::unknown_peer_id().address(address.clone()).build();
            self.relaying.dialling.insert(options.connection_id(), address);
            let connection = options.connection_id();
            if self.swarm.dial(options).is_err() {
                self.relaying.dial_failed(connection);
            }
        }
    }

    fn reserve(&mut self, peer: PeerId, now: Instant) {
        let Some(address) = self.address_of(&peer) else {
            return;
        };
        let circuit = address.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(circuit) {
            Ok(listener) => self.relays.asked(&peer, listener, now),
            Err(error) => tracing::debug!(relay = %peer, %error, "no reservation"),
        }
    }
}

/// libp2p ends the address of a dialled connection with its PeerId.
fn without_peer(address: Multiaddr) -> Multiaddr {
    split_peer(address).0
}
