//! Callers that want a stream: they get it on the best connection, wait for one, or are told that there is none.

use libp2p::{PeerId, swarm::ConnectionId};
use skerry_common::NodeName;
use std::time::Instant;
use tokio::sync::oneshot;

use super::{Engine, Opening};
use crate::{
    OpenError,
    streams::{Open, Protocol},
};

/// Callers that wait for a connection, in all.
pub const MAX_WAITING: usize = 4_096;

/// A caller that waits for a connection. When it goes away, so does the other end of `reply`.
#[derive(Debug)]
pub(super) struct Caller {
    node: NodeName,
    reply: oneshot::Sender<Result<Opening, OpenError>>,
}

impl Caller {
    /// Tells it that the node is not known any more.
    pub(super) fn unknown(self) {
        let _ = self.reply.send(Err(OpenError::UnknownNode(self.node)));
    }
}

impl Engine {
    pub(super) fn open(&mut self, node: NodeName, reply: oneshot::Sender<Result<Opening, OpenError>>, now: Instant) {
        let Some(peer) = self.directory.record(&node).map(|record| record.peer_id) else {
            let _ = reply.send(Err(OpenError::UnknownNode(node)));
            return;
        };
        self.paths.want(&peer, now);
        if let Some(best) = self.paths.best(&peer) {
            let _ = reply.send(Ok(self.open_on(peer, best.id, Protocol::Data)));
        } else if self.waiting.values().map(Vec::len).sum::<usize>() >= MAX_WAITING {
            let _ = reply.send(Err(OpenError::Limit(node)));
        } else {
            self.waiting.entry(peer).or_default().push(Caller { node, reply });
        }
    }

    pub(super) fn open_on(&mut self, peer: PeerId, connection: ConnectionId, protocol: Protocol) -> Opening {
        let (reply, opening) = oneshot::channel();
        self.swarm.behaviour_mut().gate.streams.open(peer, connection, Open { protocol, reply });
        opening
    }

    /// Callers that waited for this peer get their streams.
    pub(super) fn serve_waiting(&mut self, peer: PeerId) {
        let Some(connection) = self.paths.best(&peer).map(|best| best.id) else {
            return;
        };
        for caller in self.waiting.remove(&peer).unwrap_or_default() {
            if !caller.reply.is_closed() {
                let opening = self.open_on(peer, connection, Protocol::Data);
                let _ = caller.reply.send(Ok(opening));
            }
        }
    }

    /// Callers whose peer cannot be reached are told, and those that went away are forgotten.
    pub(super) fn give_up_hopeless(&mut self) {
        let paths = &self.paths;
        self.waiting.retain(|peer, callers| {
            callers.retain(|caller| !caller.reply.is_closed());
            if callers.is_empty() || !paths.is_hopeless(peer) {
                return !callers.is_empty();
            }
            let reason = paths.peer(peer).and_then(|peer| peer.reason.clone());
            let reason =
                reason.unwrap_or_else(|| "it has no address that can be dialled, and there is no relay".into());
            for Caller { node, reply } in callers.drain(..) {
                let _ = reply.send(Err(OpenError::Unreachable { node, reason: reason.clone() }));
            }
            false
        });
    }
}
