//! Streams between two nodes that reach each other: bytes, ends, many at once, and nodes that are not there.

use std::{collections::BTreeMap, time::Duration};

use skerry_mesh_net::{OpenError, Path, datagrams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{GENEROUS, Node, QUIC, TCP, WEBSOCKET, World, name, pair, pattern, round_trip};

async fn echoes(listen: &[&str], transport: &str) {
    let world = World::new();
    let (a, b) = pair(&world, listen).await;
    let sent = pattern(100_000);
    assert!(round_trip(a.open(&b).await, sent.clone()).await == sent);
    let status = a.is_connected_to(&b).await;
    assert_eq!(status.path, Path::Lan);
    assert!(status.address.unwrap().to_string().contains(transport));
    assert!(status.rtt.is_some() && status.since.is_some());
    assert_eq!((status.sent, status.received), (100_000, 100_000), "bytes are counted");
    let other = b.is_connected_to(&a).await;
    assert_eq!((other.sent, other.received), (100_000, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_over_quic() {
    echoes(&[QUIC], "quic-v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_over_tcp() {
    echoes(&[TCP], "/tcp/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_over_websocket() {
    echoes(&[WEBSOCKET], "/ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_keep_their_borders() {
    let world = World::new();
    let (a, b) = pair(&world, &[QUIC]).await;
    let (mut sender, mut receiver) = datagrams(a.open(&b).await);
    let sent: Vec<Vec<u8>> = (0..2_000_usize).map(|index| pattern(index * 7_919 % 3_000)).collect();
    let copy = sent.clone();
    let sending = tokio::spawn(async move {
        for datagram in &copy {
            sender.send(datagram).await.unwrap();
        }
        sender.finish().await.unwrap();
        sender
    });
    let (mut back, mut buffer) = (Vec::new(), Vec::new());
    while timeout(GENEROUS, receiver.receive(&mut buffer)).await.unwrap().unwrap() {
        back.push(buffer.clone());
    }
    assert!(back == sent);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transfer_is_exact_in_both_directions() {
    for listen in [QUIC, TCP, WEBSOCKET] {
        let world = World::new();
        let (a, b) = pair(&world, &[listen]).await;
        let sent = pattern(20_000_003);
        assert!(round_trip(a.open(&b).await, sent.clone()).await == sent, "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_directions_of_a_stream_end_on_their_own() {
    for listen in [QUIC, TCP] {
        let world = World::new();
        let a = world.start("a", &[listen]).await;
        let mut b = world.start("b", &[listen]).await;
        a.know(&[&b]).await;
        b.know(&[&a]).await;
        let mut ours = a.open(&b).await;
        ours.write_all(b"request").await.unwrap();
        ours.shutdown().await.unwrap();
        let accepted = timeout(GENEROUS, b.inbound.as_mut().unwrap().accept()).await.unwrap().unwrap();
        assert_eq!(accepted.from, name("a"), "who opened it is known");
        let mut theirs = accepted.stream;
        let mut request = Vec::new();
        timeout(GENEROUS, theirs.read_to_end(&mut request)).await.unwrap().unwrap();
        assert_eq!(request, b"request");
        // Our end is over; theirs still speaks, in several pieces.
        for piece in [b"answer one ", b"answer two "] {
            theirs.write_all(piece).await.unwrap();
            theirs.flush().await.unwrap();
        }
        theirs.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(GENEROUS, ours.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"answer one answer two ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_is_cut_and_not_ended() {
    for listen in [QUIC, TCP] {
        let world = World::new();
        let a = world.start("a", &[listen]).await;
        let mut b = world.start("b", &[listen]).await;
        a.know(&[&b]).await;
        b.know(&[&a]).await;
        let mut ours = a.open(&b).await;
        ours.write_all(b"the first half of").await.unwrap();
        ours.flush().await.unwrap();
        let mut theirs = timeout(GENEROUS, b.inbound.as_mut().unwrap().accept()).await.unwrap().unwrap().stream;
        let mut half = [0; 17];
        theirs.read_exact(&mut half).await.unwrap();
        drop(ours);
        let mut rest = Vec::new();
        assert!(timeout(GENEROUS, theirs.read_to_end(&mut rest)).await.unwrap().is_err(), "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_at_once_are_all_served() {
    for listen in [QUIC, TCP] {
        let world = World::new();
        let (a, b) = pair(&world, &[listen]).await;
        let mut streams = Vec::new();
        for index in 0..1_000_u32 {
            let mut stream = a.open(&b).await;
            stream.write_all(&index.to_be_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            streams.push(stream);
        }
        for (index, stream) in (0_u32..).zip(&mut streams) {
            let back = timeout(GENEROUS, stream.read_u32()).await.unwrap().unwrap();
            assert_eq!(back, index);
        }
        let connected = a.net.status().into_iter().filter(|status| status.path != Path::None).count();
        assert_eq!(connected, 1, "all on one connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_there_is_an_error_before_the_deadline() {
    let world = World::new();
    let a = world.start("a", &[QUIC, TCP]).await;
    assert_eq!(a.net.open(&name("b"), GENEROUS).await.unwrap_err(), OpenError::UnknownNode(name("b")));
    let b = world.start("b", &[QUIC, TCP]).await;
    a.know(&[&b]).await;
    b.net.stop().await;
    // TCP is refused at once and QUIC is silent: its handshake ends by itself long before this deadline.
    match a.net.open(&name("b"), GENEROUS).await.unwrap_err() {
        OpenError::Unreachable { node, reason } => {
            assert_eq!(node, name("b"));
            assert!(reason.contains("127.0.0.1"), "says what was tried: {reason}");
        }
        other => panic!("{other}"),
    }
    let short = Duration::from_millis(100);
    let error = timeout(GENEROUS, a.net.open(&name("b"), short)).await.unwrap().unwrap_err();
    assert!(matches!(error, OpenError::Deadline { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_found_again() {
    let world = World::new();
    let a = world.start("a", &[QUIC]).await;
    let config = world.config("b", &[QUIC]);
    let b = Node::start(config.clone()).await.echo();
    a.know(&[&b]).await;
    b.know(&[&a]).await;
    let first = b.net.peer_id();
    assert_eq!(round_trip(a.open(&b).await, b"one".to_vec()).await, b"one");
    b.net.stop().await;
    let b = Node::start(config).await.echo();
    assert_eq!(b.net.peer_id(), first, "the key is kept");
    a.know(&[&b]).await;
    b.know(&[&a]).await;
    assert_eq!(round_trip(a.open(&b).await, b"two".to_vec()).await, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_end_everything_says_so() {
    let world = World::new();
    let (a, b) = pair(&world, &[QUIC]).await;
    let mut stream = a.open(&b).await;
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    stream.read_u8().await.unwrap();
    a.net.stop().await;
    assert_eq!(a.net.open(&b.name, GENEROUS).await.unwrap_err(), OpenError::Stopped);
    assert_eq!(a.net.set_records(BTreeMap::new()).await.unwrap_err(), OpenError::Stopped);
    let ended = timeout(GENEROUS, stream.read_u8()).await.unwrap();
    assert!(ended.is_err(), "the stream is cut");
    b.sees(&a, |status| status.path == Path::None).await;
}
