//! The steps of the nodes and of the sink that takes their reports.

use skerry_proto::sync::v1::{self as proto, subscribe_request::Message};
use skerry_sync::{IncomingReport, Outcome, Settled};

use super::{HUBS, World, refused};
use crate::bug::Bug;
use crate::edge::Answer;
use crate::invariant::{Invariant, Violation, check};
use crate::rng::mix;
use crate::session::{Down, Rep, Session};
use crate::sink::Pending;

impl World {
    // ---- the node -------------------------------------------------------------------------

    pub(super) fn position(&self, id: u64) -> Option<usize> {
        self.sessions.iter().position(|session| session.id == id)
    }

    pub(super) fn notice(&mut self, node: usize) {
        let over = match self.nodes[node].current {
            None => return,
            Some(id) => self.position(id).is_none_or(|at| self.sessions[at].cut || !self.sessions[at].hub_up),
        };
        if over || self.rng.one_in(40) {
            trace!(self, "node {node}: gives its session up");
            self.nodes[node].current = None;
        }
    }

    /// There is room again for what was refused.
    pub(super) fn reopen(&mut self, node: usize) {
        if !self.nodes[node].full && self.nodes[node].refused {
            self.reopen_now(node);
        }
    }

    pub(super) fn reopen_now(&mut self, node: usize) {
        let Some(at) = self.nodes[node].current.and_then(|id| self.position(id)) else { return };
        trace!(self, "node {node}: opens its subscription anew on session {}", self.sessions[at].id);
        self.counters.add("reopen");
        for request in self.nodes[node].reopen(self.bug) {
            if let Some(message) = request.message {
                self.sessions[at].send_up(message);
            }
        }
    }

    pub(super) fn connect(&mut self, node: usize) -> bool {
        if self.nodes[node].current.is_some() {
            return false;
        }
        let (number, requests) = self.nodes[node].connect(self.now_ms, self.bug);
        // A store that was lost may have taken the session number with it.
        let newest = self.sink.newest(&self.nodes[node].name);
        if number < newest {
            self.nodes[node].disk.session = newest;
            return true;
        }
        let id = self.next_session;
        self.next_session += 1;
        let (hub, replica) = (self.rng.below(HUBS), self.rng.below(self.replicas.len()));
        let slow = self.rng.one_in(8);
        let mut session = Session::new(id, node, number, hub, replica, slow);
        for request in requests {
            if let Some(message) = request.message {
                session.send_up(message);
            }
        }
        session.send_report(Rep::Hello);
        self.sessions.push(session);
        self.nodes[node].current = Some(id);
        self.counters.add("session");
        trace!(self, "node {node}: session {id} (number {number}) over hub {hub} to source {replica}");
        true
    }

    pub(super) fn node_receive(&mut self, at: usize) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        let (id, node) = (session.id, session.node);
        let Some(message) = session.down.legs[1].pop_front() else { return Ok(false) };
        if self.nodes[node].current != Some(id) {
            // A stream that was replaced: whatever it says is thrown away.
            return Ok(true);
        }
        if let (Down::Delta(delta), true) = (&message, self.trace.is_some()) {
            let line = format!("node {node}: receives {}", self.show(delta));
            self.note(line);
        }
        let answer = self.nodes[node]
            .receive(id, message, self.bug)
            .map_err(|error| Violation::new(Invariant::Protocol, format!("node {node}: {error}")))?;
        self.answer(answer);
        Ok(true)
    }

    pub(super) fn answer(&mut self, answers: impl IntoIterator<Item = Answer>) {
        for answer in answers {
            let (id, message) = match answer {
                Answer::Ack(id, ack) => (id, Message::Ack(ack)),
                Answer::Nack(id, nack) => (id, Message::Nack(nack)),
            };
            if let Some(at) = self.position(id) {
                self.sessions[at].send_up(message);
            }
        }
    }

    pub(super) fn commit(&mut self, node: usize, count: usize) -> Result<bool, Violation> {
        if self.nodes[node].writes_waiting() == 0 {
            return Ok(false);
        }
        trace!(self, "node {node}: commits");
        let answers = self.nodes[node].commit(count, &self.api, self.bug)?;
        self.answer(answers);
        self.reopen(node);
        Ok(true)
    }

    pub(super) fn node_report(&mut self, node: usize) -> bool {
        let Some(at) = self.nodes[node].current.and_then(|id| self.position(id)) else { return false };
        let session = &mut self.sessions[at];
        if !session.cut && !session.rep.has_room() {
            return false;
        }
        let Some(report) = self.nodes[node].next_report(self.now_ms) else { return false };
        let (id, number) = (report.id, session.id);
        session.send_report(Rep::Report(Box::new(report)));
        trace!(self, "node {node}: sends report {id} on session {number}");
        true
    }

    pub(super) fn node_outcome(&mut self, at: usize) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        let (id, node) = (session.id, session.node);
        let Some(outcome) = session.out.legs[1].pop_front() else { return Ok(false) };
        if self.nodes[node].current != Some(id) {
            return Ok(true);
        }
        let (report, outcome) = Outcome::from_wire(outcome).map_err(|error| refused("node", &error))?;
        let committed = outcome == Outcome::Committed;
        let node_state = &mut self.nodes[node];
        match node_state.reporter.outcome(report, outcome, self.now_ms) {
            Settled::Remove(report) => {
                if let Some(said) = node_state.disk.outbox.remove(&report)
                    && committed
                {
                    check(self.api.has(&said), Invariant::Honest, || {
                        format!("the sink called report {report} of node {node} committed, the API has it not")
                    })?;
                }
                self.counters.add("report committed");
            }
            Settled::Rejected(report, _) => {
                if let Some(said) = node_state.disk.outbox.remove(&report) {
                    node_state.promised.remove(&said.seq);
                }
                self.counters.add("report rejected");
            }
            Settled::Later { .. } => self.counters.add("report later"),
            Settled::Ignored(_) => {}
        }
        trace!(self, "node {node}: has the outcome of report {report}");
        Ok(true)
    }

    // ---- the sink -------------------------------------------------------------------------

    pub(super) fn sink_receive(&mut self, at: usize) -> Result<bool, Violation> {
        let session = &mut self.sessions[at];
        let (id, node, number) = (session.id, session.node, session.number);
        if !session.cloud_up || !self.sink.has_room(node) {
            return Ok(false);
        }
        let Some(message) = session.rep.legs[1].pop_front() else { return Ok(false) };
        let report = match message {
            Rep::Report(report) => *report,
            Rep::Hello => {
                let admitted = self.sink.admit(&mut self.api, node, &self.nodes[node].name, number, self.bug);
                trace!(self, "session {id}: the sink admits it: {admitted}");
                if !admitted {
                    self.counters.add("fenced");
                    self.sessions[at].end_cloud();
                }
                return Ok(true);
            }
        };
        let report = IncomingReport::from_wire(report).map_err(|error| refused("sink", &error))?;
        let said = self.nodes[node].said(&report)?;
        if self.bug == Some(Bug::CommittedBeforeApi) {
            self.outcome(id, report.id, proto::outcome::Result::Committed(proto::Committed {}));
        }
        self.sink.pending.entry(node).or_default().push_back(Pending { session: id, number, report, said });
        Ok(true)
    }

    pub(super) fn outcome(&mut self, session: u64, id: u64, result: proto::outcome::Result) {
        if let Some(at) = self.position(session) {
            let session = &mut self.sessions[at];
            if session.cloud_up && session.hub_up {
                session.out.legs[0].push_back(proto::Outcome { id, node: String::new(), result: Some(result) });
            }
        }
    }

    pub(super) fn sink_write(&mut self, node: usize) -> Result<bool, Violation> {
        let Some(pending) = self.sink.pending.get_mut(&node).and_then(|pending| pending.pop_front()) else {
            return Ok(false);
        };
        let Pending { session, number, report, said } = pending;
        if !self.sink.admit(&mut self.api, node, &self.nodes[node].name, number, self.bug) {
            self.counters.add("fenced");
            trace!(self, "sink: report {} of session {session} is fenced", report.id);
            if let Some(at) = self.position(session) {
                self.sessions[at].end_cloud();
            }
            return Ok(true);
        }
        use proto::outcome::Result as Wire;
        let result = if self.sink.dedup(node).seen(report.id) {
            self.counters.add("duplicate");
            Wire::Committed(proto::Committed {})
        } else if self.api.down {
            Wire::RetryLater(proto::RetryLater { after_ms: 1 + self.rng.below(300) as u64, reason: String::new() })
        } else if mix(said.seq).is_multiple_of(11) {
            Wire::Rejected(proto::Rejected { reason: "no such object".to_owned() })
        } else {
            self.api.report(&said, report.id)?;
            self.sink.dedup(node).record(report.id);
            Wire::Committed(proto::Committed {})
        };
        trace!(self, "sink: report {} of session {session} (seq {}): {result:?}", report.id, said.seq);
        if self.bug != Some(Bug::CommittedBeforeApi) {
            self.outcome(session, report.id, result);
        }
        Ok(true)
    }
}
