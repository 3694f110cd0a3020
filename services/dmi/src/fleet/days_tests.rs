//! Long and strange days of the fleet: a week without the cloud, clocks that jump, objects that are none.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use skerry_common::{Key, kinds};

use super::tests::{at, body, condition, connect, device, fleet, id, put, reading, serve};
use super::{Api, Fleet, LEASE_MS, SETTLE_MS, State};
use crate::twin::{MAX_EARLIER, Now, Quality};

const HOUR: u64 = 3_600_000;
const WEEK: u64 = 7 * 24 * HOUR;

/// What the fleet keeps, by number.
fn kept(fleet: &Fleet) -> [usize; 7] {
    let twins = fleet.devices.values().map(|device| device.twins.len()).sum();
    let waiting = fleet.mappers.values().map(|mapper| mapper.dirty.len()).sum();
    [fleet.devices.len(), twins, fleet.mappers.len(), waiting, fleet.tell.len(), fleet.forget.len(), fleet.look.len()]
}

#[test]
fn a_week_without_the_cloud_costs_nothing_that_grows() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    connect(&mut fleet, "m", Api::V1, at(0));
    serve(&mut fleet, "m", &key);
    fleet.set_connected(false);
    let (mut statuses, mut rows, mut after_a_day) = (0, 0, None);
    // A value, a state and a desired value each minute; the mapper is restarted each hour.
    for minute in 0..WEEK / 60_000 {
        let now = at(SETTLE_MS + minute * 60_000);
        if minute % 60 == 59 {
            connect(&mut fleet, "m", Api::V1, now);
            while fleet.next_dirty(&id("m"), fleet.epochs).is_some() {}
            serve(&mut fleet, "m", &key);
        }
        fleet.report(&id("m"), &key, vec![reading(&minute.to_string())], now).unwrap();
        fleet.report_state(&id("m"), &key, State::Online, "online", "", now).unwrap();
        let (uid, overlay) = fleet.plan(&key, "s", &minute.to_string(), &minute.to_string()).unwrap();
        fleet.desire(&key, &uid, "s", overlay).unwrap();
        while fleet.next_dirty(&id("m"), fleet.epochs).is_some() {}
        fleet.tick(now);
        statuses += fleet.take_statuses(now, 10).len();
        assert!(fleet.take_desired().len() <= 1);
        fleet.take_forgotten();
        // As often as the checkpoint.
        if minute % 5 == 0 {
            rows += fleet.take_unsaved(10).len();
        }
        if minute == 24 * 60 {
            after_a_day = Some(kept(&fleet));
        }
    }
    assert_eq!(Some(kept(&fleet)), after_a_day);
    // Each replaces the one before it, on the disk too: one in five minutes, and one for each restart at most.
    let most = usize::try_from(WEEK / 300_000 + 2 * WEEK / HOUR).unwrap();
    assert!(statuses <= most, "{statuses} statuses, {most} at most");
    assert!(rows <= usize::try_from(WEEK / 300_000).unwrap() + 1, "{rows} rows");
    // What the node wants is remembered, as far as it may still matter.
    let overlay = fleet.devices[&key].twins["s"].state.overlay.clone().unwrap();
    assert!(overlay.earlier.len() <= MAX_EARLIER, "{overlay:?}");
    // The cloud is back: it hears the newest, at once.
    fleet.set_connected(true);
    let now = at(SETTLE_MS + WEEK + 60_000);
    fleet.report(&id("m"), &key, vec![reading("7")], now).unwrap();
    fleet.look(usize::MAX, now);
    let told = fleet.take_statuses(now, 10);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].2["status"]["twins"][1]["reported"]["value"], "7");
}

#[test]
fn clocks_that_jump_change_nothing_but_what_is_shown_of_times() {
    const YEAR: i64 = 365 * 24 * 3_600_000;
    // Nineteen seventy, an hour back, ten years on, and the ends of the number.
    for jump in [-1_700_000_000_000, -3_600_000, 10 * YEAR, i64::MIN / 2, i64::MAX / 2] {
        let mut fleet = fleet();
        let key = put(&mut fleet, "d");
        let epoch = connect(&mut fleet, "m", Api::V1, at(0));
        serve(&mut fleet, "m", &key);
        let now = at(SETTLE_MS);
        fleet.report(&id("m"), &key, vec![reading("1")], now).unwrap();
        fleet.report_state(&id("m"), &key, State::Online, "online", "", now).unwrap();
        fleet.tick(now);
        fleet.take_statuses(now, 10);
        let quality = |fleet: &Fleet, now: Now| fleet.show(&key, now).unwrap().twins[1].reported.as_ref().unwrap().1;
        // The wall clock jumps between two looks; a second has passed.
        let jumped = |mono: u64| Now { wall: at(mono).wall.saturating_add(jump), ..at(mono) };
        let now = jumped(SETTLE_MS + 1_000);
        fleet.tick(now);
        assert_eq!(quality(&fleet, now), Quality::Good, "{jump}: what is fresh stays so");
        assert_eq!(condition(&fleet, &key, "Online").0, "True", "{jump}");
        assert!(fleet.take_statuses(now, 10).is_empty(), "{jump}: nothing has happened");
        // A value that was measured in that time is taken as it is.
        fleet.report(&id("m"), &key, vec![reading("2")], now).unwrap();
        assert_eq!(quality(&fleet, now), Quality::Good, "{jump}");
        assert_eq!(fleet.admit(&id("m"), 1, 1, now.mono * 1000), Ok(()), "{jump}");
        // Leases and ages go by the other clock.
        let late = jumped(SETTLE_MS + 60_000);
        fleet.tick(late);
        assert_eq!(quality(&fleet, late), Quality::Uncertain, "{jump}: what is old does not become fresh");
        fleet.away(&id("m"), epoch, "gone", late);
        fleet.tick(jumped(SETTLE_MS + 60_000 + LEASE_MS - 1));
        assert_eq!(fleet.devices_of(&id("m")).len(), 1, "{jump}");
        fleet.tick(jumped(SETTLE_MS + 60_000 + LEASE_MS));
        assert_eq!(fleet.devices_of(&id("m")).len(), 0, "{jump}");
        assert_eq!(fleet.take_statuses(jumped(SETTLE_MS + 120_000), 10).len(), 1, "{jump}");
    }
}

#[test]
fn objects_that_are_none_are_refused_in_words_and_the_old_ones_stay() {
    let mut fleet = fleet();
    let key = put(&mut fleet, "d");
    let model = Key::new("a", "m");
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let config =
        format!(r#"{{"metadata":{{"uid":"u"}},"spec":{{"protocol":{{"configData":{}}}}}}}"#, deep(r#"{"a":"#, "}"));
    let texts: [&[u8]; 14] = [
        b"",
        b"null",
        b"0",
        b"\"d\"",
        b"[]",
        b"{",
        b"{}{}",
        b"\xff\xfe",
        b"{\"metadata\":{\"uid\":\"\xc3\x28\"}}",
        br#"{"metadata":{"uid":1}}"#,
        br#"{"spec":{"properties":{}}}"#,
        br#"{"spec":{"properties":[{"name":"t","collectCycle":1e99}]}}"#,
        config.as_bytes(),
        br#"{"spec":{"properties":[0]}}"#,
    ];
    for text in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        let refused = fleet.upsert_device(&key, &Bytes::copy_from_slice(text));
        assert!(refused.as_ref().is_err_and(|words| !words.is_empty()), "{shown}: {refused:?}");
    }
    for text in [b"null".as_slice(), b"{", b"\xff", br#"{"spec":{"properties":[{"name":"t","type":"COMPLEX"}]}}"#] {
        assert!(fleet.upsert_model(&model, &Bytes::copy_from_slice(text)).is_err());
    }
    assert_eq!(fleet.devices[&key].twins.len(), 2);
    // The same without a fault is taken.
    fleet.upsert_device(&key, &body(&device("d"))).unwrap();
    // Numbers that cannot be are not used: a cycle of less than nothing, a report at the end of time.
    let mut strange = device("d");
    strange["spec"]["properties"][0]["collectCycle"] = i64::MIN.into();
    strange["spec"]["properties"][0]["reportCycle"] = i64::MAX.into();
    fleet.upsert_device(&key, &body(&strange)).unwrap();
    connect(&mut fleet, "m", Api::V1, at(0));
    let last = super::Reading { source_ms: i64::MAX, ..reading("1") };
    fleet.report(&id("m"), &key, vec![last], at(1)).unwrap();
    fleet.tick(at(SETTLE_MS));
    assert_eq!(fleet.take_statuses(at(SETTLE_MS), 10).len(), 1);
    fleet.set_in_sync(kinds::DEVICE, at(SETTLE_MS));
}
