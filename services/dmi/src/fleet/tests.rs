//! The fleet without IO: who has which device, what is due when, what comes back from disk.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use skerry_common::{Key, kinds};

use super::{Api, Caller, Fleet, Introduction, LEASE_MS, Limits, MapperId, Pace, Reading, SETTLE_MS, Settings, State};
use crate::twin::{Now, Quality};

pub(super) fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Settings {
        limits: Limits { values_per_second: 1000, calls_per_second: 100 },
        pace: Pace { values_ms: 10_000, refresh_ms: 60_000 },
        offline_ms: 300_000,
    });
    fleet.set_connected(true);
    fleet.upsert_model(&Key::new("a", "m"), &body(&model())).unwrap();
    fleet.set_in_sync(kinds::DEVICE_MODEL, at(0));
    fleet.set_in_sync(kinds::DEVICE, at(0));
    fleet
}

pub(super) fn at(mono: u64) -> Now {
    Now { mono, wall: 1_700_000_000_000 + i64::try_from(mono).unwrap() }
}

pub(super) fn body(value: &Value) -> Bytes {
    value.to_string().into()
}

fn model() -> Value {
    json!({ "metadata": { "name": "m", "namespace": "a" }, "spec": { "properties": [
        { "name": "t", "type": "DOUBLE", "accessMode": "ReadOnly" },
        { "name": "s", "type": "INT", "accessMode": "ReadWrite" },
    ] } })
}

pub(super) fn device(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "a", "uid": format!("u-{name}"), "generation": 1 }, "spec": {
        "deviceModelRef": { "name": "m" },
        "protocol": { "protocolName": "modbus", "configData": { "unit": 1 } },
        "properties": [{ "name": "t", "reportToCloud": true }, { "name": "s", "desired": { "value": "1" } }],
    } })
}

pub(super) fn put(fleet: &mut Fleet, name: &str) -> Key {
    let key = Key::new("a", name);
    fleet.upsert_device(&key, &body(&device(name))).unwrap();
    key
}

pub(super) fn id(name: &str) -> MapperId {
    MapperId::checked("modbus", name).unwrap()
}

pub(super) fn connect(fleet: &mut Fleet, name: &str, api: Api, now: Now) -> u64 {
    let introduction = Introduction {
        id: id(name),
        api,
        version: String::new(),
        namespaces: BTreeSet::new(),
        caller: Caller { uid: 0, pid: Some(1), container: String::new() },
    };
    fleet.connect(introduction, now).unwrap().0
}

pub(super) fn serve(fleet: &mut Fleet, mapper: &str, key: &Key) {
    let version = fleet.devices[key].spec.version.clone();
    fleet.applied(&id(mapper), key, &version, None);
}

pub(super) fn reading(value: &str) -> Reading {
    Reading {
        property: "t".into(),
        value: Some(value.into()),
        quality: Quality::Good,
        source_ms: 0,
        problem: String::new(),
        outcome: None,
        mapper_decides: false,
    }
}

pub(super) fn condition(fleet: &Fleet, key: &Key, r#type: &str) -> (String, String) {
    let found = skerry_k8s_types::condition(&fleet.devices[key].conditions, r#type).unwrap();
    (found.status.clone(), found.reason.clone())
}

#[test]
fn a_device_stays_with_its_mapper_and_moves_when_the_lease_is_over() {
    let mut fleet = fleet();
    let keys: Vec<Key> = (0..6).map(|n| put(&mut fleet, &format!("d{n}"))).collect();
    let first = connect(&mut fleet, "m1", Api::V1, at(0));
    assert_eq!(fleet.devices_of(&id("m1")).len(), 6);
    // A second one takes nothing away, and gets what comes new.
    connect(&mut fleet, "m2", Api::V1, at(0));
    assert_eq!(fleet.devices_of(&id("m2")).len(), 0);
    let new = put(&mut fleet, "d6");
    assert_eq!(fleet.devices[&new].mapper, Some(id("m2")));
    // A short absence moves nothing.
    fleet.away(&id("m1"), first, "gone", at(1000));
    fleet.tick(at(1000 + LEASE_MS - 1));
    assert_eq!(fleet.devices_of(&id("m1")).len(), 6);
    let second = connect(&mut fleet, "m1", Api::V1, at(4000));
    // The end of the old connection says nothing about the new one.
    fleet.away(&id("m1"), first, "gone", at(4000));
    fleet.tick(at(20_000));
    assert_eq!(fleet.devices_of(&id("m1")).len(), 6);
    fleet.away(&id("m1"), second, "gone", at(20_000));
    fleet.tick(at(20_000 + LEASE_MS));
    assert_eq!(fleet.devices_of(&id("m2")).len(), 7);
    assert_eq!(fleet.devices[&keys[0]].mapper, Some(id("m2")));
    assert_eq!(fleet.show_mappers().len(), 1);
}

#[test]
fn a_mapper_is_heard_about_its_own_devices_only() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    connect(&mut fleet, "m1", Api::V1, at(0));
    connect(&mut fleet, "m2", Api::V1, at(0));
    assert!(fleet.report(&id("m2"), &key, vec![reading("1")], at(1)).unwrap_err().contains("another mapper"));
    assert!(fleet.report_state(&id("m2"), &key, State::Online, "online", "", at(1)).is_err());
    let none = Key::new("a", "none");
    assert!(fleet.report(&id("m1"), &none, vec![reading("1")], at(1)).unwrap_err().contains("not on this node"));
    let unknown = Reading { property: "x".into(), ..reading("1") };
    let long = reading(&"1".repeat(5000));
    let refused = fleet.report(&id("m1"), &key, vec![unknown, reading("2"), long], at(1)).unwrap();
    assert_eq!(refused.iter().map(|(property, _)| property.as_str()).collect::<Vec<_>>(), ["x", "t"]);
    assert_eq!(fleet.show(&key, at(1)).unwrap().twins[1].reported.as_ref().unwrap().0, "2");
    assert_eq!(fleet.mapper(&id("m1")).map(|m| (m.values, m.refused)), Some((1, 3)));
}

#[test]
fn statuses_are_told_at_their_pace() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    connect(&mut fleet, "m", Api::V1, at(0));
    let start = SETTLE_MS;
    let due = |fleet: &mut Fleet, mono: u64| {
        fleet.look(10, at(mono));
        fleet.take_statuses(at(mono), 10).len()
    };
    fleet.tick(at(start));
    assert_eq!(due(&mut fleet, start), 1);
    assert_eq!(due(&mut fleet, start + 1), 0);
    serve(&mut fleet, "m", &key);
    // A first value goes at once, but for the gap of what flaps.
    fleet.report(&id("m"), &key, vec![reading("1")], at(start + 2000)).unwrap();
    assert_eq!(due(&mut fleet, start + 2000), 1);
    // Others wait for their turn, and only the newest goes.
    for n in 0..50 {
        fleet.report(&id("m"), &key, vec![reading(&n.to_string())], at(start + 2100 + n)).unwrap();
        assert_eq!(due(&mut fleet, start + 2100 + n), 0);
    }
    assert_eq!(due(&mut fleet, start + 11_999), 0);
    fleet.report(&id("m"), &key, vec![reading("49")], at(start + 12_000)).unwrap();
    assert_eq!(due(&mut fleet, start + 12_000), 1);
    // Values that are only confirmed.
    for second in 13..71 {
        fleet.report(&id("m"), &key, vec![reading("49")], at(start + second * 1000)).unwrap();
        assert_eq!(due(&mut fleet, start + second * 1000), 0, "{second}");
    }
    assert_eq!(due(&mut fleet, start + 72_000), 1);
    // A state goes at once; a device that flaps goes once a second.
    let mut sent = 0;
    for n in 0..40_u64 {
        let now = start + 80_000 + n * 100;
        let state = if n % 2 == 0 { State::Offline } else { State::Online };
        fleet.report_state(&id("m"), &key, state, state.as_str(), "", at(now)).unwrap();
        sent += due(&mut fleet, now);
    }
    assert_eq!(sent, 4);
    // While the cloud is away values wait longer: they only replace each other on the disk.
    fleet.set_connected(false);
    fleet.take_statuses(at(start + 90_000), 10);
    fleet.report(&id("m"), &key, vec![reading("7")], at(start + 95_000)).unwrap();
    fleet.look(10, at(start + 95_000));
    fleet.take_statuses(at(start + 95_000), 10);
    fleet.report(&id("m"), &key, vec![reading("8")], at(start + 99_000)).unwrap();
    assert_eq!(due(&mut fleet, start + 110_000), 0);
}

#[test]
fn conditions_say_what_is_wrong() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    let now = at(SETTLE_MS);
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Ready"), ("False".into(), "MapperNotConnected".into()));
    assert_eq!(condition(&fleet, &key, "Online").0, "Unknown");
    assert_eq!(condition(&fleet, &key, "Synced"), ("Unknown".into(), "MapperNotConnected".into()));
    fleet.delete_model(&Key::new("a", "m"));
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Ready").1, "ModelNotFound");
    fleet.upsert_model(&Key::new("a", "m"), &body(&model())).unwrap();
    let epoch = connect(&mut fleet, "m", Api::V1, now);
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Ready").1, "MapperPending");
    assert_eq!(condition(&fleet, &key, "Synced").1, "DesiredPending");
    let version = fleet.devices[&key].spec.version.clone();
    fleet.applied(&id("m"), &key, &version, Some("no such\nport"));
    fleet.tick(now);
    let message = &skerry_k8s_types::condition(&fleet.devices[&key].conditions, "Ready").unwrap().message;
    assert!(message.ends_with("no such port"), "{message}");
    serve(&mut fleet, "m", &key);
    fleet.report(&id("m"), &key, vec![reading("1")], now).unwrap();
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Ready").0, "True");
    assert_eq!(condition(&fleet, &key, "Online"), ("True".into(), "ValuesReported".into()));
    let desired = fleet.devices[&key].twins["s"].state.version().unwrap();
    let outcome = |refused| super::Outcome { version: desired.clone(), refused };
    let of = |refused, problem: &str| Reading {
        property: "s".into(),
        value: None,
        outcome: Some(outcome(refused)),
        problem: problem.into(),
        ..reading("")
    };
    fleet.report(&id("m"), &key, vec![of(true, "illegal data value")], now).unwrap();
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Synced").1, "DesiredRefused");
    fleet.report(&id("m"), &key, vec![of(false, "")], now).unwrap();
    fleet.report_state(&id("m"), &key, State::Offline, "offline", "no answer", now).unwrap();
    fleet.tick(now);
    assert_eq!(condition(&fleet, &key, "Synced"), ("True".into(), "AllSynced".into()));
    assert_eq!(condition(&fleet, &key, "Online"), ("False".into(), "DeviceOffline".into()));
    // The mapper goes: nobody knows, and the last value is not shown as fresh.
    let later = at(SETTLE_MS + 100_000);
    fleet.away(&id("m"), epoch, "killed", later);
    fleet.tick(at(SETTLE_MS + 100_000 + LEASE_MS));
    assert_eq!(condition(&fleet, &key, "Online").0, "Unknown");
    let shown = fleet.show(&key, later).unwrap();
    assert_eq!(shown.state, Some(State::Unknown));
    assert_eq!(shown.twins[1].reported.as_ref().unwrap().1, Quality::Uncertain);
}

#[test]
fn nothing_is_concluded_from_what_was_not_told_yet() {
    let mut fleet = Fleet::new(fleet().settings);
    let key = put(&mut fleet, "d");
    fleet.tick(at(SETTLE_MS));
    assert!(fleet.take_statuses(at(SETTLE_MS), 10).is_empty());
    assert!(!fleet.in_sync());
    fleet.load(BTreeMap::from([(Key::new("a", "gone"), super::SavedTwins::default())]), BTreeMap::new());
    assert!(fleet.take_orphans().is_empty());
    fleet.set_in_sync(kinds::DEVICE_MODEL, at(SETTLE_MS));
    fleet.set_in_sync(kinds::DEVICE, at(SETTLE_MS));
    assert_eq!(fleet.take_orphans(), [Key::new("a", "gone")]);
    assert_eq!(fleet.take_statuses(at(SETTLE_MS), 10)[0].0, key);
}

#[test]
fn what_was_saved_comes_back_for_the_same_device_only() {
    let mut before = fleet();
    let key = put(&mut before, "d");
    connect(&mut before, "m", Api::V1, at(0));
    before.report(&id("m"), &key, vec![reading("7")], at(1)).unwrap();
    before.report_state(&id("m"), &key, State::Online, "ok", "", at(1)).unwrap();
    let (uid, overlay) = before.plan(&key, "s", "5", "id").unwrap();
    before.desire(&key, &uid, "s", overlay.clone()).unwrap();
    let saved: BTreeMap<_, _> = before.take_unsaved(10).into_iter().collect();
    assert!(before.take_unsaved(10).is_empty());
    let overlays = |uid: &str| {
        let saved = super::SavedOverlay::new(uid, "s", &overlay);
        BTreeMap::from([(key.clone(), vec![saved])])
    };
    let mut after = Fleet::new(before.settings);
    after.load(saved.clone(), overlays(&uid));
    put(&mut after, "d");
    let shown = after.show(&key, at(0)).unwrap();
    let reported = shown.twins[1].reported.clone().unwrap();
    assert_eq!((reported.0.as_str(), reported.1), ("7", Quality::Uncertain));
    assert_eq!(shown.twins[0].desired, Some(("5".into(), true)));
    assert_eq!(shown.state, Some(State::Online));
    // Another device of the same name has none of it.
    let mut other = Fleet::new(before.settings);
    other.load(saved, overlays(&uid));
    let mut new = device("d");
    new["metadata"]["uid"] = "u-other".into();
    other.upsert_device(&key, &body(&new)).unwrap();
    let shown = other.show(&key, at(0)).unwrap();
    assert!(shown.twins[1].reported.is_none() && shown.twins[0].desired == Some(("1".into(), false)));
    assert_eq!(other.take_forgotten().len(), 1);
}

#[test]
fn objects_that_cannot_be_used_are_refused_and_limits_hold() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    let mut twice = device("d");
    twice["spec"]["properties"][1]["name"] = "t".into();
    let many: Vec<Value> = (0..2001).map(|n| json!({ "name": format!("p{n}") })).collect();
    let mut large = device("d");
    large["spec"]["properties"] = many.into();
    for (wrong, words) in [(twice, "twice"), (large, "2000"), (json!([1]), "not a Device")] {
        assert!(fleet.upsert_device(&key, &body(&wrong)).unwrap_err().contains(words));
    }
    assert!(fleet.upsert_model(&Key::new("a", "m"), &body(&json!({ "spec": 1 }))).is_err());
    assert_eq!(fleet.devices[&key].twins.len(), 2);
    for n in 0..super::mapper::MAX_MAPPERS {
        connect(&mut fleet, &format!("m{n}"), Api::V1, at(0));
    }
    let one_more = Introduction {
        id: id("more"),
        api: Api::V1,
        version: String::new(),
        namespaces: BTreeSet::new(),
        caller: Caller::default(),
    };
    assert!(fleet.connect(one_more, at(0)).is_err());
}
