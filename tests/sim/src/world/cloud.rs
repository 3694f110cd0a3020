//! The cloud's steps: writes to the API, the source's watch, lists, publishers, and the hub.

use skerry_common::Key;
use skerry_proto::sync::v1::subscribe_request::Message;
use skerry_sync::{Out, Publisher, SubscriptionId};

use super::{World, refused};
use crate::bug::Bug;
use crate::invariant::{Invariant, Violation, check};
use crate::session::{Down, Session};
use crate::source::{List, ReplicaView};

/// The publisher of this subscription, unless it was closed.
fn addressed(session: &mut Session, subscription: u64) -> Option<&mut Publisher> {
    session.publisher.as_mut().filter(|publisher| publisher.id().0 == subscription)
}

impl World {
    // ---- traffic --------------------------------------------------------------------------

    pub(super) fn write(&mut self) {
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        let node = match self.api.objects.get(&key) {
            Some(object) if !self.rng.one_in(8) => object.node,
            _ => self.rng.below(self.nodes.len()),
        };
        self.api.write(&key, node, &mut self.rng);
        trace!(self, "api: write {} of {key} for node {node}", self.api.rev());
    }

    pub(super) fn delete(&mut self) {
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        if self.api.delete(&key) {
            self.counters.add("delete");
            trace!(self, "api: write {} deletes {key}", self.api.rev());
        }
    }

    pub(super) fn say(&mut self, event: bool) {
        let node = self.rng.below(self.nodes.len());
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        // The outbox is bounded; beyond it the store refuses.
        if self.nodes[node].disk.outbox.len() < 40 {
            self.nodes[node].say(key, event);
        }
    }

    // ---- the source -----------------------------------------------------------------------

    pub(super) fn changed(&mut self, replica: usize, key: &Key, deleted: bool) {
        for session in self.sessions.iter_mut().filter(|session| session.replica == replica) {
            let Some(publisher) = &mut session.publisher else { continue };
            match self.bug {
                Some(Bug::LostDelete) if deleted && publisher.in_flight_len() > 0 => {}
                Some(Bug::UnboundedQueue) => session.backlog.push_back(key.clone()),
                _ => publisher.changed(key.clone()),
            }
        }
    }

    pub(super) fn watch(&mut self, at: usize) -> bool {
        let Some(key) = self.replicas[at].watch(&self.api) else { return false };
        let cursor = self.replicas[at].cursor;
        trace!(self, "source {at}: watch has write {cursor} of {key}");
        let deleted = self.api.log[cursor as usize - 1].object.is_none();
        self.changed(at, &key, deleted);
        self.caught_up(at, Some(cursor));
        true
    }

    /// The cache has moved: sessions that waited for it, and doubts that are settled by it.
    pub(super) fn caught_up(&mut self, at: usize, exactly: Option<u64>) {
        for key in self.replicas[at].proved_now() {
            self.changed(at, &key, true);
        }
        for session in self.sessions.iter_mut().filter(|session| session.replica == at) {
            if exactly.is_none_or(|cursor| session.barrier == cursor)
                && let Some(publisher) = &mut session.publisher
            {
                publisher.recheck();
            }
        }
    }

    pub(super) fn confirm(&mut self, at: usize) -> bool {
        if self.replicas[at].count(&self.api) {
            trace!(self, "source {at}: the count says that the list was short");
            self.relist(at, List::Honest);
            return true;
        }
        let Some(key) = self.replicas[at].doubtful.first().cloned() else { return false };
        let exists = self.replicas[at].confirm(&self.api, &key);
        trace!(self, "source {at}: confirms {key}: exists {exists}");
        self.counters.add("confirm");
        if exists {
            self.relist(at, List::Honest);
        } else {
            self.caught_up(at, None);
        }
        true
    }

    pub(super) fn relist(&mut self, at: usize, list: List) {
        let changed = self.replicas[at].list(&self.api, list, &mut self.rng);
        self.counters.add(match list {
            List::Honest => "list",
            List::Partial => "partial list",
            List::Lying => "lying list",
        });
        trace!(self, "source {at}: {list:?} list at write {}: {changed:?} changed", self.replicas[at].cursor);
        for key in &changed {
            self.changed(at, key, false);
        }
        self.caught_up(at, None);
    }

    pub(super) fn recheck(&mut self, at: usize) -> Result<bool, Violation> {
        if let Some(publisher) = &mut self.sessions[at].publisher {
            publisher.recheck();
        }
        Ok(false)
    }

    pub(super) fn poll(&mut self, at: usize) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        if !session.cloud_up || !session.down.has_room() {
            return Ok(false);
        }
        let Some(publisher) = &mut session.publisher else { return Ok(false) };
        if publisher.in_flight_len() == 0
            && let Some(key) = session.backlog.pop_front()
        {
            publisher.changed(key);
        }
        let replica = &mut self.replicas[session.replica];
        let mut view = ReplicaView { replica, node: session.node, barrier: session.barrier, bug: self.bug };
        let Some(out) = publisher.poll(&mut view) else { return Ok(false) };
        let id = session.id;
        match out {
            Out::Oversize { key, .. } => {
                return Err(Violation::new(Invariant::Protocol, format!("{key} is called too large")));
            }
            Out::InSync(mark) => {
                session.down.legs[0].push_back(Down::InSync(mark));
                trace!(self, "session {id}: source sends InSync");
            }
            Out::Delta(delta) => {
                for tombstone in &delta.tombstones {
                    let Ok(key) = skerry_sync::wire::key_from_wire(tombstone.key.as_ref()) else { continue };
                    let rev = replica.absent_at.get(&key).copied().unwrap_or(0);
                    self.nodes[session.node].note_tombstone((id, delta.subscription), delta.nonce, key, rev);
                    self.counters.add("tombstone");
                }
                session.down.legs[0].push_back(Down::Delta(delta.clone()));
                self.counters.add("delta");
                trace!(self, "session {id}: source sends {}", self.show(&delta));
            }
        }
        Ok(true)
    }

    pub(super) fn source_receive(&mut self, at: usize) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        if !session.cloud_up {
            return Ok(false);
        }
        let Some(message) = session.up.legs[1].pop_front().and_then(|request| request.message) else {
            return Ok(false);
        };
        let (id, node) = (session.id, session.node);
        let more = match message {
            Message::Open(open) => {
                let mut publisher = Publisher::new(SubscriptionId(open.subscription), self.limits);
                session.barrier = self.api.rev();
                publisher.hold_wire(&open.held).map_err(|error| refused("source", &error))?;
                session.publisher = Some(publisher);
                self.counters.add("open");
                open.more
            }
            Message::Held(held) => {
                let Some(publisher) = addressed(session, held.subscription) else { return Ok(true) };
                publisher.hold_wire(&held.held).map_err(|error| refused("source", &error))?;
                held.more
            }
            Message::Ack(ack) => {
                let Some(publisher) = addressed(session, ack.subscription) else { return Ok(true) };
                publisher.ack(ack.nonce).map_err(|error| refused("source", &error))?;
                check(self.nodes[node].is_durable((id, ack.subscription), ack.nonce), Invariant::Honest, || {
                    format!("node {node} acknowledged delta {} of session {id}, which it has not on disk", ack.nonce)
                })?;
                trace!(self, "session {id}: source has the ack of {}", ack.nonce);
                return Ok(true);
            }
            Message::Nack(nack) => {
                let Some(publisher) = addressed(session, nack.subscription) else { return Ok(true) };
                publisher.nack(nack.nonce, nack.failures).map_err(|error| refused("source", &error))?;
                self.counters.add("nack");
                trace!(self, "session {id}: source has the nack of {}", nack.nonce);
                return Ok(true);
            }
            Message::Close(close) => {
                if addressed(session, close.subscription).is_some() {
                    session.publisher = None;
                    session.backlog.clear();
                }
                return Ok(true);
            }
            Message::Hello(_) => return Ok(true),
        };
        if !more && let Some(publisher) = &mut session.publisher {
            let replica = &mut self.replicas[session.replica];
            let mut view = ReplicaView { replica, node, barrier: session.barrier, bug: self.bug };
            publisher.start(&mut view);
            trace!(self, "session {id}: source starts at write {}", self.api.rev());
        }
        Ok(true)
    }

    // ---- the hub --------------------------------------------------------------------------

    pub(super) fn relay(&mut self, at: usize, direction: Option<usize>) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        if self.paused[session.hub] {
            return Ok(false);
        }
        if let Some(direction) = direction {
            return Ok(session.relay(direction));
        }
        let first = self.rng.below(4);
        Ok((0..1 + self.rng.below(4)).fold(false, |moved, more| session.relay((first + more) % 4) | moved))
    }

    /// The cloud's end or the hub notices that the session is over, and ends it.
    pub(super) fn cloud_notice(&mut self, at: usize) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let used = self.nodes[session.node].current == Some(session.id);
        if self.paused[session.hub] {
            return;
        }
        if session.hub_up && (session.cut || !session.cloud_up) {
            session.end_hub(&mut self.rng);
            trace!(self, "session {}: the hub ends it", self.sessions[at].id);
        } else if !session.hub_up && session.cloud_up {
            session.end_cloud();
            trace!(self, "session {}: the cloud ends it", self.sessions[at].id);
        } else if !session.hub_up && !session.cloud_up && !used {
            self.sessions.swap_remove(at);
        }
    }
}
