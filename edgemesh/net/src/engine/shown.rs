//! What is shown of the peers.

use std::sync::Arc;

use super::Engine;
use crate::{Path, PeerStatus, paths::Kind, status::Snapshot};

impl Engine {
    /// Shows all peers as they are now; wakes those who watch if a path is another one.
    pub(super) fn publish_status(&mut self) {
        let mut all: Vec<Snapshot> = Vec::new();
        let streams = &mut self.swarm.behaviour_mut().gate.streams;
        for record in self.directory.records() {
            let best = self.paths.best(&record.peer_id);
            let path = match best.map(|best| best.kind) {
                None => Path::None,
                Some(Kind::Lan) => Path::Lan,
                Some(Kind::Direct) => Path::Direct,
                Some(Kind::Relayed(relay)) => Path::Relayed {
                    by: self.directory.node(&relay).map_or_else(|| relay.to_string(), ToString::to_string),
                },
            };
            all.push(Snapshot {
                status: PeerStatus {
                    node: record.node.clone(),
                    peer_id: record.peer_id,
                    path,
                    address: best.map(|best| best.address.clone()),
                    rtt: best.and_then(|best| best.rtt),
                    received: 0,
                    sent: 0,
                    since: best.map(|best| self.epoch.1 + best.since.duration_since(self.epoch.0)),
                    relay: record.relay,
                    reason: self.paths.peer(&record.peer_id).and_then(|peer| peer.reason.clone()),
                },
                bytes: Arc::clone(streams.bytes(record.peer_id)),
            });
        }
        all.sort_by(|a, b| a.status.node.cmp(&b.status.node));
        self.outlets.status.send_if_modified(|current| {
            let differs =
                current.len() != all.len() || current.iter().zip(&all).any(|(before, now)| before.differs(now));
            *current = all.into();
            differs
        });
    }
}
