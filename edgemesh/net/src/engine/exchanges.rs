//! Exchanges with peers: begun and answered in short tasks, their messages taken here.

use std::{io, time::Instant};

use libp2p::{PeerId, swarm::ConnectionId};

use super::Engine;
use crate::{
    exchange,
    streams::{Protocol, Stream},
};

/// Exchanges at a time; more are not begun, and tried again later.
const MAX_EXCHANGES: usize = 256;

/// The end of a short task.
pub(super) struct Exchanged {
    peer: PeerId,
    connection: ConnectionId,
    protocol: Protocol,
    message: io::Result<Vec<u8>>,
}

impl Engine {
    /// Begins an exchange with a peer.
    pub(super) fn ask(&mut self, peer: PeerId, connection: ConnectionId, protocol: Protocol) {
        if self.exchanges.len() >= MAX_EXCHANGES {
            return;
        }
        let ours = self.message(protocol);
        let opening = self.open_on(peer, connection, protocol);
        self.exchanges.spawn(async move {
            let message = match tokio::time::timeout(exchange::DEADLINE, opening).await {
                Ok(Ok(Ok(stream))) => exchange::ask(stream, &ours).await,
                _ => Err(io::ErrorKind::NotConnected.into()),
            };
            Exchanged { peer, connection, protocol, message }
        });
    }

    /// Answers an exchange that a peer began.
    pub(super) fn answer(&mut self, peer: PeerId, connection: ConnectionId, protocol: Protocol, stream: Stream) {
        if self.exchanges.len() >= MAX_EXCHANGES {
            return;
        }
        let ours = self.message(protocol);
        self.exchanges.spawn(async move {
            let message = exchange::answer(stream, &ours).await;
            Exchanged { peer, connection, protocol, message }
        });
    }

    fn message(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Candidates => exchange::Addresses::encode(&self.own.candidates()),
            Protocol::Hello | Protocol::Data => self.own.record(),
        }
    }

    pub(super) fn on_exchanged(&mut self, done: Exchanged, now: Instant) {
        let Exchanged { peer, connection, protocol, message } = done;
        self.due = now;
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%peer, ?protocol, %error, "exchange failed");
                return;
            }
        };
        match protocol {
            Protocol::Candidates => {
                if let Some(addresses) = exchange::Addresses::decode_bounded(&message) {
                    self.paths.exchanged(&peer, addresses, now);
                }
            }
            Protocol::Hello | Protocol::Data => match self.directory.introduce(&peer, &message, &self.credentials) {
                Ok(changes) => self.apply(changes, now),
                Err(error) => {
                    tracing::info!(%peer, error = %skerry_common::chain(&error), "peer is not let in");
                    if self.strangers.contains_key(&connection) {
                        self.swarm.close_connection(connection);
                    }
                }
            },
        }
    }
}
