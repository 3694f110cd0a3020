//! The cache's bounds and times.
#![allow(clippy::unwrap_used)]

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

const STALE: Duration = Duration::from_secs(1000);

fn cache(entries: usize, bytes: usize) -> Cache {
    Cache::new(Limits { entries, bytes, stale: STALE })
}

fn packet(bytes: usize) -> Arc<Packet> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_query(hickory_proto::op::Query::query(Name::root(), RecordType::TXT));
    let text = vec!["x".repeat(255); bytes / 255];
    message.add_answer(Record::from_rdata(Name::root(), 1, RData::TXT(TXT::new(text))));
    Arc::new(Packet::new(message).unwrap())
}

#[test]
fn an_answer_is_fresh_then_stale_then_gone() {
    let cache = cache(10, 1 << 20);
    let start = Instant::now();
    let ttl = Duration::from_secs(100);
    cache.put(b"a", packet(255), ttl, 0, start);
    let at = |seconds| cache.get(b"a", 0, start + Duration::from_secs(seconds)).map(|hit| (hit.age, hit.ending));
    assert_eq!(at(0), Some((Age::Seconds(0), false)));
    assert_eq!(at(89), Some((Age::Seconds(89), false)));
    assert_eq!(at(91), Some((Age::Seconds(91), true)), "worth asking again");
    assert_eq!(at(100), Some((Age::Stale, false)));
    assert_eq!(at(1099), Some((Age::Stale, false)));
    assert_eq!(at(1100), None);
}

#[test]
fn what_may_not_be_kept_is_not() {
    let cache = cache(10, 1 << 20);
    let now = Instant::now();
    cache.put(b"a", packet(255), Duration::ZERO, 0, now);
    assert!(cache.get(b"a", 0, now).is_none());
    assert_eq!(cache.size(), (0, 0));
}

#[test]
fn entries_are_bounded_and_the_least_used_goes() {
    let cache = cache(3, 1 << 20);
    let (now, ttl) = (Instant::now(), Duration::from_secs(10));
    for key in [b"a", b"b", b"c"] {
        cache.put(key, packet(255), ttl, 0, now);
    }
    assert!(cache.get(b"a", 0, now).is_some(), "used");
    cache.put(b"d", packet(255), ttl, 0, now);
    assert_eq!(cache.size().0, 3);
    assert!(cache.get(b"a", 0, now).is_some() && cache.get(b"b", 0, now).is_none());
}

#[test]
fn bytes_are_bounded_and_counted_right() {
    let one = packet(2550);
    let limit = (one.bytes() + ENTRY_BYTES + 1) * 3;
    let cache = cache(1000, limit);
    let (now, ttl) = (Instant::now(), Duration::from_secs(10));
    for key in 0..100u8 {
        cache.put(&[key], one.clone(), ttl, 0, now);
        cache.put(&[key], one.clone(), ttl, 0, now);
        assert!(cache.size().1 <= limit);
    }
    assert_eq!(cache.size(), (3, limit));
    cache.put(b"x", packet(60_000), ttl, 0, now);
    assert!(cache.get(b"x", 0, now).is_none(), "one that is larger than all is not kept, and pushes nothing out");
    assert_eq!(cache.size().0, 3);
    (0..100u8).for_each(|key| cache.remove(&[key]));
    assert_eq!(cache.size(), (0, 0));
}

#[test]
fn a_new_generation_begins_anew() {
    let cache = cache(10, 1 << 20);
    let (now, ttl) = (Instant::now(), Duration::from_secs(10));
    cache.put(b"a", packet(255), ttl, 1, now);
    assert!(cache.get(b"a", 1, now).is_some());
    assert!(cache.get(b"a", 2, now).is_none(), "of before");
    cache.put(b"b", packet(255), ttl, 2, now);
    assert_eq!(cache.size().0, 1);
    cache.put(b"a", packet(255), ttl, 1, now);
    assert!(cache.get(b"a", 2, now).is_none(), "who was slow does not bring back what was");
    assert!(cache.get(b"b", 2, now).is_some());
}
