//! What the swarm tells: connections that come and go, pings, addresses, exchanges that peers begin.

use std::time::{Duration, Instant};

use libp2p::{
    PeerId, autonat, dcutr, identify, mdns, ping, relay,
    swarm::{ConnectionId, SwarmEvent, dial_opts::DialOpts},
    upnp,
};

use super::{Engine, Stranger, reason_of};
use crate::{
    behaviour::{BehaviourEvent, MembersEvent},
    config::split_peer,
    gate,
    paths::{Connection, Kind},
    streams::{self, Protocol},
};

/// How often a peer that is near but not known is asked to introduce itself.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Most such peers that are remembered. Multicast is not authenticated: a flood of it must cost nothing.
const MAX_ASKED: usize = 64;

impl Engine {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>, now: Instant) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gate(gate::Event::Streams(event))) => {
                let streams::Event::Exchange { peer, connection, protocol, stream } = *event;
                self.answer(peer, connection, protocol, stream);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gate(gate::Event::Members(event))) => self.on_member(*event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Connections(never) | BehaviourEvent::Memory(never)) => match never {},
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.due = now;
                self.on_established(peer_id, Connection::new(connection_id, &endpoint, now), now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.due = now;
                self.strangers.remove(&connection_id);
                let reason = cause.map(|cause| skerry_common::chain(&cause));
                tracing::debug!(peer = %peer_id, connection = %connection_id, ?reason, "connection closed");
                self.paths.closed(&peer_id, connection_id, reason, now);
                if !self.is_direct(&peer_id) {
                    self.relays.disconnected(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.due = now;
                let reason = reason_of(&error);
                tracing::debug!(peer = ?peer_id, reason, "dial failed");
                self.relaying.dial_failed(connection_id);
                if let Some(peer) = peer_id {
                    self.paths.dial_failed(&peer, connection_id, reason, now);
                }
            }
            SwarmEvent::IncomingConnectionError { peer_id, send_back_addr, error, .. } => {
                let error = skerry_common::chain(&error);
                tracing::debug!(peer = ?peer_id, from = %send_back_addr, error, "connection refused");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listens(address, now);
                self.due = now;
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.own.listens_no_more(&address, now);
                self.due = now;
            }
            SwarmEvent::ListenerClosed { listener_id, reason, addresses } => {
                self.due = now;
                for address in &addresses {
                    self.own.listens_no_more(address, now);
                }
                if !self.relays.ended(listener_id, now)
                    && let Err(error) = reason
                {
                    tracing::warn!(?addresses, %error, "listener closed");
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener failed once"),
            SwarmEvent::NewExternalAddrCandidate { address } => self.own.observed(address),
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.own.confirmed(address, now);
                self.due = now;
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.own.confirmed_no_more(&address, now);
                self.due = now;
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, connection: Connection, now: Instant) {
        self.relaying.connected(connection.id, peer);
        if self.swarm.behaviour().gate.is_stranger(connection.id) {
            if self.directory.node(&peer).is_some() {
                // It became known while the handshake was under way.
                self.swarm.close_connection(connection.id);
                return;
            }
            tracing::debug!(%peer, address = %connection.address, "unknown peer: asked to introduce itself");
            self.strangers.insert(connection.id, Stranger { peer, since: now });
            self.ask(peer, connection.id, Protocol::Hello);
        } else if self.paths.peer(&peer).is_none() {
            // It was removed while the handshake was under way.
            self.swarm.close_connection(connection.id);
        } else {
            tracing::debug!(%peer, address = %connection.address, kind = ?connection.kind, "connected");
            self.paths.established(&peer, connection);
        }
    }

    fn on_member(&mut self, event: MembersEvent, now: Instant) {
        match event {
            MembersEvent::Ping(ping::Event { peer, connection, result: Ok(rtt) }) => {
                self.on_ping(peer, connection, rtt, now);
            }
            // What a failed ping means is decided by silence, which other traffic breaks as well.
            MembersEvent::Ping(ping::Event { peer, result: Err(error), .. }) => {
                tracing::debug!(%peer, %error, "ping failed");
            }
            MembersEvent::Circuits(relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. }) => {
                if !renewal {
                    tracing::info!(relay = %relay_peer_id, "relay holds a place for this node");
                }
                self.relays.accepted(&relay_peer_id, now);
                self.due = now;
            }
            MembersEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.on_near(peer, split_peer(address).0, now);
                }
            }
            MembersEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, address) in gone {
                    self.paths.not_near(&peer, &split_peer(address).0);
                }
            }
            MembersEvent::Dcutr(dcutr::Event { remote_peer_id, result }) => {
                let error = result.err().map(|error| skerry_common::chain(&error));
                tracing::debug!(peer = %remote_peer_id, ?error, "hole punched by dcutr");
            }
            MembersEvent::Upnp(upnp::Event::NewExternalAddr { external_addr, .. }) => {
                tracing::info!(address = %external_addr, "router forwards a port");
            }
            MembersEvent::Probe(autonat::v2::client::Event { tested_addr, result, .. }) => {
                let error = result.err().map(|error| error.to_string());
                tracing::debug!(address = %tested_addr, ?error, "address probed");
            }
            MembersEvent::Identify(identify::Event::Error { peer_id, error, .. }) => {
                tracing::debug!(peer = %peer_id, %error, "identify failed");
            }
            _ => {}
        }
    }

    fn on_ping(&mut self, peer: PeerId, connection: ConnectionId, rtt: Duration, now: Instant) {
        if self.paths.ping(&peer, connection, rtt, now) {
            self.due = now;
            self.serve_waiting(peer);
        }
        let direct = self.paths.peer(&peer).is_some_and(|state| {
            state.connections.iter().any(|c| c.id == connection && !matches!(c.kind, Kind::Relayed(_)))
        });
        if direct {
            self.relays.ping(&peer, rtt);
        }
    }

    /// Whether there is a connection with the peer that no relay carries.
    fn is_direct(&self, peer: &PeerId) -> bool {
        let direct = |c: &Connection| !matches!(c.kind, Kind::Relayed(_));
        self.paths.peer(peer).is_some_and(|state| state.connections.iter().any(direct))
    }

    /// Multicast says that a peer is in the LAN: it is connected, so that the LAN is used from the first stream on.
    fn on_near(&mut self, peer: PeerId, address: libp2p::Multiaddr, now: Instant) {
        self.due = now;
        if self.directory.node(&peer).is_some() {
            self.paths.near(&peer, vec![address], now);
            self.paths.want(&peer, now);
            return;
        }
        self.asked.retain(|_, at| now < *at + ASK_AGAIN);
        if self.asked.len() < MAX_ASKED && !self.asked.contains_key(&peer) {
            self.asked.insert(peer, now);
            let _ = self.swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build());
        }
    }
}
