//! Everything together: one step is one thing that happens somewhere, chosen by chance.
//!
//! The choice is weighted, and the weights are drawn anew for each seed ("swarm testing"): one run
//! is full of cuts, another of crashes, a third of neither. After the faults the world is healed
//! and runs until nothing moves; then both sides must hold the same.

use std::collections::BTreeMap;

use skerry_common::{Key, NodeName};
use skerry_proto::sync::v1::{self as proto, subscribe_request::Message};
use skerry_sync::limits::WINDOW_DELTAS;
use skerry_sync::{IncomingReport, Out, Outcome, PublishLimits, Publisher, Settled, SubscriptionId};

use crate::api::{Api, Said};
use crate::bug::Bug;
use crate::edge::{Answer, Node};
use crate::invariant::{Check, Invariant, Violation, check};
use crate::rng::{Rng, mix};
use crate::session::{Down, Rep, Session};
use crate::sink::{Pending, Sink};
use crate::source::{List, Replica, ReplicaView};

/// Steps of the part with faults: enough for several reconnects of each node.
const STEPS: std::ops::Range<usize> = 1000..5000;

/// Rounds in which the healed world must come to rest; one round lets everything move once.
const ROUNDS: usize = 3000;

/// Hubs.
const HUBS: usize = 2;

/// What a run was made of; to prove that the faults really happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<&'static str, u64>);

impl Counters {
    pub(crate) fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_insert(0) += 1;
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_insert(0) += count;
        }
    }
}

/// What can happen in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    // traffic
    Write,
    Delete,
    Status,
    Event,
    // work
    Watch,
    Confirm,
    Poll,
    SourceReceive,
    Relay,
    NodeReceive,
    NodeOutcome,
    NodeReport,
    SinkReceive,
    SinkWrite,
    Commit,
    Connect,
    Local,
    Recheck,
    List,
    Recover,
    // faults
    Cut,
    Notice,
    CloudNotice,
    HubRestart,
    HubPause,
    SourceRestart,
    Relist,
    SinkRestart,
    ApiDown,
    Crash,
    Damage,
    Full,
    LocalRestart,
    Reopen,
}

/// Each action with its usual weight; a seed multiplies each fault by one of [`CALM`] or [`ROUGH`].
const ACTIONS: [(Action, usize, bool); 34] = [
    (Action::Write, 50, false),
    (Action::Delete, 22, false),
    (Action::Status, 30, false),
    (Action::Event, 14, false),
    (Action::Watch, 160, false),
    (Action::Confirm, 24, false),
    (Action::Poll, 180, false),
    (Action::SourceReceive, 150, false),
    (Action::Relay, 300, false),
    (Action::NodeReceive, 180, false),
    (Action::NodeOutcome, 100, false),
    (Action::NodeReport, 100, false),
    (Action::SinkReceive, 100, false),
    (Action::SinkWrite, 100, false),
    (Action::Commit, 150, false),
    (Action::Connect, 60, false),
    (Action::Local, 250, false),
    (Action::Recheck, 4, false),
    (Action::List, 10, false),
    (Action::Recover, 10, false),
    (Action::Cut, 6, true),
    (Action::Notice, 16, false),
    (Action::CloudNotice, 10, false),
    (Action::HubRestart, 2, true),
    (Action::HubPause, 4, true),
    (Action::SourceRestart, 2, true),
    (Action::Relist, 6, true),
    (Action::SinkRestart, 2, true),
    (Action::ApiDown, 4, true),
    (Action::Crash, 4, true),
    (Action::Damage, 1, true),
    (Action::Full, 4, true),
    (Action::LocalRestart, 4, true),
    (Action::Reopen, 4, true),
];

/// Half of the seeds: few kinds of faults, and time in between to get somewhere.
const CALM: [usize; 4] = [0, 0, 1, 1];

/// The other half: most kinds, some of them often.
const ROUGH: [usize; 4] = [0, 1, 1, 4];

/// The world of one seed.
pub(crate) struct World {
    rng: Rng,
    bug: Option<Bug>,
    now_ms: u64,
    api: Api,
    replicas: Vec<Replica>,
    sink: Sink,
    sessions: Vec<Session>,
    next_session: u64,
    paused: [bool; HUBS],
    nodes: Vec<Node>,
    keys: Vec<Key>,
    limits: PublishLimits,
    weights: Vec<(Action, usize)>,
    total_weight: usize,
    pub(crate) counters: Counters,
    pub(crate) steps: u64,
    trace: Option<Vec<String>>,
}

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($arg)*);
            $world.note(line);
        }
    };
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut rng = Rng::new(mix(seed ^ 0x0005_6b65_7272_7900));
        let nodes = 1 + rng.below(2);
        let replicas = 1 + rng.below(2);
        let keys = (0..3 + rng.below(6)).map(|at| Key::new(["default", "shop"][at % 2], format!("pod-{at}"))).collect();
        let factors = if rng.one_in(2) { CALM } else { ROUGH };
        let mut factor = |fault: bool| if fault { factors[rng.below(4)] } else { 1 };
        let weights: Vec<(Action, usize)> =
            ACTIONS.iter().map(|(action, weight, fault)| (*action, weight * factor(*fault))).collect();
        Self {
            bug,
            now_ms: 1_000,
            api: Api::default(),
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            sink: Sink::default(),
            sessions: Vec::new(),
            next_session: 1,
            paused: [false; HUBS],
            nodes: (0..nodes).map(Node::new).collect(),
            keys,
            limits: PublishLimits {
                window_deltas: 1 + rng.below(WINDOW_DELTAS),
                max_delta_bytes: 200 + rng.below(1500),
                max_delta_objects: 1 + rng.below(5),
            },
            total_weight: weights.iter().map(|(_, weight)| weight).sum(),
            weights,
            rng,
            counters: Counters::default(),
            steps: 0,
            trace: traced.then(Vec::new),
        }
    }

    /// The whole run.
    pub(crate) fn run(&mut self) -> Check {
        let steps = STEPS.start + self.rng.below(STEPS.end - STEPS.start);
        for _ in 0..steps {
            self.steps += 1;
            self.now_ms += 1 + self.rng.below(20) as u64;
            let action = self.choose();
            self.act(action)?;
            self.check_bounds()?;
        }
        self.heal()?;
        self.check_converged()
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// A number that two equal runs share.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = mix(self.steps ^ self.api.rev());
        for node in &self.nodes {
            for (key, (version, _)) in &node.disk.objects {
                for byte in key.to_string().bytes().chain(version.as_str().bytes()) {
                    digest = mix(digest ^ u64::from(byte));
                }
            }
            digest = mix(digest ^ node.disk.session);
        }
        for (name, count) in &self.counters.0 {
            digest = mix(digest ^ count ^ name.len() as u64);
        }
        digest
    }

    fn note(&mut self, line: String) {
        let (step, now) = (self.steps, self.now_ms);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{step:>5} {now:>6} ms  {line}"));
        }
    }

    fn choose(&mut self) -> Action {
        let mut at = self.rng.below(self.total_weight);
        for (action, weight) in &self.weights {
            if at < *weight {
                return *action;
            }
            at -= weight;
        }
        Action::Relay
    }

    fn act(&mut self, action: Action) -> Check {
        match action {
            Action::Write => self.write(),
            Action::Delete => self.delete(),
            Action::Status => self.say(false),
            Action::Event => self.say(true),
            Action::Watch => {
                let replica = self.rng.below(self.replicas.len());
                self.watch(replica);
            }
            Action::Confirm => {
                let replica = self.rng.below(self.replicas.len());
                self.confirm(replica);
            }
            Action::Poll => return self.on_session(Self::poll),
            Action::SourceReceive => return self.on_session(Self::source_receive),
            Action::Relay => return self.on_session(|world, at| world.relay(at, None)),
            Action::NodeReceive => return self.on_session(Self::node_receive),
            Action::NodeOutcome => return self.on_session(Self::node_outcome),
            Action::SinkReceive => return self.on_session(Self::sink_receive),
            Action::NodeReport => {
                let node = self.rng.below(self.nodes.len());
                self.node_report(node);
            }
            Action::SinkWrite => {
                let node = self.rng.below(self.nodes.len());
                return self.sink_write(node).map(|_| ());
            }
            Action::Commit => {
                let (node, count) = (self.rng.below(self.nodes.len()), 1 + self.rng.below(4));
                return self.commit(node, count).map(|_| ());
            }
            Action::Connect => {
                let node = self.rng.below(self.nodes.len());
                self.connect(node);
            }
            Action::Local => {
                let (node, what) = (self.rng.below(self.nodes.len()), self.rng.below(3));
                return self.nodes[node].step_local(what, &self.api, self.bug).map(|_| ());
            }
            Action::Recheck => return self.on_session(Self::recheck),
            Action::List => {
                let replica = self.rng.below(self.replicas.len());
                if !self.replicas[replica].synced {
                    self.relist(replica, List::Honest);
                }
            }
            Action::Recover => self.recover(),
            fault => self.fault(fault),
        }
        Ok(())
    }

    fn fault(&mut self, fault: Action) {
        let node = self.rng.below(self.nodes.len());
        let at = self.rng.below(self.sessions.len());
        match fault {
            Action::Cut => {
                if let Some(session) = self.sessions.get_mut(at).filter(|session| !session.cut) {
                    session.cut(&mut self.rng);
                    let id = session.id;
                    self.counters.add("cut");
                    trace!(self, "session {id}: the link is cut");
                }
            }
            Action::Notice => self.notice(node),
            Action::CloudNotice => self.cloud_notice(at),
            Action::HubRestart => {
                let hub = self.rng.below(HUBS);
                trace!(self, "hub {hub} restarts");
                self.counters.add("hub restart");
                for session in self.sessions.iter_mut().filter(|session| session.hub == hub) {
                    session.end_hub(&mut self.rng);
                }
            }
            Action::HubPause => {
                let hub = self.rng.below(HUBS);
                self.paused[hub] = !self.paused[hub];
                self.counters.add("hub pause");
                trace!(self, "hub {hub} paused: {}", self.paused[hub]);
            }
            Action::SourceRestart => {
                let at = self.rng.below(self.replicas.len());
                trace!(self, "source {at} restarts");
                self.counters.add("source restart");
                self.replicas[at] = Replica::default();
                for session in self.sessions.iter_mut().filter(|session| session.replica == at) {
                    session.end_cloud();
                }
            }
            Action::Relist => {
                let at = self.rng.below(self.replicas.len());
                let list = [List::Honest, List::Partial, List::Lying][self.rng.below(3)];
                self.relist(at, list);
            }
            Action::SinkRestart => {
                trace!(self, "the sink restarts");
                self.counters.add("sink restart");
                let names: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
                self.sink.restart(&self.api, &names, self.bug);
                if self.bug != Some(Bug::FenceForgotten) {
                    self.sessions.iter_mut().for_each(Session::end_cloud);
                }
            }
            Action::ApiDown => {
                self.api.down = !self.api.down;
                self.counters.add("api down");
                trace!(self, "the API refuses writes: {}", self.api.down);
            }
            Action::Crash => {
                trace!(self, "node {node} crashes with {} writes not committed", self.nodes[node].writes_waiting());
                self.counters.add("node crash");
                self.nodes[node].crash();
            }
            Action::Damage => {
                trace!(self, "node {node} loses its store");
                self.counters.add("store lost");
                self.nodes[node].damage(self.now_ms);
            }
            Action::Full => {
                let full = !self.nodes[node].full;
                self.nodes[node].full = full;
                self.counters.add("disk full");
                trace!(self, "node {node}: disk full: {full}");
                self.reopen(node);
            }
            Action::Reopen => self.reopen_now(node),
            Action::LocalRestart => {
                trace!(self, "node {node}: edged restarts");
                self.counters.add("edged restart");
                self.nodes[node].restart_local();
            }
            _ => {}
        }
    }

    fn on_session(&mut self, step: fn(&mut Self, usize) -> Result<bool, Violation>) -> Check {
        if self.sessions.is_empty() {
            return Ok(());
        }
        let mut at = self.rng.below(self.sessions.len());
        // Mostly a session that is in use; the others are what is left of old ones.
        if !self.rng.one_in(4) {
            let node = self.rng.below(self.nodes.len());
            at = self.nodes[node].current.and_then(|id| self.position(id)).unwrap_or(at);
        }
        if self.sessions[at].slow && !self.rng.one_in(10) {
            return Ok(());
        }
        step(self, at).map(|_| ())
    }

    // ---- traffic --------------------------------------------------------------------------

    fn write(&mut self) {
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        let node = match self.api.objects.get(&key) {
            Some(object) if !self.rng.one_in(8) => object.node,
            _ => self.rng.below(self.nodes.len()),
        };
        self.api.write(&key, node, &mut self.rng);
        trace!(self, "api: write {} of {key} for node {node}", self.api.rev());
    }

    fn delete(&mut self) {
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        if self.api.delete(&key) {
            self.counters.add("delete");
            trace!(self, "api: write {} deletes {key}", self.api.rev());
        }
    }

    fn say(&mut self, event: bool) {
        let node = self.rng.below(self.nodes.len());
        let Some(key) = self.rng.pick(&self.keys).cloned() else { return };
        // The outbox is bounded; beyond it the store refuses.
        if self.nodes[node].disk.outbox.len() < 40 {
            self.nodes[node].say(key, event);
        }
    }

    // ---- the source -----------------------------------------------------------------------

    fn changed(&mut self, replica: usize, key: &Key, deleted: bool) {
        for session in self.sessions.iter_mut().filter(|session| session.replica == replica) {
            let Some(publisher) = &mut session.publisher else { continue };
            match self.bug {
                Some(Bug::LostDelete) if deleted && publisher.in_flight_len() > 0 => {}
                Some(Bug::UnboundedQueue) => session.backlog.push_back(key.clone()),
                _ => publisher.changed(key.clone()),
            }
        }
    }

    fn watch(&mut self, at: usize) -> bool {
        let Some(key) = self.replicas[at].watch(&self.api) else { return false };
        let cursor = self.replicas[at].cursor;
        trace!(self, "source {at}: watch has write {cursor} of {key}");
        let deleted = self.api.log[cursor as usize - 1].object.is_none();
        self.changed(at, &key, deleted);
        self.caught_up(at, Some(cursor));
        true
    }

    /// The cache has moved: sessions that waited for it, and doubts that are settled by it.
    fn caught_up(&mut self, at: usize, exactly: Option<u64>) {
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

    fn confirm(&mut self, at: usize) -> bool {
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

    fn relist(&mut self, at: usize, list: List) {
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

    fn recheck(&mut self, at: usize) -> Result<bool, Violation> {
        if let Some(publisher) = &mut self.sessions[at].publisher {
            publisher.recheck();
        }
        Ok(false)
    }

    fn poll(&mut self, at: usize) -> Result<bool, Violation> {
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

    fn source_receive(&mut self, at: usize) -> Result<bool, Violation> {
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

    fn relay(&mut self, at: usize, direction: Option<usize>) -> Result<bool, Violation> {
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
    fn cloud_notice(&mut self, at: usize) {
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

    // ---- the node -------------------------------------------------------------------------

    fn position(&self, id: u64) -> Option<usize> {
        self.sessions.iter().position(|session| session.id == id)
    }

    fn notice(&mut self, node: usize) {
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
    fn reopen(&mut self, node: usize) {
        if !self.nodes[node].full && self.nodes[node].refused {
            self.reopen_now(node);
        }
    }

    fn reopen_now(&mut self, node: usize) {
        let Some(at) = self.nodes[node].current.and_then(|id| self.position(id)) else { return };
        trace!(self, "node {node}: opens its subscription anew on session {}", self.sessions[at].id);
        self.counters.add("reopen");
        for request in self.nodes[node].reopen(self.bug) {
            if let Some(message) = request.message {
                self.sessions[at].send_up(message);
            }
        }
    }

    fn connect(&mut self, node: usize) -> bool {
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

    fn node_receive(&mut self, at: usize) -> Result<bool, Violation> {
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

    fn answer(&mut self, answers: impl IntoIterator<Item = Answer>) {
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

    fn commit(&mut self, node: usize, count: usize) -> Result<bool, Violation> {
        if self.nodes[node].writes_waiting() == 0 {
            return Ok(false);
        }
        trace!(self, "node {node}: commits");
        let answers = self.nodes[node].commit(count, &self.api, self.bug)?;
        self.answer(answers);
        self.reopen(node);
        Ok(true)
    }

    fn node_report(&mut self, node: usize) -> bool {
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

    fn node_outcome(&mut self, at: usize) -> Result<bool, Violation> {
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

    fn sink_receive(&mut self, at: usize) -> Result<bool, Violation> {
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

    fn outcome(&mut self, session: u64, id: u64, result: proto::outcome::Result) {
        if let Some(at) = self.position(session) {
            let session = &mut self.sessions[at];
            if session.cloud_up && session.hub_up {
                session.out.legs[0].push_back(proto::Outcome { id, node: String::new(), result: Some(result) });
            }
        }
    }

    fn sink_write(&mut self, node: usize) -> Result<bool, Violation> {
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

    // ---- the end --------------------------------------------------------------------------

    /// What was slow, full or refused works again.
    fn recover(&mut self) {
        self.api.down = false;
        self.paused = [false; HUBS];
        for node in 0..self.nodes.len() {
            self.nodes[node].full = false;
            self.reopen(node);
        }
    }

    fn heal(&mut self) -> Check {
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

    fn check_bounds(&self) -> Check {
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

    fn check_converged(&self) -> Check {
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
    fn show(&self, delta: &proto::Delta) -> String {
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

/// The publisher of this subscription, unless it was closed.
fn addressed(session: &mut Session, subscription: u64) -> Option<&mut Publisher> {
    session.publisher.as_mut().filter(|publisher| publisher.id().0 == subscription)
}

fn refused(who: &str, error: &skerry_sync::ProtocolError) -> Violation {
    Violation::new(Invariant::Protocol, format!("{who}: {error}"))
}

/// What a report says, as its body carries it.
pub(crate) fn said_of(node: usize, report: &IncomingReport) -> Option<Said> {
    let body = std::str::from_utf8(&report.body).ok()?;
    let (seq, key) = body.split_once(':')?;
    (key == report.key.to_string()).then_some(())?;
    Some(Said { node, key: report.key.clone(), seq: seq.parse().ok()?, event: report.kind == "Event" })
}
