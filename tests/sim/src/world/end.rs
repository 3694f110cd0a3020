//! The end of a run: everything is healed and comes to rest, and then both sides hold the same.

use std::collections::BTreeMap;

use skerry_proto::sync::v1 as proto;

use super::{HUBS, World};
use crate::invariant::{Check, Invariant, Violation, check};
use crate::source::List;

/// Rounds in which the healed world must come to rest; one round lets everything move once.
const ROUNDS: usize = 3000;

impl World {
    // ---- the end --------------------------------------------------------------------------

    /// What was slow, full or refused works again.
    pub(super) fn recover(&mut self) {
        self.api.down = false;
        self.paused = [false; HUBS];
        for node in 0..self.nodes.len() {
            self.nodes[node].full = false;
            self.reopen(node);
        }
    }

    pub(super) fn heal(&mut self) -> Check {
        trace!(self, "---- faults end ----");
        self.recover();
        self.sessions.iter_mut().for_each(|session| session.slow = false);
        for at in 0..self.replicas.len() {
            // The list that every informer repeats from time to time.
            if !self.replicas[at].synced {
                self.relist(at, List::Honest);
            }
        }
        for round in 0..ROUNDS {
            self.steps += 1;
            self.now_ms += 10;
            let mut moved = round % 100 == 0;
            for at in 0..self.replicas.len() {
                moved |= self.watch(at) | self.confirm(at);
            }
            for at in (0..self.sessions.len()).rev() {
                let before = self.sessions.len();
                self.cloud_notice(at);
                moved |= before != self.sessions.len();
            }
            for at in 0..self.sessions.len() {
                moved |= self.source_receive(at)? | self.poll(at)?;
                for direction in 0..4 {
                    moved |= self.relay(at, Some(direction))?;
                }
                moved |= self.sink_receive(at)? | self.node_receive(at)? | self.node_outcome(at)?;
                if round % 100 == 50 {
                    self.recheck(at)?;
                }
            }
            for node in 0..self.nodes.len() {
                let over = self.nodes[node].current.is_some_and(|id| {
                    self.position(id).is_none_or(|at| self.sessions[at].cut || !self.sessions[at].hub_up)
                });
                if over {
                    self.nodes[node].current = None;
                }
                moved |= over | self.connect(node) | self.commit(node, 4)? | self.node_report(node);
                moved |= self.sink_write(node)?;
                for what in 0..3 {
                    moved |= self.nodes[node].step_local(what, &self.api, self.bug)?;
                }
                if round % 100 == 50 {
                    self.nodes[node].recheck_local();
                }
                moved |= self.nodes[node].reporter.wake_at().is_some();
            }
            self.check_bounds()?;
            if !moved && round > 100 {
                return Ok(());
            }
        }
        Err(Violation::new(Invariant::Converge, format!("not at rest after {ROUNDS} rounds")))
    }

    pub(super) fn check_bounds(&self) -> Check {
        let universe = self.keys.len();
        for session in &self.sessions {
            let Some(publisher) = &session.publisher else { continue };
            let dirty = publisher.dirty_len() + session.backlog.len();
            check(dirty <= universe, Invariant::Bounded, || {
                format!("session {} has {dirty} dirty keys for {universe} objects", session.id)
            })?;
            let flying = publisher.in_flight_len();
            check(flying <= self.limits.window_deltas, Invariant::Bounded, || format!("{flying} deltas in flight"))?;
        }
        self.nodes.iter().try_for_each(|node| node.check_bounds(universe))
    }

    pub(super) fn check_converged(&self) -> Check {
        for (at, node) in self.nodes.iter().enumerate() {
            check(node.is_in_sync(), Invariant::Converge, || format!("node {at} is not in sync"))?;
            let wanted: BTreeMap<_, _> = (self.api.objects.values())
                .filter(|object| object.node == at)
                .map(|object| (object.key.clone(), (object.version.clone(), object.body.clone())))
                .collect();
            for key in wanted.keys().chain(node.disk.objects.keys()).chain(node.runs().keys()) {
                let rev = |held: Option<&(skerry_common::Version, bytes::Bytes)>| {
                    held.map(|(version, _)| self.api.rev_of(version))
                };
                let (api, disk, runs) =
                    (rev(wanted.get(key)), rev(node.disk.objects.get(key)), rev(node.runs().get(key)));
                check(api == disk && disk == runs, Invariant::Converge, || {
                    format!("{key} on node {at}: write {api:?} in the API, {disk:?} on disk, {runs:?} in edged")
                })?;
            }
            for said in node.promised.values() {
                check(self.api.has(said), Invariant::Conserve, || {
                    format!("report {} of node {at} about {} never reached the API", said.seq, said.key)
                })?;
            }
            let left = node.disk.outbox.len();
            check(left == 0, Invariant::Converge, || format!("{left} reports left in the outbox of node {at}"))?;
        }
        Ok(())
    }

    /// A delta in one line, with the order of writes in place of versions.
    pub(super) fn show(&self, delta: &proto::Delta) -> String {
        let name = |key: &Option<proto::Key>| key.as_ref().map(|key| key.name.clone()).unwrap_or_default();
        let mut line = format!("delta {}:", delta.nonce);
        for upsert in &delta.upserts {
            let rev = self.api.rev_of(&skerry_common::Version::new(upsert.version.as_str()));
            line.push_str(&format!(" +{}@{rev}", name(&upsert.key)));
        }
        for tombstone in &delta.tombstones {
            line.push_str(&format!(" -{}", name(&tombstone.key)));
        }
        line
    }
}
