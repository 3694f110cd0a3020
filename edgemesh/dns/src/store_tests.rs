//! What is kept of which outcome.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::lifetime::Lifetime;
use crate::packet::Packet;
use crate::query::Name;
use crate::zone;

const KEY: &[u8] = b"key";

fn store() -> Store {
    Store::new(&Config { stale_seconds: 1000, ..Config::default() }, Metrics::default())
}

fn outcome(end: End, code: u16) -> Outcome {
    let mut message = zone::message(&Name::from_text("www.example").unwrap(), 1).unwrap();
    message.metadata.response_code = code.into();
    Outcome { packet: Arc::new(Packet::new(message).unwrap()), end }
}

fn answer(positive: bool, seconds: u64) -> Outcome {
    let code = if positive { NO_ERROR } else { NX_DOMAIN };
    outcome(End::Answer(Lifetime { positive, ttl: Duration::from_secs(seconds) }), code)
}

fn failure() -> Outcome {
    outcome(End::Unreachable, 2)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_failure_is_kept_for_a_moment_only() {
    let (store, start) = (store(), Instant::now());
    store.keep(KEY, &failure(), start);
    assert!(matches!(store.get(KEY, start), Known::Fresh(hit) if hit.packet.code() == 2));
    assert!(matches!(store.get(KEY, start + lifetime::FAILURE), Known::Nothing), "not a second longer");
}

#[test]
fn what_is_stale_stands_in_for_a_failure_and_is_asked_for_again_later() {
    let (store, start) = (store(), Instant::now());
    store.keep(KEY, &answer(true, 10), start);
    let late = start + seconds(20);
    assert!(matches!(store.get(KEY, late), Known::Stale { just_failed: false, .. }), "worth asking");
    store.keep(KEY, &failure(), late);
    assert!(matches!(store.get(KEY, late), Known::Stale { just_failed: true, .. }));
    let again = late + lifetime::FAILURE_WITH_STALE;
    assert!(matches!(store.get(KEY, again), Known::Stale { just_failed: false, .. }), "worth asking again");
    store.keep(KEY, &answer(true, 10), again);
    assert!(matches!(store.get(KEY, again), Known::Fresh(hit) if hit.packet.code() == NO_ERROR));
}

#[test]
fn an_answer_replaces_the_other_kind() {
    let (store, start) = (store(), Instant::now());
    store.keep(KEY, &answer(true, 10), start);
    store.keep(KEY, &answer(false, 10), start);
    assert!(matches!(store.get(KEY, start), Known::Fresh(hit) if hit.packet.code() == NX_DOMAIN));
    store.keep(KEY, &answer(true, 10), start);
    assert!(matches!(store.get(KEY, start), Known::Fresh(hit) if hit.packet.code() == NO_ERROR));
    // One that may not be kept takes away what was there all the same.
    store.keep(KEY, &answer(true, 0), start);
    assert!(matches!(store.get(KEY, start), Known::Nothing));
}

#[test]
fn that_there_is_nothing_can_be_stale_too() {
    let (store, start) = (store(), Instant::now());
    store.keep(KEY, &answer(false, 10), start);
    let late = start + seconds(20);
    store.keep(KEY, &failure(), late);
    assert!(matches!(store.get(KEY, late), Known::Stale { why: Explanation::STALE_NX, .. }));
    assert!(matches!(store.get(KEY, start + seconds(1010)), Known::Nothing));
}

#[test]
fn names_that_do_not_exist_push_out_none_that_do() {
    let store = Store::new(&Config { cache_entries: 10, ..Config::default() }, Metrics::default());
    let now = Instant::now();
    store.keep(KEY, &answer(true, 100), now);
    for number in 0..1000u32 {
        store.keep(&number.to_be_bytes(), &answer(false, 100), now);
    }
    assert!(matches!(store.get(KEY, now), Known::Fresh(_)));
    assert!(store.metrics.cache_entries.get() <= 10);
}
