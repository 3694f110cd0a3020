//! Tests of the subscriber: the table of what it refuses, and the order of its marks.
#![allow(missing_docs)]

use bytes::Bytes;
use skerry_common::Encoding;

use super::*;

fn wire_key(name: &str) -> Option<proto::Key> {
    Some(proto::Key { namespace: "default".to_owned(), name: name.to_owned() })
}

fn upsert(name: &str) -> proto::Upsert {
    proto::Upsert {
        key: wire_key(name),
        version: "1".to_owned(),
        encoding: proto::Encoding::Identity as i32,
        body: Bytes::from_static(b"{}"),
    }
}

fn tombstone(name: &str) -> proto::Tombstone {
    proto::Tombstone { key: wire_key(name) }
}

fn delta(nonce: u64, upserts: &[&str], tombstones: &[&str]) -> proto::Delta {
    proto::Delta {
        subscription: 3,
        nonce,
        upserts: upserts.iter().map(|name| upsert(name)).collect(),
        tombstones: tombstones.iter().map(|name| tombstone(name)).collect(),
        traceparent: "00-trace".to_owned(),
    }
}

fn open() -> Subscriber {
    let limits = SubscribeLimits { window_deltas: 4, max_delta_bytes: 10_000, max_delta_objects: 5 };
    let mut subscriber = Subscriber::new(SubscriptionId(3), "Pod", limits);
    subscriber.open("", 0, "", []);
    subscriber
}

#[test]
fn a_delta_is_handed_out_and_acknowledged_when_it_is_committed() {
    let mut subscriber = open();
    let apply = subscriber.delta(delta(1, &["a"], &["b"])).unwrap();
    assert_eq!(
        apply.changes,
        vec![
            Change::Delete { key: Key::new("default", "b") },
            Change::Upsert {
                key: Key::new("default", "a"),
                version: Version::new("1"),
                body: Bytes::from_static(b"{}"),
                encoding: Encoding::Identity,
                traceparent: "00-trace".to_owned(),
            },
        ]
    );
    assert_eq!(subscriber.outstanding_len(), 1);
    assert_eq!(subscriber.committed(apply.nonce), proto::Ack { subscription: 3, nonce: 1 });
    assert_eq!(subscriber.outstanding_len(), 0);
    let apply = subscriber.delta(delta(9, &["a"], &[])).unwrap();
    let nack = subscriber.refused(apply.nonce, vec![(Key::new("default", "a"), "no room".to_owned())]);
    assert_eq!((nack.subscription, nack.nonce, nack.failures.len()), (3, 9, 1));
    assert_eq!(subscriber.outstanding_len(), 0);
}

#[test]
fn what_is_refused_and_changes_nothing() {
    type Break = fn(&mut proto::Delta);
    let table: [(&str, Break); 15] = [
        ("unknown_subscription", |d| d.subscription = 4),
        ("nonce_not_growing", |d| d.nonce = 0),
        ("nonce_not_growing", |d| d.nonce = 1),
        ("empty_delta", |d| d.upserts.clear()),
        ("too_large", |d| d.upserts = ["a", "b", "c", "d", "e", "f"].map(upsert).to_vec()),
        ("too_large", |d| {
            d.upserts = ["a", "b"].map(upsert).to_vec();
            d.upserts[1].body = Bytes::from(vec![0; 10_000]);
        }),
        ("too_large", |d| d.upserts[0].body = Bytes::from(vec![0; MAX_OBJECT_BYTES + 1])),
        ("duplicate_key", |d| d.upserts.push(upsert("a"))),
        ("duplicate_key", |d| d.tombstones.push(tombstone("a"))),
        ("duplicate_key", |d| d.tombstones = vec![tombstone("z"), tombstone("z")]),
        ("missing", |d| d.upserts[0].key = None),
        ("missing", |d| d.upserts[0].version.clear()),
        ("invalid", |d| d.upserts[0].encoding = 0),
        ("invalid", |d| d.upserts[0].key = wire_key("../a")),
        ("invalid", |d| d.tombstones.push(tombstone("a/b"))),
    ];
    for (code, change) in table {
        let mut subscriber = open();
        let first = subscriber.delta(delta(1, &["x"], &[])).unwrap();
        let mut broken = delta(2, &["a"], &[]);
        change(&mut broken);
        assert_eq!(subscriber.delta(broken).unwrap_err().code(), code);
        assert_eq!(subscriber.outstanding_len(), 1, "{code}");
        subscriber.committed(first.nonce);
        assert_eq!(subscriber.delta(delta(2, &["a"], &[])).unwrap().nonce, 2, "{code}");
    }
}

#[test]
fn one_object_may_be_as_large_as_an_object_may_be() {
    let mut subscriber = open();
    let mut large = delta(1, &["a"], &[]);
    large.upserts[0].body = Bytes::from(vec![0; MAX_OBJECT_BYTES]);
    assert!(subscriber.delta(large).is_ok());
}

#[test]
fn a_source_that_ignores_the_window_is_refused() {
    let mut subscriber = open();
    for nonce in 1..=4 {
        subscriber.delta(delta(nonce, &["a"], &[])).unwrap();
    }
    assert_eq!(subscriber.delta(delta(5, &["a"], &[])).unwrap_err().code(), "window_exceeded");
    subscriber.committed(1);
    assert!(subscriber.delta(delta(5, &["a"], &[])).is_ok());
}

#[test]
fn nothing_is_taken_before_the_subscription_is_open() {
    let mut subscriber = Subscriber::new(SubscriptionId(3), "Pod", SubscribeLimits::default());
    assert_eq!(subscriber.delta(delta(1, &["a"], &[])).unwrap_err().code(), "out_of_order");
    assert_eq!(subscriber.in_sync(proto::InSync { subscription: 3 }).unwrap_err().code(), "out_of_order");
}

#[test]
fn in_sync_is_true_when_all_before_the_mark_is_settled() {
    let mut subscriber = open();
    subscriber.delta(delta(1, &["a"], &[])).unwrap();
    subscriber.delta(delta(2, &["b"], &[])).unwrap();
    assert_eq!(subscriber.in_sync(proto::InSync { subscription: 4 }).unwrap_err().code(), "unknown_subscription");
    subscriber.in_sync(proto::InSync { subscription: 3 }).unwrap();
    subscriber.delta(delta(3, &["c"], &[])).unwrap();
    subscriber.in_sync(proto::InSync { subscription: 3 }).unwrap();
    assert!(!subscriber.is_in_sync());
    subscriber.committed(2);
    assert!(!subscriber.is_in_sync());
    subscriber.refused(1, vec![]);
    assert!(subscriber.is_in_sync(), "what came after the mark does not count");
    subscriber.open("", 0, "", []);
    assert!(!subscriber.is_in_sync(), "a new stream begins anew");
    assert_eq!(subscriber.outstanding_len(), 0);
}

#[test]
fn a_long_list_of_held_objects_is_sent_in_parts() {
    let mut subscriber = Subscriber::new(SubscriptionId(3), "Pod", SubscribeLimits::default());
    for count in [0, 1, HELD_PER_MESSAGE, HELD_PER_MESSAGE + 1, 3 * HELD_PER_MESSAGE] {
        let held = (0..count).map(|at| (Key::new("default", format!("p{at}")), Version::new(at.to_string())));
        let messages = subscriber.open("edge-1", 7, "a=b", held);
        assert_eq!(messages.len(), count.div_ceil(HELD_PER_MESSAGE).max(1));
        let mut total = 0;
        for (at, message) in messages.iter().enumerate() {
            let more = match message.message.as_ref().unwrap() {
                proto::subscribe_request::Message::Open(open) => {
                    assert_eq!(at, 0);
                    assert_eq!((open.node.as_str(), open.session), ("edge-1", 7));
                    assert_eq!((open.kind.as_str(), open.selector.as_str()), ("Pod", "a=b"));
                    total += open.held.len();
                    open.more
                }
                proto::subscribe_request::Message::Held(held) => {
                    assert!(at > 0 && !held.held.is_empty());
                    total += held.held.len();
                    held.more
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(more, at + 1 < messages.len());
        }
        assert_eq!(total, count);
    }
}
