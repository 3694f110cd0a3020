//! Questions as bytes: what hickory writes is read the same, what is broken is told apart, and nothing else happens.
#![allow(clippy::unwrap_used)]

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(HickoryName::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(true).set_version(version);
    message.set_edns(edns);
    message
}

#[test]
fn a_question_is_read_in_place() {
    let bytes = with_edns(message("WWW.Example.com.", RecordType::AAAA), 4096, 0).to_vec().unwrap();
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(query.name.text(), "www.example.com");
    assert_eq!((query.echo.id, query.kind, query.class), (7, 28, number::IN));
    assert_eq!(query.echo.edns, Some(Edns2 { payload: 4096, dnssec_ok: true }));
    assert!(query.echo.recursion_desired && !query.echo.checking_disabled);
    assert!(query.section.windows(3).any(|bytes| bytes == b"WWW"), "the case is kept for the answer");
}

use super::Edns as Edns2;

#[test]
fn names_end_with_a_domain_at_a_dot() {
    let below = |name: &str, zone: &str| Name::from_text(name).unwrap().is_below(&Name::from_text(zone).unwrap());
    assert!(below("a.cluster.local", "cluster.local"));
    assert!(below("cluster.local", "cluster.local"));
    assert!(below("cluster.local", ""));
    assert!(!below("notcluster.local", "cluster.local"));
    assert!(!below("local", "cluster.local"));
    // The bytes of `\1b` within a label look like a label of its own.
    let inside = Query::parse(&{
        let mut bytes = message("x.", RecordType::A).to_vec().unwrap();
        bytes.splice(12..15, *b"\x03a\x01b\x00");
        bytes
    })
    .unwrap()
    .name;
    assert_eq!(inside.text(), r"a\001b");
    assert!(!inside.is_below(&Name::from_text("b").unwrap()));
}

#[test]
fn what_is_broken_is_told_apart() {
    let good = message("example.com.", RecordType::A).to_vec().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let code = |bytes: &[u8]| match Query::parse(bytes) {
        Err(Malformed::Answer(echo, code)) => {
            assert_eq!(echo.id, 7);
            Some(code)
        }
        Err(Malformed::Ignore) => None,
        Ok(_) => panic!("{bytes:?} is a question"),
    };
    assert_eq!(code(&[]), None);
    assert_eq!(code(&good[..11]), None, "no header");
    assert_eq!(code(&with(2, 0x80)), None, "an answer");
    assert_eq!(code(&with(2, 0x28)), Some(Code::NotImplemented), "an update");
    for wrong in [
        with(5, 0),
        with(5, 2),
        with(7, 1),
        with(9, 1),
        with(11, 1),
        with(12, 0xc0),
        with(12, 64),
        with(12, 63),
        good[..good.len() - 1].to_vec(),
    ] {
        assert_eq!(code(&wrong), Some(Code::FormatError), "{wrong:?}");
    }
    let edns = with_edns(message("example.com.", RecordType::A), 1232, 0);
    let mut twice = edns.to_vec().unwrap();
    twice.extend_from_within(twice.len() - 11..);
    twice[11] = 2;
    assert_eq!(code(&twice), Some(Code::FormatError), "two OPT records");
    let newer = with_edns(message("example.com.", RecordType::A), 1232, 1).to_vec().unwrap();
    assert_eq!(code(&newer), Some(Code::BadVersion));
}

#[test]
fn names_are_bounded() {
    let name = |labels: usize, last: usize| {
        let mut bytes = message("x.", RecordType::A).to_vec().unwrap();
        let mut name: Vec<u8> = b"\x01a".repeat(labels);
        name.push(u8::try_from(last).unwrap());
        name.extend(b"b".repeat(last));
        name.push(0);
        bytes.splice(12..15, name);
        bytes
    };
    // 126 labels of two bytes, one of two and the root are 255.
    assert_eq!(Query::parse(&name(126, 1)).unwrap().name.wire().len(), MAX_NAME);
    assert!(Query::parse(&name(126, 2)).is_err());
    assert!(Query::parse(&name(200, 1)).is_err());
}

#[test]
fn other_additional_records_do_not_matter() {
    let mut message = message("example.com.", RecordType::A);
    let owner = HickoryName::from_ascii("example.com.").unwrap();
    message.add_additional(Record::from_rdata(owner, 1, RData::A(A([1, 2, 3, 4].into()))));
    let bytes = with_edns(message, 1400, 0).to_vec().unwrap();
    assert_eq!(Query::parse(&bytes).unwrap().echo.edns.unwrap().payload, 1400);
}

#[test]
fn keys_are_the_same_in_any_case_and_differ_in_what_changes_an_answer() {
    let key = |name: &str, kind, edns: bool| {
        let message = message(name, kind);
        let bytes = if edns { with_edns(message, 512, 0) } else { message }.to_vec().unwrap();
        Query::parse(&bytes).unwrap().key().as_slice().to_vec()
    };
    assert_eq!(key("a.example.", RecordType::A, false), key("A.Example.", RecordType::A, false));
    assert_ne!(key("a.example.", RecordType::A, false), key("a.example.", RecordType::AAAA, false));
    assert_ne!(key("a.example.", RecordType::A, false), key("a.example.", RecordType::A, true));
    assert_ne!(key("a.example.", RecordType::A, false), key("b.example.", RecordType::A, false));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_fall(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Query::parse(&bytes);
    }

    /// A question of which a few bytes are wrong is either refused, or read as hickory reads it.
    #[test]
    fn what_is_read_is_what_hickory_reads(
        labels in prop::collection::vec("[a-zA-Z0-9][a-zA-Z0-9_]{0,20}", 1..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let name = format!("{}.", labels.join("."));
        let mut bytes = with_edns(message(&name, RecordType::SRV), 1232, 0).to_vec().unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let (Ok(query), Ok(message)) = (Query::parse(&bytes), Message::from_vec(&bytes)) {
            let theirs = &message.queries[0];
            let mut lower = Vec::new();
            let mut encoder = hickory_proto::serialize::binary::BinEncoder::new(&mut lower);
            hickory_proto::serialize::binary::BinEncodable::emit(&theirs.name().to_lowercase(), &mut encoder).unwrap();
            prop_assert_eq!(query.name.wire(), &lower[..]);
            prop_assert_eq!(query.kind, u16::from(theirs.query_type()));
            prop_assert_eq!(query.class == number::IN, theirs.query_class() == DNSClass::IN);
            prop_assert_eq!(query.echo.id, message.metadata.id);
        }
    }
}
