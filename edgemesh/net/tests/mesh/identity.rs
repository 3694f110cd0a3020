//! Who is let in: members by their records, strangers of the same CA after an introduction, and nobody else.

use std::collections::BTreeMap;

use skerry_identity::RevocationSet;
use skerry_mesh_net::{Config, OpenError, Path, Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{GENEROUS, Node, QUIC, TCP, TRIES, World, name, pair, round_trip};

async fn talking(from: &Node, to: &Node) -> Stream {
    let mut stream = from.open(to).await;
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(timeout(GENEROUS, stream.read_u8()).await.unwrap().unwrap(), b'x');
    stream
}

async fn is_cut(mut stream: Stream) {
    assert!(timeout(GENEROUS, stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_known_yet_introduces_itself() {
    for listen in [QUIC, TCP] {
        let world = World::new();
        let a = world.start("a", &[listen]).await;
        let b = world.start("b", &[listen]).await.echo();
        // Only a knows b. b has the record of a only after a has shown it.
        a.know(&[&b]).await;
        assert_eq!(round_trip(a.open(&b).await, b"hello".to_vec()).await, b"hello");
        b.is_connected_to(&a).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_ca_gets_nothing() {
    let world = World::new();
    let foreign = World::new();
    let b = world.start("b", &[QUIC]).await;
    let evil = world.intruder(&foreign, "a", &[QUIC]).await;
    evil.know(&[&b]).await;
    let record = evil.record().await;
    let refused = b.net.set_records(BTreeMap::from([(name("a"), record)])).await.unwrap();
    assert_eq!(refused.len(), 1, "its record is refused");
    let error = timeout(GENEROUS, evil.net.open(&b.name, TRIES)).await.unwrap().unwrap_err();
    assert!(matches!(error, OpenError::Deadline { .. } | OpenError::Unreachable { .. }), "{error}");
    assert_eq!(b.net.status(), [], "b knows nobody");
    // The same node with a certificate of the right CA is let in: nothing else kept the other out.
    let good = world.start("a", &[QUIC]).await;
    good.know(&[&b]).await;
    let _stream = good.open(&b).await;
    b.is_connected_to(&good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_removed_ends_its_connections_and_no_others() {
    let world = World::new();
    let (a, b) = pair(&world, &[QUIC]).await;
    let c = world.start("c", &[QUIC]).await;
    c.know(&[&b]).await;
    b.know(&[&a, &c]).await;
    let (lost, mut kept) = (talking(&a, &b).await, talking(&c, &b).await);
    b.know(&[&c]).await;
    is_cut(lost).await;
    a.sees(&b, |status| status.path == Path::None).await;
    kept.write_all(b"y").await.unwrap();
    kept.flush().await.unwrap();
    assert_eq!(timeout(GENEROUS, kept.read_u8()).await.unwrap().unwrap(), b'y');
    // It may not introduce itself again, although its certificate still holds.
    a.net.open(&b.name, TRIES).await.unwrap_err();
    assert!(b.net.peer(&a.name).is_none());
    // Its Node brings it back.
    b.know(&[&a, &c]).await;
    talking(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_revoked_is_disconnected_and_stays_out() {
    let world = World::new();
    let (revocations, credentials) = world.revocable("b");
    let a = world.start("a", &[QUIC]).await;
    let b = Node::start(Config { credentials, ..world.config("b", &[QUIC]) }).await.echo();
    a.know(&[&b]).await;
    b.know(&[&a]).await;
    let stream = talking(&a, &b).await;
    revocations.set(RevocationSet { nodes: [name("a")].into(), ..RevocationSet::default() });
    is_cut(stream).await;
    a.net.open(&b.name, TRIES).await.unwrap_err();
    let refused = b.net.set_records(BTreeMap::from([(name("a"), a.record().await)])).await.unwrap();
    assert_eq!(refused.len(), 1);
    // The other way: by name, through the handle.
    let c = world.start("c", &[QUIC]).await;
    c.know(&[&b]).await;
    let stream = talking(&c, &b).await;
    b.net.revoke(&c.name).await.unwrap();
    is_cut(stream).await;
}
