//! A publisher and a subscriber against each other: random changes, answers in any order, refusals,
//! doubt and cuts. What the subscriber has stored never goes back, is never deleted by doubt, and
//! equals the source when the faults end.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use skerry_common::{Encoding, Key, Version};
use skerry_sync::{
    Apply, Change, Lookup, Object, Out, PublishLimits, Publisher, SubscribeLimits, Subscriber, SubscriptionId, View,
};

const KEYS: usize = 6;

/// The source: what exists, and of which keys it can tell.
#[derive(Default)]
struct Source {
    objects: BTreeMap<Key, u64>,
    written: u64,
    doubt: [bool; KEYS],
    complete: bool,
    /// The answer `Absent` that was given for each key last; a deletion without one is invented.
    said_absent: [bool; KEYS],
}

fn key(at: usize) -> Key {
    Key::new("default", format!("k{at}"))
}

fn at(key: &Key) -> usize {
    key.name[1..].parse().unwrap()
}

impl View for Source {
    fn lookup(&mut self, key: &Key, _held: Option<&Version>) -> Lookup {
        if self.doubt[at(key)] {
            return Lookup::Unknown;
        }
        match self.objects.get(key) {
            None => {
                self.said_absent[at(key)] = true;
                Lookup::Absent
            }
            Some(seq) => Lookup::Present(Object {
                version: Version::new(seq.to_string()),
                body: Bytes::from(vec![b'x'; 10 + (*seq as usize % 7) * 20]),
                encoding: Encoding::Identity,
            }),
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.objects.keys().filter(|key| !self.doubt[at(key)]).cloned().collect()
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize),
    Delete(usize),
    Doubt(usize, bool),
    Complete(bool),
    Poll,
    Commit,
    Refuse(usize),
    Answer,
    Cut,
    Recheck,
    Rescan,
    Noise(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Op::Write),
        3 => (0..KEYS).prop_map(Op::Delete),
        2 => (0..KEYS, any::<bool>()).prop_map(|(at, doubt)| Op::Doubt(at, doubt)),
        1 => any::<bool>().prop_map(Op::Complete),
        8 => Just(Op::Poll),
        6 => Just(Op::Commit),
        1 => (0..KEYS).prop_map(Op::Refuse),
        6 => Just(Op::Answer),
        1 => Just(Op::Cut),
        1 => Just(Op::Recheck),
        1 => Just(Op::Rescan),
        2 => (0..KEYS).prop_map(Op::Noise),
    ]
}

enum Answer {
    Ack(u64),
    Nack(skerry_proto::sync::v1::Nack),
}

struct Pair {
    source: Source,
    publisher: Publisher,
    subscriber: Subscriber,
    store: BTreeMap<Key, u64>,
    highest: [u64; KEYS],
    to_commit: VecDeque<Apply>,
    answers: VecDeque<Answer>,
    marked: usize,
}

impl Pair {
    fn new(limits: PublishLimits) -> Self {
        let mut pair = Self {
            source: Source::default(),
            publisher: Publisher::new(SubscriptionId(1), limits),
            subscriber: Subscriber::new(SubscriptionId(1), "Pod", SubscribeLimits::default()),
            store: BTreeMap::new(),
            highest: [0; KEYS],
            to_commit: VecDeque::new(),
            answers: VecDeque::new(),
            marked: 0,
        };
        pair.connect(limits);
        pair
    }

    fn connect(&mut self, limits: PublishLimits) {
        self.to_commit.clear();
        self.answers.clear();
        self.marked = 0;
        self.publisher = Publisher::new(SubscriptionId(1), limits);
        let held: Vec<_> = self.store.iter().map(|(key, seq)| (key.clone(), Version::new(seq.to_string()))).collect();
        for message in self.subscriber.open("", 0, "", held) {
            use skerry_proto::sync::v1::subscribe_request::Message;
            match message.message.unwrap() {
                Message::Open(open) => self.publisher.hold_wire(&open.held).unwrap(),
                Message::Held(held) => self.publisher.hold_wire(&held.held).unwrap(),
                other => unreachable!("{other:?}"),
            }
        }
        self.publisher.start(&mut self.source);
    }

    fn poll(&mut self, limits: PublishLimits) -> Result<bool, TestCaseError> {
        match self.publisher.poll(&mut self.source) {
            None => Ok(false),
            Some(Out::InSync(mark)) => {
                self.marked += 1;
                prop_assert_eq!(self.marked, 1, "InSync is said once");
                prop_assert!(self.source.complete);
                self.subscriber.in_sync(mark).unwrap();
                Ok(true)
            }
            Some(Out::Delta(delta)) => {
                prop_assert!(delta.upserts.len() + delta.tombstones.len() <= limits.max_delta_objects);
                let apply = self.subscriber.delta(delta).unwrap();
                self.to_commit.push_back(apply);
                prop_assert!(self.publisher.in_flight_len() <= limits.window_deltas);
                Ok(true)
            }
            Some(Out::Oversize { .. }) => Err(TestCaseError::fail("nothing is that large")),
        }
    }

    fn commit(&mut self, refuse: Option<usize>) -> Result<bool, TestCaseError> {
        let Some(apply) = self.to_commit.pop_front() else { return Ok(false) };
        let mut failures = Vec::new();
        for change in apply.changes {
            let at = at(change.key());
            if Some(at) == refuse {
                failures.push((change.key().clone(), "no".to_owned()));
                continue;
            }
            match change {
                Change::Upsert { key, version, .. } => {
                    let seq: u64 = version.as_str().parse().unwrap();
                    prop_assert!(seq >= self.highest[at], "{key} went back from {} to {seq}", self.highest[at]);
                    self.highest[at] = seq;
                    self.store.insert(key, seq);
                }
                Change::Delete { key } => {
                    prop_assert!(self.source.said_absent[at], "{key} was deleted without a reason");
                    self.store.remove(&key);
                }
            }
        }
        self.answers.push_back(if failures.is_empty() {
            Answer::Ack(self.subscriber.committed(apply.nonce).nonce)
        } else {
            Answer::Nack(self.subscriber.refused(apply.nonce, failures))
        });
        Ok(true)
    }

    fn answer(&mut self) -> bool {
        match self.answers.pop_front() {
            None => return false,
            Some(Answer::Ack(nonce)) => {
                self.publisher.ack(nonce).unwrap();
            }
            Some(Answer::Nack(nack)) => {
                self.publisher.nack(nack.nonce, nack.failures).unwrap();
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn converges_never_goes_back_and_doubt_deletes_nothing(
        window in 1..4_usize,
        objects in 1..4_usize,
        bytes in 60..400_usize,
        ops in proptest::collection::vec(op(), 0..400),
    ) {
        let limits = PublishLimits { window_deltas: window, max_delta_bytes: bytes, max_delta_objects: objects };
        let mut pair = Pair::new(limits);
        for op in ops {
            match op {
                Op::Write(at) => {
                    pair.source.written += 1;
                    pair.source.objects.insert(key(at), pair.source.written);
                    pair.publisher.changed(key(at));
                }
                Op::Delete(at) => {
                    pair.source.objects.remove(&key(at));
                    pair.publisher.changed(key(at));
                }
                Op::Doubt(at, doubt) => {
                    pair.source.doubt[at] = doubt;
                    if !doubt {
                        pair.publisher.changed(key(at));
                    }
                }
                Op::Complete(complete) => pair.source.complete = complete,
                Op::Poll => { pair.poll(limits)?; }
                Op::Commit => { pair.commit(None)?; }
                Op::Refuse(at) => { pair.commit(Some(at))?; }
                Op::Answer => { pair.answer(); }
                Op::Cut => pair.connect(limits),
                Op::Recheck => pair.publisher.recheck(),
                Op::Rescan => pair.publisher.rescan(&mut pair.source),
                Op::Noise(at) => pair.publisher.changed(key(at)),
            }
            prop_assert!(pair.publisher.dirty_len() <= KEYS);
        }
        // Faults end.
        pair.source.doubt = [false; KEYS];
        // A view that learns of a key says so, as it does for a write.
        (0..KEYS).for_each(|at| pair.publisher.changed(key(at)));
        pair.source.complete = true;
        // Twice: refusals may still be on their way.
        for _ in 0..2 {
            pair.publisher.recheck();
            pair.publisher.retry_refused();
            for _ in 0..10_000 {
                let polled = pair.poll(limits)?;
                let committed = pair.commit(None)?;
                if !pair.answer() && !polled && !committed {
                    break;
                }
            }
        }
        prop_assert_eq!(&pair.store, &pair.source.objects);
        prop_assert!(pair.subscriber.is_in_sync());
        prop_assert_eq!(
            (pair.publisher.dirty_len(), pair.publisher.in_flight_len(), pair.publisher.refused_len()),
            (0, 0, 0)
        );
        for (key, seq) in &pair.source.objects {
            prop_assert_eq!(pair.publisher.held_version(key), Some(&Version::new(seq.to_string())));
        }
    }
}
