//! Everything together: one step is one thing that happens somewhere, chosen by chance.
//!
//! The choice is weighted, and the weights are drawn anew for each seed ("swarm testing"): one run
//! is full of cuts, another of crashes, a third of neither. After the faults the world is healed
//! and runs until nothing moves; then both sides must hold the same.

use std::collections::BTreeMap;

use skerry_common::{Key, NodeName};
use skerry_sync::limits::WINDOW_DELTAS;
use skerry_sync::{IncomingReport, PublishLimits};

use crate::api::{Api, Said};
use crate::bug::Bug;
use crate::edge::Node;
use crate::invariant::{Check, Invariant, Violation};
use crate::rng::{Rng, mix};
use crate::session::Session;
use crate::sink::Sink;
use crate::source::{List, Replica};

/// Steps of the part with faults: enough for several reconnects of each node.
const STEPS: std::ops::Range<usize> = 1000..5000;

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

/// Notes a line if somebody wants to read it.
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($arg)*);
            $world.note(line);
        }
    };
}

mod cloud;
mod end;
mod node;

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
