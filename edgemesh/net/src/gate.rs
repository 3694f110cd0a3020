//! The door: which libp2p protocols a connection gets, by who is at its other end.
//!
//! libp2p proves a peer's PeerId during the handshake. If a record with that PeerId is known, the connection gets all
//! protocols; if not, it gets the exchange of records and nothing else, so a stranger cannot use the relay, learn our
//! addresses, or open a stream that an application sees. Strangers are bounded in number here, and in time by the
//! engine. A connection never changes its kind: after an introduction it is closed and made again.
//!
//! The members' protocols never hear of a stranger's connection: libp2p's behaviours count on seeing either all events
//! of a connection or none.

use std::{
    collections::{HashMap, HashSet},
    task::{Context, Poll},
};

use either::Either;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerSelect, ConnectionId, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use skerry_common::NodeName;

use crate::{
    behaviour::{Members, MembersEvent},
    streams::{self, Streams},
};

/// Most connections of strangers at a time, in both directions. An introduction takes two round trips; with more than
/// this waiting, newcomers come in through the record in their Node.
pub const MAX_STRANGERS: usize = 32;

/// There are [`MAX_STRANGERS`] already.
#[derive(Debug, thiserror::Error)]
#[error("too many unknown peers are connected")]
struct TooManyStrangers;

/// Events of the members' protocols and of our own.
#[derive(Debug)]
pub(crate) enum Event {
    Members(Box<MembersEvent>),
    Streams(Box<streams::Event>),
}

/// All protocols, behind the door.
pub(crate) struct Gate {
    pub(crate) members: Members,
    pub(crate) streams: Streams,
    known: HashMap<PeerId, NodeName>,
    strangers: HashSet<ConnectionId>,
}

type Protocols = ConnectionHandlerSelect<streams::Handler, Either<THandler<Members>, dummy::ConnectionHandler>>;

impl Gate {
    pub(crate) fn new(members: Members, streams: Streams) -> Self {
        Self { members, streams, known: HashMap::new(), strangers: HashSet::new() }
    }

    /// Lets connections of this peer in from now on.
    pub(crate) fn admit(&mut self, peer: PeerId, node: NodeName) {
        self.known.insert(peer, node);
    }

    /// Makes the peer a stranger. Its connections are the caller's to close.
    pub(crate) fn expel(&mut self, peer: &PeerId) {
        self.known.remove(peer);
        self.streams.forget(peer);
    }

    /// Whether the connection is a stranger's.
    pub(crate) fn is_stranger(&self, connection: ConnectionId) -> bool {
        self.strangers.contains(&connection)
    }

    fn enter(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        members: impl FnOnce(&mut Members) -> Result<THandler<Members>, ConnectionDenied>,
    ) -> Result<Protocols, ConnectionDenied> {
        let node = self.known.get(&peer).cloned();
        let handler = match &node {
            Some(_) => Either::Left(members(&mut self.members)?),
            None if self.strangers.len() >= MAX_STRANGERS => return Err(ConnectionDenied::new(TooManyStrangers)),
            None => {
                self.strangers.insert(connection);
                Either::Right(dummy::ConnectionHandler)
            }
        };
        Ok(self.streams.handler(peer, connection, node).select(handler))
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = Protocols;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.members.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.enter(connection, peer, |members| {
            members.handle_established_inbound_connection(connection, peer, local, remote)
        })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.members.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.enter(connection, peer, |members| {
            members.handle_established_outbound_connection(connection, peer, address, role, port)
        })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let connection = match &event {
            FromSwarm::ConnectionEstablished(established) => Some(established.connection_id),
            FromSwarm::AddressChange(change) => Some(change.connection_id),
            FromSwarm::ConnectionClosed(closed) => Some(closed.connection_id),
            _ => None,
        };
        let stranger = connection.is_some_and(|connection| self.strangers.contains(&connection));
        let over = match &event {
            FromSwarm::ConnectionClosed(closed) => Some(closed.connection_id),
            // Another behaviour denied a connection after it had entered here.
            FromSwarm::DialFailure(failure) => Some(failure.connection_id),
            FromSwarm::ListenFailure(failure) => Some(failure.connection_id),
            _ => None,
        };
        if let Some(over) = over {
            self.strangers.remove(&over);
            self.streams.closed(over);
        }
        if !stranger {
            self.members.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(event) => self.streams.on_handler_event(peer, connection, event),
            Either::Right(Either::Left(event)) => {
                self.members.on_connection_handler_event(peer, connection, event);
            }
            Either::Right(Either::Right(never)) => match never {},
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Poll::Ready(action) = self.streams.poll(context) {
            return Poll::Ready(action.map_in(Either::Left).map_out(|event| Event::Streams(Box::new(event))));
        }
        self.members.poll(context).map(|action| {
            action.map_in(|event| Either::Right(Either::Left(event))).map_out(|event| Event::Members(Box::new(event)))
        })
    }
}

#[cfg(test)]
mod tests;
