//! The fault cases of the protocol with their full counts, one test each: a long cut, a link that
//! breaks all the time, a node killed between each two steps, two hubs that own one node, and a
//! source that says nothing. The random simulation goes further; these say in figures what it
//! costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use skerry_common::{Encoding, Key, NodeName, Version};
use skerry_proto::sync::v1 as proto;
use skerry_sync::{
    Change, Fence, Lookup, Object, Out, Outcome, PublishLimits, Publisher, Reporter, Settled, SubscribeLimits,
    Subscriber, SubscriptionId, View,
};

const ID: SubscriptionId = SubscriptionId(1);

fn key(at: usize) -> Key {
    Key::new("default", format!("object-{at}"))
}

/// What exists, by the number of its last write.
#[derive(Default)]
struct Cloud {
    objects: BTreeMap<Key, u64>,
    writes: u64,
    /// The list came back empty and nothing says why.
    silent: bool,
}

impl Cloud {
    fn write(&mut self, at: usize) {
        self.writes += 1;
        self.objects.insert(key(at), self.writes);
    }
}

impl View for Cloud {
    fn lookup(&mut self, key: &Key, _held: Option<&Version>) -> Lookup {
        match self.objects.get(key) {
            _ if self.silent => Lookup::Unknown,
            None => Lookup::Absent,
            Some(write) => Lookup::Present(Object {
                version: Version::new(write.to_string()),
                body: Bytes::from(vec![b'x'; 500]),
                encoding: Encoding::Identity,
            }),
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        if self.silent { Vec::new() } else { self.objects.keys().cloned().collect() }
    }

    fn complete(&self) -> bool {
        !self.silent
    }
}

/// A node and its stream; what crossed it is counted.
struct Link {
    cloud: Cloud,
    publisher: Publisher,
    subscriber: Subscriber,
    disk: BTreeMap<Key, u64>,
    upserts: usize,
    tombstones: usize,
    marks: usize,
    down: VecDeque<Out>,
}

impl Link {
    fn new() -> Self {
        Self {
            cloud: Cloud::default(),
            publisher: Publisher::new(ID, PublishLimits::default()),
            subscriber: Subscriber::new(ID, "Pod", SubscribeLimits::default()),
            disk: BTreeMap::new(),
            upserts: 0,
            tombstones: 0,
            marks: 0,
            down: VecDeque::new(),
        }
    }

    /// A new stream; the counters begin anew.
    fn connect(&mut self) {
        (self.upserts, self.tombstones, self.marks) = (0, 0, 0);
        self.down.clear();
        self.publisher = Publisher::new(ID, PublishLimits::default());
        let held: Vec<_> =
            self.disk.iter().map(|(key, write)| (key.clone(), Version::new(write.to_string()))).collect();
        for request in self.subscriber.open("", 0, "", held) {
            let held = match request.message.unwrap() {
                proto::subscribe_request::Message::Open(open) => open.held,
                proto::subscribe_request::Message::Held(held) => held.held,
                other => panic!("{other:?}"),
            };
            self.publisher.hold_wire(&held).unwrap();
        }
        self.publisher.start(&mut self.cloud);
    }

    /// The source sends what it can.
    fn send(&mut self) -> bool {
        let Some(out) = self.publisher.poll(&mut self.cloud) else { return false };
        match &out {
            Out::Delta(delta) => {
                self.upserts += delta.upserts.len();
                self.tombstones += delta.tombstones.len();
            }
            Out::InSync(_) => self.marks += 1,
            Out::Oversize { .. } => panic!("nothing is that large"),
        }
        self.down.push_back(out);
        true
    }

    /// The node takes one message; a delta is on disk afterwards and its nonce comes back.
    fn receive(&mut self) -> Option<u64> {
        match self.down.pop_front()? {
            Out::InSync(mark) => {
                self.subscriber.in_sync(mark).unwrap();
                None
            }
            Out::Delta(delta) => {
                let apply = self.subscriber.delta(delta).unwrap();
                for change in apply.changes {
                    match change {
                        Change::Delete { key } => {
                            self.disk.remove(&key);
                        }
                        Change::Upsert { key, version, .. } => {
                            let write: u64 = version.as_str().parse().unwrap();
                            let before = self.disk.insert(key, write);
                            assert!(before.is_none_or(|before| before <= write), "N4");
                        }
                    }
                }
                Some(apply.nonce)
            }
            Out::Oversize { .. } => panic!("nothing is that large"),
        }
    }

    fn run(&mut self) {
        loop {
            let sent = self.send();
            if let Some(nonce) = self.receive() {
                self.publisher.ack(self.subscriber.committed(nonce).nonce).unwrap();
            } else if !sent && self.down.is_empty() {
                break;
            }
        }
    }

    fn assert_converged(&self) {
        assert_eq!(self.disk, self.cloud.objects);
        assert!(self.subscriber.is_in_sync());
        assert_eq!((self.publisher.dirty_len(), self.publisher.in_flight_len()), (0, 0));
    }
}

/// Case 1, downwards: 10,000 changes with 1,000 deletes during a cut; only what is left of them
/// travels.
#[test]
fn after_a_long_cut_only_the_last_version_travels() {
    let mut link = Link::new();
    (0..2_000).for_each(|at| link.cloud.write(at));
    link.connect();
    link.run();
    link.assert_converged();
    assert_eq!((link.upserts, link.tombstones, link.marks), (2_000, 0, 1));

    // 9,000 writes to 500 objects, some of them new, and 1,000 deletes.
    (0..9_000).for_each(|at| link.cloud.write(1_700 + at % 500));
    (0..1_000).for_each(|at| {
        link.cloud.objects.remove(&key(at));
    });
    link.connect();
    link.run();
    link.assert_converged();
    assert_eq!((link.upserts, link.tombstones, link.marks), (500, 1_000, 1));

    // Case 3: nothing changed, nothing travels.
    link.connect();
    link.run();
    link.assert_converged();
    assert_eq!((link.upserts, link.tombstones, link.marks), (0, 0, 1));
}

/// Case 1, upwards: 1,000 reports during a cut; the newest status of each object and every Event.
#[test]
fn after_a_long_cut_the_newest_status_and_every_event_are_reported() {
    let mut reporter = Reporter::new(16);
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut expected = 0;
    for id in 1..=1_000_u64 {
        // Every fifth is an Event, the others are statuses of 20 objects.
        if id % 5 == 0 {
            expected += 1;
        } else if let Some(older) = newest.insert(id % 20, id) {
            reporter.superseded(older);
        }
        reporter.offer(id);
    }
    expected += newest.len();
    let (mut sent, mut last, mut flying) = (0, 0, VecDeque::new());
    loop {
        while let Some(id) = reporter.next(0) {
            assert!(id > last, "oldest first");
            last = id;
            sent += 1;
            flying.push_back(id);
        }
        assert!(flying.len() <= 16);
        let Some(id) = flying.pop_front() else { break };
        assert_eq!(reporter.outcome(id, Outcome::Committed, 0), Settled::Remove(id));
    }
    assert_eq!(sent, expected);
    assert!(reporter.is_empty());
}

/// Cases 2 and 3: the stream breaks after every few messages, acknowledgements are lost, objects
/// change all the time. What is sent twice is bounded by the window of each broken stream.
#[test]
fn a_link_that_breaks_all_the_time_makes_progress_and_resends_little() {
    let mut link = Link::new();
    (0..1_000).for_each(|at| link.cloud.write(at));
    let (mut sent, mut needed, mut cuts) = (0, 1_000, 0);
    let mut at = 0_usize;
    while link.disk != link.cloud.objects {
        link.connect();
        for step in 0..1 + at % 9 {
            link.send();
            if step % 2 == 1
                && let Some(nonce) = link.receive()
                && step % 4 == 1
            {
                link.publisher.ack(link.subscriber.committed(nonce).nonce).unwrap();
            }
            if at < 200 {
                link.cloud.write(at * 7 % 1_000);
                link.publisher.changed(key(at * 7 % 1_000));
                needed += 1;
            }
            at += 1;
        }
        sent += link.upserts;
        cuts += 1;
        assert!(cuts < 1_000, "no progress");
    }
    assert!(cuts > 5, "the link broke {cuts} times");
    assert!(sent <= 3 * needed, "{sent} sent for {needed} writes over {cuts} streams");
    link.connect();
    link.run();
    link.assert_converged();
}

/// Case 5: the node is killed after each of its steps, 250 times each.
#[test]
fn a_node_killed_between_each_two_steps_loses_and_repeats_nothing() {
    for point in ["received", "committed", "acknowledged"] {
        let mut link = Link::new();
        for round in 0..250 {
            link.cloud.write(round % 40);
            if round % 3 == 0 {
                link.cloud.objects.remove(&key(round % 7));
            }
            link.connect();
            link.send();
            match point {
                "received" => drop(link.down.pop_front()),
                _ => {
                    if let Some(nonce) = link.receive()
                        && point == "acknowledged"
                    {
                        link.publisher.ack(link.subscriber.committed(nonce).nonce).unwrap();
                    }
                }
            }
            // Killed here: the stream is gone, the disk is left.
            link.connect();
            link.run();
            link.assert_converged();
            if point != "received" {
                assert_eq!((link.upserts, link.tombstones), (0, 0), "what is on disk is not sent again");
            }
        }
    }
}

/// Case 13: a hub that was paused for a minute wakes up with reports of a session that is fenced.
#[test]
fn a_paused_hub_that_wakes_up_writes_nothing() {
    let node = NodeName::parse("edge-1").unwrap();
    let mut fence = Fence::new();
    let (mut api, mut refused) = (0_u64, 0);
    let mut paused: VecDeque<(u64, u64)> = VecDeque::new();
    for session in 1..=1_000_u64 {
        // The old hub still holds reports of this session when the node comes back by another.
        paused.extend((0..3).map(|at| (session, session * 10 + at)));
        let newer = session + 1;
        fence.admit(&node, newer).unwrap();
        api = newer * 10;
        while let Some((stale, status)) = paused.pop_front() {
            // Asked again in the moment of the write.
            match fence.admit(&node, stale) {
                Ok(_) => api = status,
                Err(stale) => {
                    assert_eq!(stale.newest, newer);
                    refused += 1;
                }
            }
        }
        assert_eq!(api, newer * 10, "N4");
    }
    assert_eq!(refused, 3_000);
    assert!(api > 0);
}

/// The source is silent, 10,000 times: an empty list deletes nothing and is not called complete.
#[test]
fn silence_deletes_nothing() {
    let mut link = Link::new();
    (0..50).for_each(|at| link.cloud.write(at));
    link.connect();
    link.run();
    link.assert_converged();
    let before = link.disk.clone();
    link.cloud.silent = true;
    for round in 0..10_000 {
        if round % 10 == 0 {
            link.connect();
        }
        link.publisher.changed(key(round % 50));
        link.publisher.recheck();
        link.run();
        assert_eq!((link.tombstones, link.marks), (0, 0));
    }
    assert_eq!(link.disk, before);
    // The source speaks again, and what it deletes is deleted.
    link.cloud.silent = false;
    link.cloud.objects.remove(&key(3));
    link.connect();
    link.run();
    link.assert_converged();
    assert_eq!((link.upserts, link.tombstones), (0, 1));
}
