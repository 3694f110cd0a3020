//! Tests of the publisher: one behaviour each, with a view that is a map.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use skerry_common::Encoding;

use super::*;
use crate::object::Object;

#[derive(Default)]
struct Map {
    objects: BTreeMap<Key, (Version, Bytes)>,
    unknown: BTreeSet<Key>,
    /// Everything that is not present is unknown.
    blind: bool,
    complete: bool,
    lookups: usize,
}

impl Map {
    fn of(objects: &[(&str, &str)]) -> Self {
        let mut map = Self { complete: true, ..Self::default() };
        for (name, version) in objects {
            map.set(name, version);
        }
        map
    }

    fn set(&mut self, name: &str, version: &str) {
        self.objects.insert(key(name), (Version::new(version), Bytes::from(format!("{name}@{version}"))));
    }
}

impl View for Map {
    fn lookup(&mut self, key: &Key, _held: Option<&Version>) -> Lookup {
        self.lookups += 1;
        if self.unknown.contains(key) {
            return Lookup::Unknown;
        }
        match self.objects.get(key) {
            Some((version, body)) => {
                Lookup::Present(Object { version: version.clone(), body: body.clone(), encoding: Encoding::Identity })
            }
            None if self.blind => Lookup::Unknown,
            None => Lookup::Absent,
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        self.objects.keys().cloned().collect()
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

fn publisher(held: &[(&str, &str)]) -> Publisher {
    limited(held, PublishLimits::default())
}

fn limited(held: &[(&str, &str)], limits: PublishLimits) -> Publisher {
    let mut publisher = Publisher::new(SubscriptionId(3), limits);
    for (name, version) in held {
        publisher.hold(key(name), Version::new(*version));
    }
    publisher
}

/// `+name@version` for an upsert, `-name` for a tombstone, with the nonce in front.
fn show(out: Option<Out>) -> String {
    match out {
        None => "none".to_owned(),
        Some(Out::InSync(mark)) => format!("in_sync {}", mark.subscription),
        Some(Out::Oversize { key, .. }) => format!("oversize {key}"),
        Some(Out::Delta(delta)) => {
            assert_eq!(delta.subscription, 3);
            let name = |key: &Option<proto::Key>| key.clone().map(|key| key.name).unwrap_or_default();
            let mut words = vec![delta.nonce.to_string()];
            for upsert in &delta.upserts {
                words.push(format!("+{}@{}", name(&upsert.key), upsert.version));
            }
            for tombstone in &delta.tombstones {
                words.push(format!("-{}", name(&tombstone.key)));
            }
            words.join(" ")
        }
    }
}

fn failure(name: &str) -> proto::Failure {
    proto::Failure { key: Some(key_to_wire(&key(name))), reason: "no room".to_owned() }
}

#[test]
fn only_the_difference_is_sent_then_in_sync_once() {
    let mut view = Map::of(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut publisher = publisher(&[("a", "1"), ("b", "1"), ("gone", "7")]);
    assert_eq!(show(publisher.poll(&mut view)), "none", "nothing is sent before the list of held objects ends");
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +b@2 +c@3 -gone");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    assert_eq!(show(publisher.poll(&mut view)), "none");
    assert_eq!(publisher.held_version(&key("b")), Some(&Version::new("1")), "not before the acknowledgement");
    assert_eq!(publisher.ack(1).unwrap().len(), 3);
    assert_eq!(publisher.held_version(&key("b")), Some(&Version::new("2")));
    assert_eq!(publisher.held_version(&key("gone")), None);
    assert_eq!((publisher.dirty_len(), publisher.in_flight_len(), publisher.held_len()), (0, 0, 3));
    publisher.changed(key("a"));
    assert_eq!(show(publisher.poll(&mut view)), "none", "a change that changes nothing is not sent");
}

#[test]
fn an_object_that_changes_in_flight_is_sent_once_more() {
    let mut view = Map::of(&[("a", "0")]);
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@0");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    for version in 1..=10 {
        view.set("a", &version.to_string());
        publisher.changed(key("a"));
        assert_eq!(show(publisher.poll(&mut view)), "none", "one delta in flight for a key");
    }
    publisher.ack(1).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "2 +a@10");
    publisher.ack(2).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "none");
}

#[test]
fn created_and_deleted_in_flight_ends_with_a_tombstone() {
    let mut view = Map::of(&[("a", "1")]);
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1");
    view.objects.clear();
    publisher.changed(key("a"));
    publisher.ack(1).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "2 -a");
    publisher.changed(key("a"));
    publisher.ack(2).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    assert_eq!(show(publisher.poll(&mut view)), "none", "what is not held needs no tombstone");
}

#[test]
fn silence_deletes_nothing_and_holds_in_sync_back() {
    let mut view = Map { blind: true, ..Map::default() };
    let mut publisher = publisher(&[("a", "1"), ("b", "1")]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "none", "an empty list that is not sure");
    assert_eq!(publisher.dirty_len(), 2);
    let lookups = view.lookups;
    assert_eq!(show(publisher.poll(&mut view)), "none");
    assert_eq!(view.lookups, lookups, "a parked key is not asked for again and again");
    view.set("a", "2");
    publisher.changed(key("a"));
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@2");
    publisher.recheck();
    assert_eq!(show(publisher.poll(&mut view)), "none");
    view.blind = false;
    publisher.recheck();
    assert_eq!(show(publisher.poll(&mut view)), "2 -b");
    assert_eq!(show(publisher.poll(&mut view)), "none", "the view does not say that it is complete");
    view.complete = true;
    assert_eq!(show(publisher.poll(&mut view)), "none", "keys in flight are compared again first");
    publisher.ack(1).unwrap();
    publisher.ack(2).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
}

#[test]
fn a_view_that_fills_late_is_read_again_before_in_sync() {
    let mut view = Map { blind: true, ..Map::default() };
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "none");
    view.set("a", "1");
    view.complete = true;
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1", "nobody called changed()");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
}

#[test]
fn in_sync_waits_for_one_key_that_is_unknown() {
    let mut view = Map::of(&[("a", "1")]);
    view.unknown.insert(key("b"));
    let mut publisher = publisher(&[("b", "1")]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1");
    assert_eq!(show(publisher.poll(&mut view)), "none");
    view.unknown.clear();
    publisher.changed(key("b"));
    assert_eq!(show(publisher.poll(&mut view)), "2 -b");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3", "sent in order, the acknowledgement may follow");
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let limits = PublishLimits { window_deltas: 2, max_delta_objects: 1, ..PublishLimits::default() };
    let mut view = Map::of(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let mut publisher = limited(&[], limits);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1");
    assert_eq!(show(publisher.poll(&mut view)), "2 +b@1");
    assert_eq!(show(publisher.poll(&mut view)), "none");
    assert_eq!(publisher.in_flight_len(), 2);
    publisher.ack(2).unwrap();
    assert_eq!(show(publisher.poll(&mut view)), "3 +c@1");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3", "the mark needs no room in the window");
    publisher.ack(1).unwrap();
    publisher.ack(3).unwrap();
    assert_eq!(publisher.held_len(), 3);
}

/// The control: without a window a peer that acknowledges nothing is sent everything.
#[test]
fn control_without_a_window_a_silent_peer_is_sent_everything() {
    let names: Vec<String> = (0..1000).map(|n| format!("o{n}")).collect();
    let objects: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let sent = |window_deltas| {
        let limits = PublishLimits { window_deltas, max_delta_objects: 1, ..PublishLimits::default() };
        let (mut publisher, mut view) = (limited(&[], limits), Map::of(&objects));
        publisher.start(&mut view);
        std::iter::from_fn(|| publisher.poll(&mut view)).filter(|out| matches!(out, Out::Delta(_))).count()
    };
    assert_eq!(
        (sent(PublishLimits::default().window_deltas), sent(usize::MAX)),
        (PublishLimits::default().window_deltas, 1000)
    );
}

#[test]
fn deltas_are_packed_by_bytes() {
    let mut view = Map::of(&[]);
    for name in ["a", "b", "c", "d"] {
        view.objects.insert(key(name), (Version::new("1"), Bytes::from(vec![b'x'; 1000])));
    }
    view.objects.insert(key("e"), (Version::new("1"), Bytes::from(vec![b'x'; 50_000])));
    let limits = PublishLimits { max_delta_bytes: 2500, ..PublishLimits::default() };
    let mut publisher = limited(&[], limits);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1 +b@1");
    assert_eq!(show(publisher.poll(&mut view)), "2 +c@1 +d@1");
    assert_eq!(show(publisher.poll(&mut view)), "3 +e@1", "a large object goes alone");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
}

#[test]
fn an_object_that_is_too_large_is_told_once_and_the_rest_goes_on() {
    let mut view = Map::of(&[("a", "1"), ("c", "1")]);
    view.objects.insert(key("b"), (Version::new("1"), Bytes::from(vec![b'x'; MAX_OBJECT_BYTES + 1])));
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1");
    assert_eq!(show(publisher.poll(&mut view)), "oversize default/b");
    assert_eq!(show(publisher.poll(&mut view)), "2 +c@1");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    publisher.changed(key("b"));
    assert_eq!(show(publisher.poll(&mut view)), "none");
    view.set("b", "2");
    publisher.changed(key("b"));
    assert_eq!(show(publisher.poll(&mut view)), "3 +b@2");
    for nonce in 1..=3 {
        publisher.ack(nonce).unwrap();
    }
    assert_eq!(publisher.refused_len(), 0);
}

#[test]
fn a_refused_version_waits_for_a_change() {
    let mut view = Map::of(&[("a", "1"), ("b", "1")]);
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1 +b@1");
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    let failed = publisher.nack(1, vec![failure("a")]).unwrap();
    assert_eq!(failed, vec![(key("a"), "no room".to_owned())]);
    assert_eq!(publisher.held_version(&key("a")), None);
    assert_eq!(publisher.held_version(&key("b")), Some(&Version::new("1")), "the rest is durable");
    publisher.changed(key("a"));
    publisher.recheck();
    assert_eq!(show(publisher.poll(&mut view)), "none");
    view.set("a", "2");
    publisher.changed(key("a"));
    assert_eq!(show(publisher.poll(&mut view)), "2 +a@2");
    publisher.nack(2, vec![failure("a")]).unwrap();
    publisher.retry_refused();
    assert_eq!(show(publisher.poll(&mut view)), "3 +a@2");
    publisher.ack(3).unwrap();
    assert_eq!(publisher.refused_len(), 0);
}

#[test]
fn what_was_refused_and_then_vanished_gets_a_tombstone_to_be_sure() {
    let mut view = Map::of(&[("a", "1")]);
    let mut publisher = publisher(&[]);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1");
    publisher.nack(1, vec![failure("a")]).unwrap();
    view.objects.clear();
    publisher.changed(key("a"));
    assert_eq!(show(publisher.poll(&mut view)), "2 -a");
    publisher.nack(2, vec![failure("a")]).unwrap();
    publisher.changed(key("a"));
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    assert_eq!(show(publisher.poll(&mut view)), "none");
    publisher.recheck();
    assert_eq!(show(publisher.poll(&mut view)), "3 -a", "a refused tombstone is never given up");
    publisher.ack(3).unwrap();
    publisher.recheck();
    assert_eq!(show(publisher.poll(&mut view)), "none");
    assert_eq!((publisher.dirty_len(), publisher.refused_len(), publisher.held_len()), (0, 0, 0));
}

#[test]
fn protocol_errors() {
    let mut view = Map::of(&[("a", "1")]);
    let mut publisher = publisher(&[]);
    let held = |name: &str, version: &str| proto::HeldObject {
        key: Some(key_to_wire(&key(name))),
        version: version.to_owned(),
    };
    assert_eq!(publisher.hold_wire(&[held("..", "1")]).unwrap_err().code(), "invalid");
    assert_eq!(publisher.hold_wire(&[held("a", "")]).unwrap_err().code(), "missing");
    assert_eq!(publisher.hold_wire(&[proto::HeldObject::default()]).unwrap_err().code(), "missing");
    assert_eq!(publisher.hold_wire(&vec![held("a", "1"); MAX_HELD_OBJECTS + 1]).unwrap_err().code(), "too_large");
    publisher.hold_wire(&[held("b", "1")]).unwrap();
    assert_eq!(publisher.ack(1).unwrap_err().code(), "unknown_nonce");
    publisher.start(&mut view);
    assert_eq!(publisher.hold_wire(&[held("c", "1")]).unwrap_err().code(), "out_of_order");
    assert_eq!(show(publisher.poll(&mut view)), "1 +a@1 -b");
    for (nonce, failures, code) in [
        (0, vec![], "unknown_nonce"),
        (2, vec![], "unknown_nonce"),
        (1, vec![failure("c")], "foreign_failure"),
        (1, vec![failure("a"), failure("..")], "invalid"),
        (1, vec![proto::Failure::default()], "missing"),
    ] {
        assert_eq!(publisher.nack(nonce, failures).unwrap_err().code(), code);
        assert_eq!(publisher.in_flight_len(), 1, "a wrong answer changes nothing");
    }
    publisher.ack(1).unwrap();
    assert_eq!(publisher.ack(1).unwrap_err().code(), "unknown_nonce");
    assert_eq!(publisher.nack(1, vec![]).unwrap_err().code(), "unknown_nonce");
}

#[test]
fn a_hot_key_starves_nobody() {
    let limits = PublishLimits { window_deltas: 1, max_delta_objects: 1, ..PublishLimits::default() };
    let mut view = Map::of(&[("a", "0"), ("m", "0"), ("z", "0")]);
    let mut publisher = limited(&[], limits);
    publisher.start(&mut view);
    let mut sent = Vec::new();
    for round in 1..=4 {
        view.set("a", &round.to_string());
        publisher.changed(key("a"));
        let Some(Out::Delta(delta)) = publisher.poll(&mut view) else { panic!("nothing to send") };
        sent.extend(delta.upserts.iter().filter_map(|upsert| upsert.key.clone()).map(|key| key.name));
        publisher.changed(key("a"));
        publisher.ack(delta.nonce).unwrap();
    }
    assert_eq!(sent, ["a", "m", "z", "a"]);
}

#[test]
fn many_quiet_keys_cost_nothing_but_what_is_held() {
    let mut view = Map { complete: true, ..Map::default() };
    let mut publisher = publisher(&[]);
    for at in 0..20_000 {
        let name = format!("service-{at}");
        view.set(&name, "1");
        publisher.hold(key(&name), Version::new("1"));
    }
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    assert_eq!(publisher.marks.len(), 0);
    assert!(publisher.queue.capacity() <= KEEP_QUEUE);
    let (shared, version) = publisher.held.iter().next().unwrap();
    let (cached, (cached_version, _)) = view.objects.iter().next().unwrap();
    assert!(std::sync::Arc::ptr_eq(&shared.name, &cached.name), "keys share the cache's memory");
    assert!(std::ptr::eq(version.as_str(), cached_version.as_str()), "versions too");
    assert!(size_of::<Publisher>() <= 320, "{}", size_of::<Publisher>());
}

#[test]
fn rescan_after_the_selection_changed() {
    let mut view = Map::of(&[("a", "1"), ("b", "1")]);
    let mut publisher = publisher(&[("a", "1"), ("b", "1")]);
    publisher.rescan(&mut view);
    publisher.start(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "in_sync 3");
    view.objects.remove(&key("a"));
    view.set("c", "1");
    publisher.rescan(&mut view);
    assert_eq!(show(publisher.poll(&mut view)), "1 +c@1 -a");
    assert_eq!(show(publisher.poll(&mut view)), "none", "InSync is said once");
}
