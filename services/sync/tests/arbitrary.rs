//! Any message at any time: what a hostile or broken peer may send to either end.
//!
//! Nothing panics, nothing grows beyond its limit, and a message that is refused changes nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use skerry_common::{Encoding, Key, Version};
use skerry_proto::sync::v1 as proto;
use skerry_sync::{
    IncomingReport, Lookup, Object, Out, Outcome, PublishLimits, Publisher, Reporter, SubscribeLimits, Subscriber,
    SubscriptionId, View, wire,
};

/// Good names, bad names, and the same ones often.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["", ".", "..", "a/b", "a\0", "A", "-", "a\u{1b}[2J", "ä"]).prop_map(str::to_owned),
        1 => ".{0,300}",
    ]
}

fn key() -> impl Strategy<Value = Option<proto::Key>> {
    prop::option::weighted(0.95, (name(), name()).prop_map(|(namespace, name)| proto::Key { namespace, name }))
}

fn upsert() -> impl Strategy<Value = proto::Upsert> {
    (key(), prop_oneof![4 => "[0-9]{1,4}", 1 => ".{0,200}"], -1..4_i32, 0..400_usize).prop_map(
        |(key, version, encoding, length)| proto::Upsert { key, version, encoding, body: Bytes::from(vec![0; length]) },
    )
}

fn delta() -> impl Strategy<Value = proto::Delta> {
    let upserts = prop::collection::vec(upsert(), 0..4);
    let tombstones = prop::collection::vec(key().prop_map(|key| proto::Tombstone { key }), 0..3);
    (1..3_u64, 0..40_u64, upserts, tombstones, ".{0,60}").prop_map(
        |(subscription, nonce, upserts, tombstones, traceparent)| proto::Delta {
            subscription,
            nonce,
            upserts,
            tombstones,
            traceparent,
        },
    )
}

#[derive(Debug, Clone)]
enum Down {
    Delta(proto::Delta),
    InSync(u64),
    Commit(u64),
    Open,
}

fn down() -> impl Strategy<Value = Down> {
    prop_oneof![
        8 => delta().prop_map(Down::Delta),
        1 => (1..3_u64).prop_map(Down::InSync),
        3 => (0..40_u64).prop_map(Down::Commit),
        1 => Just(Down::Open),
    ]
}

#[derive(Debug, Clone)]
enum Up {
    Held(Vec<proto::HeldObject>),
    Start,
    Ack(u64),
    Nack(u64, Vec<proto::Failure>),
    Changed(u8),
    Poll,
}

fn up() -> impl Strategy<Value = Up> {
    let held = (key(), name()).prop_map(|(key, version)| proto::HeldObject { key, version });
    let failure = (key(), ".{0,30}").prop_map(|(key, reason)| proto::Failure { key, reason });
    prop_oneof![
        1 => prop::collection::vec(held, 0..4).prop_map(Up::Held),
        1 => Just(Up::Start),
        3 => (0..12_u64).prop_map(Up::Ack),
        3 => (0..12_u64, prop::collection::vec(failure, 0..3)).prop_map(|(nonce, failures)| Up::Nack(nonce, failures)),
        4 => any::<u8>().prop_map(Up::Changed),
        6 => Just(Up::Poll),
    ]
}

/// Answers by chance, but always of the four good keys.
struct Fickle(u64);

impl View for Fickle {
    fn lookup(&mut self, _key: &Key, _held: Option<&Version>) -> Lookup {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match self.0 >> 61 {
            0 => Lookup::Unknown,
            1 | 2 => Lookup::Absent,
            _ => Lookup::Present(Object {
                version: Version::new((self.0 >> 40).to_string()),
                body: Bytes::from_static(b"{}"),
                encoding: Encoding::Identity,
            }),
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        ["a", "b", "c", "d"].map(|name| Key::new("a", name)).to_vec()
    }

    fn complete(&self) -> bool {
        self.0.is_multiple_of(3)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_subscriber_takes_anything(messages in prop::collection::vec(down(), 0..60)) {
        let limits = SubscribeLimits { window_deltas: 4, max_delta_bytes: 1000, max_delta_objects: 5 };
        let mut subscriber = Subscriber::new(SubscriptionId(1), "Pod", limits);
        for message in messages {
            let before = (subscriber.outstanding_len(), subscriber.is_in_sync());
            match message {
                Down::Open => { subscriber.open("", 0, "", []); }
                Down::Commit(nonce) => { subscriber.committed(nonce); }
                Down::InSync(subscription) => {
                    if subscriber.in_sync(proto::InSync { subscription }).is_err() {
                        prop_assert_eq!((subscriber.outstanding_len(), subscriber.is_in_sync()), before);
                    }
                }
                Down::Delta(delta) => match subscriber.delta(delta.clone()) {
                    Err(error) => {
                        let printable = error.to_string().chars().all(|c| !c.is_control());
                        prop_assert!(printable && !error.code().is_empty());
                        prop_assert_eq!((subscriber.outstanding_len(), subscriber.is_in_sync()), before);
                    }
                    Ok(apply) => {
                        prop_assert_eq!(apply.changes.len(), delta.upserts.len() + delta.tombstones.len());
                        for change in &apply.changes {
                            prop_assert!(Key::checked(&change.key().namespace, &change.key().name).is_ok());
                        }
                    }
                },
            }
            prop_assert!(subscriber.outstanding_len() <= 4);
        }
    }

    #[test]
    fn a_publisher_takes_anything(seed in any::<u64>(), messages in prop::collection::vec(up(), 0..100)) {
        let limits = PublishLimits { window_deltas: 3, max_delta_bytes: 200, max_delta_objects: 2 };
        let mut publisher = Publisher::new(SubscriptionId(1), limits);
        let mut view = Fickle(seed);
        let mut marks = 0;
        for message in messages {
            let before = (publisher.dirty_len(), publisher.in_flight_len());
            let refused = match message {
                Up::Held(held) => publisher.hold_wire(&held).is_err(),
                Up::Start => { publisher.start(&mut view); false }
                Up::Ack(nonce) => publisher.ack(nonce).is_err(),
                Up::Nack(nonce, failures) => publisher.nack(nonce, failures).is_err(),
                Up::Changed(at) => { publisher.changed(Key::new("a", format!("k{}", at % 8))); false }
                Up::Poll => {
                    match publisher.poll(&mut view) {
                        Some(Out::InSync(_)) => marks += 1,
                        Some(Out::Delta(delta)) => {
                            let objects = delta.upserts.len() + delta.tombstones.len();
                            prop_assert!((1..=2).contains(&objects));
                        }
                        Some(Out::Oversize { .. }) | None => {}
                    }
                    false
                }
            };
            if refused {
                prop_assert_eq!((publisher.dirty_len(), publisher.in_flight_len()), before);
            }
            prop_assert!(marks <= 1 && publisher.in_flight_len() <= 3);
        }
    }

    #[test]
    fn reports_and_outcomes_may_be_anything(
        id in 0..4_u64, kind in name(), key in key(), encoding in -1..4_i32, uid in ".{0,200}",
        result in 0..4_u8, after_ms in any::<u64>(), now in any::<u64>(),
    ) {
        let report = proto::Report { id, kind, key, encoding, uid, ..proto::Report::default() };
        if let Ok(report) = IncomingReport::from_wire(report) {
            prop_assert!(report.id > 0 && !report.kind.is_empty());
        }
        use proto::outcome::Result as Wire;
        let result = match result {
            0 => None,
            1 => Some(Wire::Committed(proto::Committed {})),
            2 => Some(Wire::Rejected(proto::Rejected::default())),
            _ => Some(Wire::RetryLater(proto::RetryLater { after_ms, reason: String::new() })),
        };
        let mut reporter = Reporter::new(2);
        reporter.offer(1);
        reporter.next(now);
        if let Ok((id, outcome)) = Outcome::from_wire(proto::Outcome { id, node: String::new(), result }) {
            reporter.outcome(id, outcome, now);
        }
        prop_assert!(reporter.len() <= 1 && reporter.in_flight_len() <= 1);
        prop_assert!(reporter.wake_at().is_none_or(|at| at >= now));
    }

    #[test]
    fn a_key_that_is_taken_goes_back_as_it_came(key in key()) {
        if let Ok(taken) = wire::key_from_wire(key.as_ref()) {
            prop_assert_eq!(Some(wire::key_to_wire(&taken)), key);
        }
    }
}
