//! Packets that nobody in their right mind sends, and many of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::dig::dig;
use crate::server::{Server, start};

/// Packets in one flood.
const FLOOD: usize = 20_000;

pub(crate) fn question(name: &str) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

pub(crate) async fn client(source: Ipv4Addr, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

/// The next answer, if one comes.
pub(crate) async fn receive(socket: &UdpSocket, within: Duration) -> Option<Message> {
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(within, socket.recv(&mut buffer)).await.ok()?.unwrap();
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

async fn works(server: &Server) {
    for over in ["+notcp", "+tcp"] {
        let found = dig(server.address, &format!("{over} orders.shop.svc.cluster.local")).await;
        assert_eq!(found.answers.len(), 1, "{}", found.text);
    }
}

/// A question of which nearly everything may be wrong.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let good = question("orders.shop.svc.cluster.local.").to_vec().unwrap();
    let flipped = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20).prop_map(move |flips| {
        let mut bytes = good.clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..1500), flipped]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_broken_packets_is_survived() {
    let server = start(&[]);
    works(&server).await;
    let flood = client(Ipv4Addr::new(127, 0, 0, 9), server.address).await;
    let mut runner = TestRunner::deterministic();
    let mut buffer = vec![0; 65_535];
    for number in 0..FLOOD {
        let packet = broken().new_tree(&mut runner).unwrap().current();
        flood.send(&packet).await.unwrap();
        // What comes back is an answer, and to an answer nothing comes back.
        while let Ok(length) = flood.try_recv(&mut buffer) {
            assert!(buffer[2] & 0x80 != 0 && length >= 12);
        }
        if number % (FLOOD / 4) == 0 {
            works(&server).await;
        }
    }
    works(&server).await;
    server.until("malformed", |count| count > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_answered() {
    let server = start(&[]);
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    let mut answer = question("orders.shop.svc.cluster.local.");
    answer.metadata.message_type = MessageType::Response;
    socket.send(&answer.to_vec().unwrap()).await.unwrap();
    // The control, on the same socket and after it.
    let control = question("orders.shop.svc.cluster.local.");
    socket.send(&control.to_vec().unwrap()).await.unwrap();
    let first = receive(&socket, Duration::from_secs(10)).await.unwrap();
    assert_eq!(first.metadata.id, control.metadata.id);
    assert_eq!(server.count("malformed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_answered_with_its_id_and_no_more_bytes() {
    let server = start(&[]);
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    let mut bytes = question("orders.shop.svc.cluster.local.").to_vec().unwrap();
    bytes[5] = 9;
    socket.send(&bytes).await.unwrap();
    let mut buffer = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert!(length <= bytes.len(), "nothing to be gained by a forged source");
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(buffer[..2], bytes[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_streams_end_alone() {
    let server = start(&[]);
    for bytes in [&b"\x00\x00"[..], b"\x00\x05abcde", b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x00"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
    server.until("tcp_connections", |open| open == 0).await;
    works(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_that_say_nothing_is_survived() {
    let server = start(&[]);
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    works(&server).await;
    // They end by themselves.
    server.until("tcp_connections", |open| open == 0).await;
}
