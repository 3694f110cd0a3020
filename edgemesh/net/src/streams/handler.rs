//! One connection's streams: opens what is asked for, accepts what the protocol allows.
//!
//! Runs in the connection's task. A member's handler accepts all protocols; a stranger's only the exchange of records,
//! so that nothing else of a stranger is even read.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use libp2p::{
    StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    swarm::{
        self, ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use skerry_common::NodeName;
use tokio::sync::mpsc;

use super::{Accepted, Bytes, Load, MAX_STREAMS, NEGOTIATION, Open, Protocol, Refused, Stream};

/// Exchanges of one connection that the engine has not taken yet. There is one of each kind at a time; more is abuse.
const MAX_EXCHANGES: usize = 4;

/// Names the protocols, and hands the stream on as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade(&'static [Protocol]);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Map<std::slice::Iter<'static, Protocol>, fn(&Protocol) -> StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().map(|protocol| StreamProtocol::new(protocol.name()))
    }
}

impl InboundUpgrade<swarm::Stream> for Upgrade {
    type Output = (Protocol, swarm::Stream);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: swarm::Stream, name: StreamProtocol) -> Self::Future {
        let agreed = self.0.iter().copied().find(|protocol| protocol.name() == name.as_ref());
        ready(Ok((agreed.unwrap_or(Protocol::Hello), stream)))
    }
}

impl OutboundUpgrade<swarm::Stream> for Upgrade {
    type Output = swarm::Stream;
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: swarm::Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// A stream of a short exchange that the peer opened.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) protocol: Protocol,
    pub(crate) stream: Stream,
}

/// The handler of one connection.
pub(crate) struct Handler {
    /// `None` for a stranger.
    node: Option<NodeName>,
    accepted: mpsc::Sender<Accepted>,
    load: Arc<Load>,
    bytes: Arc<Bytes>,
    opening: VecDeque<Open>,
    exchanges: VecDeque<Inbound>,
    waker: Option<Waker>,
}

impl Handler {
    pub(crate) fn new(
        node: Option<NodeName>,
        accepted: mpsc::Sender<Accepted>,
        load: Arc<Load>,
        bytes: Arc<Bytes>,
    ) -> Self {
        Self { node, accepted, load, bytes, opening: VecDeque::new(), exchanges: VecDeque::new(), waker: None }
    }

    fn stream(&self, inner: swarm::Stream) -> Option<Stream> {
        Stream::new(inner, &self.load, &self.bytes)
    }

    fn accept(&mut self, protocol: Protocol, stream: swarm::Stream) {
        let Some(stream) = self.stream(stream) else {
            tracing::debug!(limit = MAX_STREAMS, "stream refused: the connection has too many");
            return;
        };
        match (&self.node, protocol) {
            (Some(node), Protocol::Data) => {
                let accepted = Accepted { from: node.clone(), stream };
                if self.accepted.try_send(accepted).is_err() {
                    tracing::warn!(%node, "stream refused: too many wait to be accepted");
                }
            }
            (None, Protocol::Data | Protocol::Candidates) => {}
            (_, Protocol::Hello | Protocol::Candidates) => {
                if self.exchanges.len() < MAX_EXCHANGES {
                    self.exchanges.push_back(Inbound { protocol, stream });
                }
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Inbound;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        let protocols = if self.node.is_some() { Protocol::MEMBER } else { Protocol::STRANGER };
        SubstreamProtocol::new(Upgrade(protocols), ()).with_timeout(NEGOTIATION)
    }

    fn connection_keep_alive(&self) -> bool {
        // Connections end when the engine says so, never because nothing happens on them.
        true
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, Open, Inbound>> {
        if let Some(exchange) = self.exchanges.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(exchange));
        }
        while let Some(open) = self.opening.pop_front() {
            if open.reply.is_closed() {
                continue;
            }
            let protocols: &'static [Protocol] = match open.protocol {
                Protocol::Data => &[Protocol::Data],
                Protocol::Hello => &[Protocol::Hello],
                Protocol::Candidates => &[Protocol::Candidates],
            };
            let protocol = SubstreamProtocol::new(Upgrade(protocols), open).with_timeout(NEGOTIATION);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.load.streams() + self.opening.len() >= MAX_STREAMS {
            let _ = open.reply.send(Err(Refused::Limit));
            return;
        }
        self.opening.push_back(open);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream), ..
            }) => {
                self.accept(protocol, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                let _ = info.reply.send(self.stream(stream).ok_or(Refused::Limit));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                tracing::debug!(%error, "stream not opened");
                let _ = info.reply.send(Err(Refused::Lost));
            }
            _ => {}
        }
    }
}
