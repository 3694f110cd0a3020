//! Answers as bytes: hickory reads back what was kept, whatever the client is like.
#![allow(clippy::unwrap_used)]

use hickory_proto::op::{Edns, OpCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::*;
use crate::query;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A([192, 0, 2, last].into())))
}

fn answer(owner: &str, records: Vec<Record>) -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_query(hickory_proto::op::Query::query(name(owner), RecordType::A));
    message.add_answers(records);
    message
}

/// The bytes of a question of this client.
fn question(owner: &str, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(name(owner), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(true);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn write(packet: &Packet, question: &[u8], age: Age, turn: usize, why: Option<Explanation>) -> (Message, usize) {
    let query = Query::parse(question).unwrap();
    let mut out = Vec::new();
    packet.write(&query, age, turn, why, udp_limit(&query.echo), &mut out);
    (Message::from_vec(&out).unwrap(), out.len())
}

fn addresses(message: &Message) -> Vec<u8> {
    let last = |record: &Record| match &record.data {
        RData::A(A(ip)) => Some(ip.octets()[3]),
        _ => None,
    };
    message.answers.iter().filter_map(last).collect()
}

#[test]
fn an_answer_is_its_clients_own() {
    let packet = Packet::new(answer("www.example.", vec![a("www.example.", 30, 1)])).unwrap();
    let (sent, _) = write(&packet, &question("WWW.example.", None), Age::Seconds(10), 0, None);
    assert_eq!(sent.metadata.id, 0x1234);
    assert!(sent.metadata.recursion_desired && sent.metadata.recursion_available && !sent.metadata.authoritative);
    assert_eq!(sent.queries[0].name().to_ascii(), "WWW.example.", "the case of the question");
    assert_eq!(sent.answers[0].ttl, 20, "what is left");
    assert!(sent.edns.is_none(), "who does not speak EDNS gets none");
    let (sent, _) = write(&packet, &question("www.example.", Some(1232)), Age::Seconds(40), 0, None);
    assert_eq!(sent.answers[0].ttl, 0);
    let edns = sent.edns.unwrap();
    assert!(edns.flags().dnssec_ok && usize::from(edns.max_payload()) == MAX_UDP);
}

#[test]
fn a_stale_answer_says_so() {
    let packet = Packet::new(answer("www.example.", vec![a("www.example.", 3000, 1)])).unwrap();
    let (sent, _) = write(&packet, &question("www.example.", Some(1232)), Age::Stale, 0, Some(Explanation::STALE));
    assert_eq!(sent.answers[0].ttl, STALE_TTL);
    let options = sent.edns.unwrap();
    let option = options.options().get(hickory_proto::rr::rdata::opt::EdnsCode::Unknown(15)).cloned();
    let Some(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, bytes)) = option else {
        panic!("no explanation");
    };
    assert_eq!(bytes[..2], [0, 3]);
    assert!(String::from_utf8(bytes[2..].to_vec()).unwrap().contains("name servers"));
}

#[test]
fn addresses_take_turns_and_what_is_not_one_stays() {
    let owner = "www.example.";
    let cname = Record::from_rdata(name(owner), 30, RData::CNAME(CNAME(name("real.example."))));
    let mut message = answer(owner, vec![cname]);
    message.add_answers((1..=3).map(|last| a("real.example.", 30, last)));
    let packet = Packet::new(message).unwrap();
    let question = question(owner, None);
    let turns = [0, 1, 2, 3].map(|turn| addresses(&write(&packet, &question, Age::Seconds(0), turn, None).0));
    assert_eq!(turns, [vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2], vec![1, 2, 3]]);
    let (sent, _) = write(&packet, &question, Age::Seconds(0), 1, None);
    assert!(matches!(sent.answers[0].data, RData::CNAME(_)));
    assert!(sent.answers[1..].iter().all(|record| record.name == name("real.example.")));
}

#[test]
fn what_does_not_fit_is_cut_between_records() {
    let records: Vec<_> = (0..200).map(|last| a("www.example.", 30, last)).collect();
    let packet = Packet::new(answer("www.example.", records)).unwrap();
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(65_000), MAX_UDP)] {
        let (sent, length) =
            write(&packet, &question("www.example.", payload), Age::Seconds(0), 0, Some(Explanation::STALE));
        assert!(sent.metadata.truncation && length <= limit && length > limit - 32, "{payload:?}: {length}");
        assert!(!sent.answers.is_empty(), "a client that cannot do TCP has something");
    }
    let query = question("www.example.", None);
    let mut out = Vec::new();
    packet.write(&Query::parse(&query).unwrap(), Age::Seconds(0), 0, None, MAX_TCP, &mut out);
    let sent = Message::from_vec(&out).unwrap();
    assert!(!sent.metadata.truncation && sent.answers.len() == 200);
}

#[test]
fn missing_additional_records_are_no_truncation() {
    let mut message = answer("www.example.", vec![a("www.example.", 30, 1)]);
    message.add_additionals((0..100).map(|last| a("other.example.", 30, last)));
    let packet = Packet::new(message).unwrap();
    let (sent, length) = write(&packet, &question("www.example.", None), Age::Seconds(0), 0, None);
    assert!(!sent.metadata.truncation && length <= 512);
    assert!(sent.answers.len() == 1 && sent.additionals.len() < 100);
}

#[test]
fn more_than_a_message_holds_is_cut_and_says_so() {
    let long = format!("{}.example.", ["x"; 50].map(|label| label.repeat(3)).join("."));
    let records = (0..2000).map(|number| {
        let owner = name(&format!("n{number}.{long}"));
        Record::from_rdata(name("www.example."), 30, RData::CNAME(CNAME(owner)))
    });
    let packet = Packet::new(answer("www.example.", records.collect())).unwrap();
    let query = question("www.example.", None);
    let mut out = Vec::new();
    packet.write(&Query::parse(&query).unwrap(), Age::Seconds(0), 0, None, MAX_TCP, &mut out);
    let sent = Message::from_vec(&out).unwrap();
    assert!(sent.metadata.truncation && out.len() <= MAX_TCP && sent.answers.len() > 100);
}

#[test]
fn the_message_comes_back() {
    let mut message = answer("www.example.", Vec::new());
    message.metadata.response_code = ResponseCode::NXDomain;
    let soa = SOA::new(name("ns.example."), name("mail.example."), 1, 2, 3, 4, 5);
    message.add_authority(Record::from_rdata(name("example."), 30, RData::SOA(soa)));
    let back = Packet::new(message.clone()).unwrap().message(Age::Seconds(10)).unwrap();
    assert_eq!(back.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(back.authorities[0].ttl, 20);
    assert_eq!(back.authorities[0].data, message.authorities[0].data);
}

#[test]
fn an_error_has_its_question_and_its_reason() {
    let bytes = question("www.example.", Some(1232));
    let query = Query::parse(&bytes).unwrap();
    let mut out = Vec::new();
    write_error(&query.echo, Some(query.section), Code::ServerFailure, Some(Explanation::UNREACHABLE), &mut out);
    let sent = Message::from_vec(&out).unwrap();
    assert_eq!(sent.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(sent.queries.len(), 1);
    write_error(&query.echo, None, Code::BadVersion, None, &mut out);
    let sent = Message::from_vec(&out).unwrap();
    assert_eq!(u16::from(sent.metadata.response_code), 16);
    assert!(sent.queries.is_empty());
}

proptest! {
    /// Whatever is in an answer, and whatever the client takes: what is sent can be read, fits, and is a part of it.
    #[test]
    fn what_is_sent_can_be_read(
        owners in prop::collection::vec("[a-z]{1,30}", 0..60),
        ttl in any::<u32>(),
        age in any::<u32>(),
        turn in any::<usize>(),
        payload in prop::option::of(any::<u16>()),
        answers in 0usize..60,
    ) {
        let mut message = answer("www.example.", Vec::new());
        for (at, owner) in owners.iter().enumerate() {
            let record = a(&format!("{owner}.example."), ttl, u8::try_from(at).unwrap());
            if at < answers { message.add_answer(record); } else { message.add_authority(record); }
        }
        let packet = Packet::new(message.clone()).unwrap();
        let question = question("www.example.", payload);
        let query = Query::parse(&question).unwrap();
        let limit = udp_limit(&query.echo);
        let mut out = Vec::new();
        packet.write(&query, Age::Seconds(age), turn, Some(Explanation::STALE), limit, &mut out);
        prop_assert!(out.len() <= limit);
        let sent = Message::from_vec(&out).unwrap();
        let all = |message: &Message| message.answers.len() + message.authorities.len();
        prop_assert_eq!(sent.metadata.truncation, all(&sent) < all(&message));
        for record in sent.answers.iter().chain(&sent.authorities) {
            prop_assert_eq!(record.ttl, ttl.saturating_sub(age));
            prop_assert!(message.answers.iter().chain(&message.authorities).any(|kept| kept.data == record.data));
        }
        prop_assert_eq!(query::Query::parse(&out).err(), Some(query::Malformed::Ignore), "an answer is no question");
    }
}
