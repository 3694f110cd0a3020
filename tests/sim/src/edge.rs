//! One node: the store, edgehub in front of it, and edged behind it.
//!
//! The disk keeps what was committed and nothing else; a crash loses the writer's queue and all
//! state machines. edgehub is the subscriber towards the cloud and the source towards edged, whose
//! view is the disk. edged stands for every service of the node: it keeps what it runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use skerry_common::{Encoding, Key, NodeName, Version};
use skerry_proto::sync::v1 as proto;
use skerry_sync::{
    Apply, Change, IncomingReport, Lookup, Object, Out, PublishLimits, Publisher, Reporter, SubscribeLimits,
    Subscriber, SubscriptionId, View,
};

use crate::api::{Api, Said};
use crate::bug::Bug;
use crate::invariant::{Check, Invariant, Violation, check};
use crate::session::Down;
use crate::world::said_of;

/// Deltas on their way to edged.
const LOCAL_LEG: usize = 3;

/// Small, so that runs of some thousand steps fill it.
const REPORT_WINDOW: usize = 4;

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) objects: BTreeMap<Key, (Version, Bytes)>,
    /// The store has been in sync with the cloud since it was created: what it lacks is gone.
    pub(crate) complete: bool,
    pub(crate) outbox: BTreeMap<u64, Said>,
    pub(crate) last_report: u64,
    pub(crate) session: u64,
    /// Planted: what was received, whether or not it was committed.
    seen: BTreeMap<Key, Version>,
}

/// A session and a subscription in it.
pub(crate) type Stream = (u64, u64);

/// One operation of the writer's queue; lost in a crash.
#[derive(Debug)]
enum Write {
    Apply { stream: Stream, apply: Apply },
    Put(Said),
}

/// What the node wants to be done after a commit.
pub(crate) enum Answer {
    Ack(u64, proto::Ack),
    Nack(u64, proto::Nack),
}

#[derive(Debug)]
struct Local {
    publisher: Option<Publisher>,
    subscriber: Subscriber,
    down: VecDeque<Down>,
    acks: VecDeque<u64>,
    /// What edged runs; it survives edged's restart, as containers do.
    held: BTreeMap<Key, (Version, Bytes)>,
    highest: BTreeMap<Key, u64>,
}

#[derive(Debug)]
pub(crate) struct Node {
    at: usize,
    pub(crate) name: NodeName,
    pub(crate) disk: Disk,
    writer: VecDeque<Write>,
    pub(crate) full: bool,
    /// The session that the node uses.
    pub(crate) current: Option<u64>,
    /// The store refused something and has room again: the subscription is opened anew.
    pub(crate) refused: bool,
    subscriber: Subscriber,
    pub(crate) reporter: Reporter,
    /// Planted: reports that were replaced and are sent again.
    stale: BTreeMap<u64, Said>,
    local: Local,
    next_seq: u64,
    // The witness's notes.
    /// Greatest version of each key that was ever on the disk.
    highest: BTreeMap<Key, u64>,
    /// When each key was gone last, by the deletion that reached the disk.
    gone_at: BTreeMap<Key, u64>,
    /// Stream, nonce and key of tombstones on their way, and when they were true.
    tombstones: BTreeMap<(Stream, u64, Key), u64>,
    /// Deltas that are on the disk.
    durable: BTreeSet<(Stream, u64)>,
    /// Sequences that were durable in an outbox that was not lost later.
    pub(crate) promised: BTreeMap<u64, Said>,
}

impl Disk {
    /// A new store. Ids of reports must not repeat after the store before it was lost: the sink
    /// would take a new report for one that it has. So they begin at the clock.
    fn new(now_ms: u64) -> Self {
        Self { last_report: now_ms << 20, ..Self::default() }
    }
}

impl Node {
    pub(crate) fn new(at: usize) -> Self {
        Self {
            at,
            name: NodeName::parse(&format!("edge-{at}")).unwrap_or_else(|_| unreachable!("a fixed name")),
            disk: Disk::new(0),
            writer: VecDeque::new(),
            full: false,
            current: None,
            refused: false,
            subscriber: Subscriber::new(SubscriptionId(1), "Pod", SubscribeLimits::default()),
            reporter: Reporter::new(REPORT_WINDOW),
            stale: BTreeMap::new(),
            local: Local {
                publisher: None,
                subscriber: Subscriber::new(SubscriptionId(9), "Pod", SubscribeLimits::default()),
                down: VecDeque::new(),
                acks: VecDeque::new(),
                held: BTreeMap::new(),
                highest: BTreeMap::new(),
            },
            next_seq: 0,
            highest: BTreeMap::new(),
            gone_at: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            durable: BTreeSet::new(),
            promised: BTreeMap::new(),
        }
    }

    // ---- towards the cloud ----------------------------------------------------------------

    /// Opens a new session: its number and the messages that open the subscription.
    pub(crate) fn connect(&mut self, now_ms: u64, bug: Option<Bug>) -> (u64, Vec<proto::SubscribeRequest>) {
        self.disk.session = now_ms.max(self.disk.session + 1);
        self.reporter.disconnected();
        self.subscriber = Subscriber::new(SubscriptionId(1), "Pod", SubscribeLimits::default());
        (self.disk.session, self.open(bug))
    }

    /// Opens the subscription anew on the stream that is there: under a new number, because answers
    /// to the old one are still on their way.
    pub(crate) fn reopen(&mut self, bug: Option<Bug>) -> Vec<proto::SubscribeRequest> {
        let old = self.subscriber.id();
        let close = proto::subscribe_request::Message::Close(proto::Close { subscription: old.0 });
        let mut requests = vec![proto::SubscribeRequest { message: Some(close) }];
        if bug == Some(Bug::ReopenSameId) {
            requests.clear();
        } else {
            self.subscriber = Subscriber::new(SubscriptionId(old.0 + 1), "Pod", SubscribeLimits::default());
        }
        requests.extend(self.open(bug));
        requests
    }

    fn open(&mut self, bug: Option<Bug>) -> Vec<proto::SubscribeRequest> {
        // What is held is read behind everything that the old stream wrote.
        if bug != Some(Bug::HeldTooEarly) {
            self.writer.retain(|write| matches!(write, Write::Put(_)));
        }
        let held: Vec<(Key, Version)> = if bug == Some(Bug::ResumeWrongVersion) {
            self.disk.seen.iter().map(|(key, version)| (key.clone(), version.clone())).collect()
        } else {
            self.disk.objects.iter().map(|(key, (version, _))| (key.clone(), version.clone())).collect()
        };
        self.refused = false;
        self.subscriber.open("", 0, "", held)
    }

    /// Notes that the source sent a tombstone, and when it was true.
    pub(crate) fn note_tombstone(&mut self, stream: Stream, nonce: u64, key: Key, rev: u64) {
        self.tombstones.insert((stream, nonce, key), rev);
    }

    /// Takes a message of the current session. An acknowledgement comes out only with a bug.
    pub(crate) fn receive(&mut self, session: u64, message: Down, bug: Option<Bug>) -> Result<Option<Answer>, String> {
        match message {
            // Answers to a subscription that was closed.
            Down::InSync(mark) if mark.subscription != self.subscriber.id().0 => Ok(None),
            Down::Delta(delta) if delta.subscription != self.subscriber.id().0 => Ok(None),
            Down::InSync(mark) => {
                self.subscriber.in_sync(mark).map_err(|error| error.to_string())?;
                self.note_in_sync(bug);
                Ok(None)
            }
            Down::Delta(delta) => {
                let stream = (session, delta.subscription);
                let apply = self.subscriber.delta(delta).map_err(|error| error.to_string())?;
                for change in &apply.changes {
                    match change {
                        Change::Upsert { key, version, .. } => self.disk.seen.insert(key.clone(), version.clone()),
                        Change::Delete { key } => self.disk.seen.remove(key),
                    };
                }
                let nonce = apply.nonce;
                self.writer.push_back(Write::Apply { stream, apply });
                Ok((bug == Some(Bug::AckBeforeCommit)).then(|| Answer::Ack(session, self.subscriber.committed(nonce))))
            }
        }
    }

    fn note_in_sync(&mut self, bug: Option<Bug>) {
        // With a refusal in between, what is missing may only not have found room.
        let whole = !self.refused || bug == Some(Bug::CompleteDespiteRefusal);
        if self.subscriber.is_in_sync() && whole && !self.disk.complete {
            self.disk.complete = true;
            if let Some(publisher) = &mut self.local.publisher {
                publisher.recheck();
            }
        }
    }

    pub(crate) fn is_in_sync(&self) -> bool {
        self.subscriber.is_in_sync()
    }

    pub(crate) fn writes_waiting(&self) -> usize {
        self.writer.len()
    }

    pub(crate) fn is_durable(&self, stream: Stream, nonce: u64) -> bool {
        self.durable.contains(&(stream, nonce))
    }

    // ---- the writer -----------------------------------------------------------------------

    /// One group commit of up to `count` operations; returns what may now be acknowledged.
    pub(crate) fn commit(&mut self, count: usize, api: &Api, bug: Option<Bug>) -> Result<Vec<Answer>, Violation> {
        let mut answers = Vec::new();
        for _ in 0..count {
            match self.writer.pop_front() {
                None => break,
                Some(Write::Put(said)) => self.put(said, bug),
                Some(Write::Apply { stream, apply }) => {
                    if let Some(answer) = self.apply(stream, apply, api)? {
                        answers.push(answer);
                    }
                }
            }
        }
        if bug == Some(Bug::AckBeforeCommit) {
            answers.retain(|answer| matches!(answer, Answer::Nack(..)));
        }
        self.note_in_sync(bug);
        Ok(answers)
    }

    fn apply(&mut self, stream: Stream, apply: Apply, api: &Api) -> Result<Option<Answer>, Violation> {
        let mut failures = Vec::new();
        for change in apply.changes {
            let key = change.key().clone();
            match change {
                Change::Upsert { .. } if self.full => {
                    failures.push((key, "no room".to_owned()));
                    self.refused = true;
                    continue;
                }
                Change::Upsert { key, version, body, .. } => {
                    let rev = api.judge(self.at, &key, &version, &body)?;
                    let highest = self.highest.get(&key).copied().unwrap_or(0);
                    check(rev >= highest, Invariant::Forward, || {
                        format!("{key} on node {} went back from write {highest} to {rev}", self.at)
                    })?;
                    let gone = self.gone_at.get(&key).copied().unwrap_or(0);
                    check(rev > gone, Invariant::NoGhost, || {
                        format!("{key} of write {rev} returned to node {} though it was deleted at {gone}", self.at)
                    })?;
                    self.highest.insert(key.clone(), rev);
                    self.disk.objects.insert(key, (version, body));
                }
                Change::Delete { key } => {
                    if let Some((version, _)) = self.disk.objects.remove(&key) {
                        let rev = api.rev_of(&version);
                        check(api.gone_after(self.at, &key, rev), Invariant::NoGhost, || {
                            format!("{key} of write {rev} was deleted on node {} by silence", self.at)
                        })?;
                    }
                    if let Some(rev) = self.tombstones.remove(&(stream, apply.nonce, key.clone())) {
                        let gone = self.gone_at.entry(key).or_insert(0);
                        *gone = rev.max(*gone);
                    }
                }
            }
            if let Some(publisher) = &mut self.local.publisher {
                publisher.changed(key);
            }
        }
        self.durable.insert((stream, apply.nonce));
        let session = stream.0;
        if self.current != Some(session) || self.subscriber.id().0 != stream.1 {
            return Ok(None);
        }
        Ok(Some(if failures.is_empty() {
            Answer::Ack(session, self.subscriber.committed(apply.nonce))
        } else {
            Answer::Nack(session, self.subscriber.refused(apply.nonce, failures))
        }))
    }

    fn put(&mut self, said: Said, bug: Option<Bug>) {
        self.disk.last_report += 1;
        let id = self.disk.last_report;
        if !said.event {
            let replaced: Vec<u64> = self
                .disk
                .outbox
                .iter()
                .filter(|(_, other)| !other.event && other.key == said.key)
                .map(|(id, _)| *id)
                .collect();
            for old in replaced {
                if let Some(other) = self.disk.outbox.remove(&old) {
                    self.promised.remove(&other.seq);
                    if bug == Some(Bug::SupersededResent) {
                        self.stale.insert(old, other);
                        continue;
                    }
                }
                self.reporter.superseded(old);
            }
        }
        self.promised.insert(said.seq, said.clone());
        self.disk.outbox.insert(id, said);
        self.reporter.offer(id);
    }

    // ---- reports --------------------------------------------------------------------------

    /// A service of the node reports something; it is accepted when it is committed.
    pub(crate) fn say(&mut self, key: Key, event: bool) {
        self.next_seq += 1;
        self.writer.push_back(Write::Put(Said { node: self.at, key, seq: self.next_seq, event }));
    }

    /// The report that goes next; ask only when the stream has room.
    pub(crate) fn next_report(&mut self, now_ms: u64) -> Option<proto::Report> {
        let id = self.reporter.next(now_ms)?;
        let said = self.disk.outbox.get(&id).or_else(|| self.stale.get(&id))?;
        Some(proto::Report {
            id,
            kind: if said.event { "Event" } else { "PodStatus" }.to_owned(),
            key: Some(skerry_sync::wire::key_to_wire(&said.key)),
            encoding: proto::Encoding::Identity as i32,
            body: Bytes::from(format!("{}:{}", said.seq, said.key)),
            ..proto::Report::default()
        })
    }

    /// N2 and N3 for a report at the sink: it is one that this node made.
    pub(crate) fn said(&self, report: &IncomingReport) -> Result<Said, Violation> {
        let said = said_of(self.at, report)
            .ok_or_else(|| Violation::new(Invariant::Intact, format!("report {} has another body", report.id)))?;
        let invented = said.seq > self.next_seq;
        check(!invented, Invariant::NoInvention, || format!("report {} was never made", report.id))?;
        Ok(said)
    }

    // ---- crashes --------------------------------------------------------------------------

    /// The node's process dies and starts again: the disk is all there is.
    pub(crate) fn crash(&mut self) {
        self.writer.clear();
        self.current = None;
        self.subscriber = Subscriber::new(SubscriptionId(1), "Pod", SubscribeLimits::default());
        self.reporter = Reporter::new(REPORT_WINDOW);
        for id in self.disk.outbox.keys() {
            self.reporter.offer(*id);
        }
        self.restart_local();
    }

    /// The store is damaged and set aside: a crash, and an empty disk.
    pub(crate) fn damage(&mut self, now_ms: u64) {
        self.disk = Disk::new(now_ms);
        self.promised.clear();
        self.crash();
    }

    // ---- towards edged --------------------------------------------------------------------

    /// The stream to edged breaks and is opened anew.
    pub(crate) fn restart_local(&mut self) {
        self.local.publisher = None;
        self.local.down.clear();
        self.local.acks.clear();
    }

    pub(crate) fn step_local(&mut self, what: usize, api: &Api, bug: Option<Bug>) -> Result<bool, Violation> {
        match what {
            0 => self.local_poll(bug),
            1 => self.local_apply(api),
            _ => self.local_ack(),
        }
    }

    fn local_poll(&mut self, bug: Option<Bug>) -> Result<bool, Violation> {
        let uncommitted = if bug == Some(Bug::LocalBeforeCommit) { self.uncommitted() } else { BTreeMap::new() };
        let mut view = DiskView { disk: &self.disk, uncommitted, bug };
        let local = &mut self.local;
        if local.publisher.is_none() {
            let limits = PublishLimits { window_deltas: 2, max_delta_objects: 3, ..PublishLimits::default() };
            let mut publisher = Publisher::new(SubscriptionId(9), limits);
            let held = local.held.iter().map(|(key, (version, _))| (key.clone(), version.clone()));
            for message in local.subscriber.open("", 0, "", held) {
                let held = match message.message {
                    Some(proto::subscribe_request::Message::Open(open)) => open.held,
                    Some(proto::subscribe_request::Message::Held(held)) => held.held,
                    _ => Vec::new(),
                };
                publisher.hold_wire(&held).map_err(|error| refused("edgehub", &error.to_string()))?;
            }
            publisher.start(&mut view);
            local.publisher = Some(publisher);
            return Ok(true);
        }
        if local.down.len() >= LOCAL_LEG {
            return Ok(false);
        }
        let Some(publisher) = &mut local.publisher else { return Ok(false) };
        if bug == Some(Bug::LocalBeforeCommit) {
            view.uncommitted.keys().for_each(|key| publisher.changed(key.clone()));
        }
        let message = match publisher.poll(&mut view) {
            None | Some(Out::Oversize { .. }) => return Ok(false),
            Some(Out::Delta(delta)) => Down::Delta(delta),
            Some(Out::InSync(mark)) => Down::InSync(mark),
        };
        local.down.push_back(message);
        Ok(true)
    }

    fn uncommitted(&self) -> BTreeMap<Key, (Version, Bytes)> {
        let mut objects = BTreeMap::new();
        for write in &self.writer {
            let Write::Apply { apply, .. } = write else { continue };
            for change in &apply.changes {
                if let Change::Upsert { key, version, body, .. } = change {
                    objects.insert(key.clone(), (version.clone(), body.clone()));
                }
            }
        }
        objects
    }

    /// edged takes a message and runs what it says at once.
    fn local_apply(&mut self, api: &Api) -> Result<bool, Violation> {
        let local = &mut self.local;
        let apply = match local.down.pop_front() {
            None => return Ok(false),
            Some(Down::InSync(mark)) => {
                local.subscriber.in_sync(mark).map_err(|error| refused("edged", &error.to_string()))?;
                return Ok(true);
            }
            Some(Down::Delta(delta)) => {
                local.subscriber.delta(delta).map_err(|error| refused("edged", &error.to_string()))?
            }
        };
        for change in apply.changes {
            match change {
                Change::Upsert { key, version, body, .. } => {
                    let rev = api.judge(self.at, &key, &version, &body)?;
                    let highest = local.highest.entry(key.clone()).or_insert(0);
                    check(rev >= *highest, Invariant::Forward, || {
                        format!("{key} in edged of node {} went back from write {highest} to {rev}", self.at)
                    })?;
                    *highest = rev;
                    local.held.insert(key, (version, body));
                }
                Change::Delete { key } => {
                    if let Some((version, _)) = local.held.remove(&key) {
                        let rev = api.rev_of(&version);
                        check(api.gone_after(self.at, &key, rev), Invariant::NoGhost, || {
                            format!("{key} of write {rev} was stopped on node {} by silence", self.at)
                        })?;
                    }
                }
            }
        }
        local.acks.push_back(local.subscriber.committed(apply.nonce).nonce);
        Ok(true)
    }

    fn local_ack(&mut self) -> Result<bool, Violation> {
        let Some(publisher) = &mut self.local.publisher else { return Ok(false) };
        let Some(nonce) = self.local.acks.pop_front() else { return Ok(false) };
        publisher.ack(nonce).map_err(|error| refused("edgehub", &error.to_string()))?;
        Ok(true)
    }

    pub(crate) fn recheck_local(&mut self) {
        if let Some(publisher) = &mut self.local.publisher {
            publisher.recheck();
        }
    }

    /// What edged runs.
    pub(crate) fn runs(&self) -> &BTreeMap<Key, (Version, Bytes)> {
        &self.local.held
    }

    // ---- bounds ---------------------------------------------------------------------------

    pub(crate) fn check_bounds(&self, universe: usize) -> Check {
        let local = self.local.publisher.as_ref().map_or(0, Publisher::dirty_len);
        check(local <= universe, Invariant::Bounded, || format!("edgehub has {local} dirty keys for edged"))?;
        let flying = self.reporter.in_flight_len();
        check(flying <= REPORT_WINDOW, Invariant::Bounded, || format!("{flying} reports in flight"))?;
        let reports = self.reporter.len();
        let most = self.disk.outbox.len() + self.reporter.in_flight_len() + self.stale.len();
        check(reports <= most, Invariant::Bounded, || format!("{reports} reports, {most} in the outbox and in flight"))
    }
}

fn refused(who: &str, error: &str) -> Violation {
    Violation::new(Invariant::Protocol, format!("{who}: {error}"))
}

/// What edgehub shows to the services of its node: the disk.
struct DiskView<'a> {
    disk: &'a Disk,
    uncommitted: BTreeMap<Key, (Version, Bytes)>,
    bug: Option<Bug>,
}

impl View for DiskView<'_> {
    fn lookup(&mut self, key: &Key, _held: Option<&Version>) -> Lookup {
        match self.uncommitted.get(key).or_else(|| self.disk.objects.get(key)) {
            Some((version, body)) => {
                Lookup::Present(Object { version: version.clone(), body: body.clone(), encoding: Encoding::Identity })
            }
            None if self.disk.complete || self.bug == Some(Bug::EmptyStoreDeletes) => Lookup::Absent,
            None => Lookup::Unknown,
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.disk.objects.keys().cloned().collect()
    }

    fn complete(&self) -> bool {
        self.disk.complete
    }
}
