//! What the largest message of a mapper costs the node that reads it: the memory of the process, measured.

use prost::Message as _;
use skerry_proto::dmi::v1 as pb;
use skerry_test_support::Hub;

use crate::attacks::{CONNECT, INVALID};
use crate::node::eventually;
use crate::process::agent;
use crate::thousand::memory;
use crate::wire::{framed, send};

/// Bytes of the largest message.
const LARGEST: usize = 4 << 20;
/// Messages one after the other.
const MESSAGES: usize = 4;
/// Most memory that they may cost, kB: the bytes of a message while it comes, in a buffer that grows by doubling.
/// Read, one has two million values of 130 bytes.
const COST: u64 = 24 * 1024;

/// A message of nothing but elements without content, where these fields lead.
fn empties(path: &[u8]) -> Vec<u8> {
    let (last, outer) = path.split_last().unwrap();
    // The outer fields take five bytes each.
    let elements = [last << 3 | 2, 0].repeat(LARGEST / 2 - 16);
    outer.iter().rev().fold(elements, |inner, number| {
        let mut field = vec![number << 3 | 2];
        prost::encode_length_delimiter(inner.len(), &mut field).unwrap();
        [field, inner].concat()
    })
}

#[tokio::test]
async fn a_message_of_empty_elements_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, _trigger) = Hub::start_at(&dir.path().join("edgehub.sock")).await;
    let agent = agent(dir.path(), 0);
    let socket = dir.path().join("dmi.sock");
    let serves = eventually(async || socket.exists().then_some(()));
    assert!(serves.await.is_some(), "{}", agent.said());
    let hello = pb::Hello { name: "m".into(), protocol: "modbus".into(), ..Default::default() };
    let hello = pb::MapperMessage { message: Some(pb::mapper_message::Message::Hello(hello)) };
    let hello = framed(&hello.encode_to_vec());
    // Whatever a first connection and a first large message that is taken need.
    let text = pb::StateReport { reason: "x".repeat(LARGEST - 64), ..Default::default() };
    let taken = pb::StateReports { states: vec![text] };
    let taken = pb::MapperMessage { message: Some(pb::mapper_message::Message::States(taken)) }.encode_to_vec();
    let first = send(&socket, CONNECT, [&hello[..], &framed(&taken)].concat().into()).await.unwrap();
    assert_eq!(first.0, 0, "{first:?}");
    let before = memory(agent.pid(), "VmHWM");
    for path in [&[2, 2, 2][..], &[2, 2], &[3, 1], &[5, 3], &[1, 4]] {
        for _ in 0..MESSAGES {
            let body = [&hello[..], &framed(&empties(path))].concat();
            let (code, words, _) = send(&socket, CONNECT, body.into()).await.unwrap();
            assert_eq!(code, INVALID, "{words}");
            assert!(words.starts_with("a message may hold"), "{words}");
        }
    }
    let (after, now) = (memory(agent.pid(), "VmHWM"), memory(agent.pid(), "VmRSS"));
    assert!(after - before <= COST, "{before} kB at most before, {after} kB after, {now} kB now");
}
