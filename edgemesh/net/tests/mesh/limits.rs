//! Each limit, reached on purpose, with somebody beside it who is still served.

use std::net::UdpSocket;

use futures::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use libp2p::identity::Keypair;
use skerry_mesh_net::{Config, MAX_ACCEPTED, MAX_STREAMS, MAX_WAITING, NodeRecord, OpenError, Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{GENEROUS, Node, QUIC, World, name, pair, round_trip};

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let world = World::new();
    let a = world.start("a", &[QUIC]).await;
    let c = world.start("c", &[QUIC]).await;
    let b = Node::start(Config { max_connections: 1, ..world.config("b", &[QUIC]) }).await.echo();
    b.know(&[&a, &c]).await;
    a.know(&[&b]).await;
    c.know(&[&b]).await;
    a.open(&b).await;
    b.is_connected_to(&a).await;
    let error = c.net.open(&b.name, GENEROUS).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert_eq!(round_trip(a.open(&b).await, b"still".to_vec()).await, b"still");
    a.net.stop().await;
    b.sees(&a, |status| status.path == Path::None).await;
    assert_eq!(round_trip(c.open(&b).await, b"now".to_vec()).await, b"now");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_connection_are_bounded() {
    let world = World::new();
    let (a, b) = pair(&world, &[QUIC]).await;
    let opening = stream::iter(0..MAX_STREAMS).map(|_| a.open(&b)).buffer_unordered(256);
    let mut open: Vec<_> = opening.collect().await;
    assert_eq!(a.net.open(&b.name, GENEROUS).await.unwrap_err(), OpenError::Limit(name("b")));
    open.pop();
    assert_eq!(round_trip(a.open(&b).await, b"place".to_vec()).await, b"place");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_accepts_are_bounded() {
    const MORE: usize = 10;
    let world = World::new();
    let a = world.start("a", &[QUIC]).await;
    let mut b = world.start("b", &[QUIC]).await;
    a.know(&[&b]).await;
    b.know(&[&a]).await;
    let mut waiting = FuturesUnordered::new();
    for _ in 0..MAX_ACCEPTED + MORE {
        let mut stream = a.open(&b).await;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        waiting.push(async move {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        });
    }
    for _ in 0..MORE {
        timeout(GENEROUS, waiting.next()).await.expect("the streams beyond the limit are refused");
    }
    let mut inbound = b.inbound.take().unwrap();
    for _ in 0..MAX_ACCEPTED {
        let mut accepted = timeout(GENEROUS, inbound.accept()).await.unwrap().unwrap();
        assert_eq!(accepted.stream.read_u8().await.unwrap(), b'x');
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_for_a_connection_are_bounded() {
    let world = World::new();
    let a = world.start("a", &[QUIC]).await;
    // Somebody takes packets and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", silent.local_addr().unwrap().port());
    let key = Keypair::generate_ed25519();
    let record = NodeRecord {
        node: name("b"),
        peer_id: key.public().to_peer_id(),
        addresses: vec![address.parse().unwrap()],
        relay: false,
        sequence: 1,
        not_after: jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1),
    };
    let record = record.sign(&world.credentials("b"), &key).unwrap();
    assert!(a.net.set_records([(name("b"), record)].into()).await.unwrap().is_empty());
    let node = name("b");
    let mut callers: FuturesUnordered<_> = (0..=MAX_WAITING).map(|_| a.net.open(&node, GENEROUS)).collect();
    let mut limited = 0;
    let mut unreachable = 0;
    while let Some(result) = timeout(GENEROUS, callers.next()).await.unwrap() {
        match result.unwrap_err() {
            OpenError::Limit(_) => limited += 1,
            OpenError::Unreachable { .. } => unreachable += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((limited, unreachable), (1, MAX_WAITING));
}
