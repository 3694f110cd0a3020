//! Nodes that reach each other only through a relay, and what happens when more becomes possible, or less.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::identity::Keypair;
use skerry_mesh_net::{Config, Multiaddr, NodeRecord, Path, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Node, QUIC, TCP, TRIES, World, pattern, round_trip};

/// Through how many relays a node says that it is reached; each may have several addresses.
fn circuits(addresses: &[Multiaddr]) -> usize {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let relay = |address: &String| address.strip_suffix("/p2p-circuit")?.rsplit('/').next().map(str::to_owned);
    addresses.iter().filter_map(relay).collect::<BTreeSet<_>>().len()
}

/// Nodes without listeners know the relays and each other, and hold a place with each relay.
async fn behind(world: &World, relays: &[&Node]) -> (Node, Node) {
    let a = world.start("a", &[]).await;
    let b = world.start("b", &[]).await.echo();
    for relay in relays {
        relay.know(&[&a, &b]).await;
    }
    for (node, other) in [(&a, &b), (&b, &a)] {
        let mut known = vec![other];
        known.extend(relays);
        node.know(&known).await;
    }
    for node in [&a, &b] {
        node.record_with(|addresses| circuits(addresses) == relays.len()).await;
    }
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_through_a_relay() {
    let world = World::new();
    let relay = world.relay("r").await;
    let (a, b) = behind(&world, &[&relay]).await;
    // More than libp2p's own limit for a circuit.
    let sent = pattern(3_000_000);
    assert!(round_trip(a.open(&b).await, sent.clone()).await == sent);
    for (node, other) in [(&a, &b), (&b, &a)] {
        assert_eq!(node.is_connected_to(other).await.path, Path::Relayed { by: "r".into() });
        assert_eq!(node.is_connected_to(&relay).await.path, Path::Lan);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_is_found_while_the_relay_carries() {
    let world = World::new();
    let relay = world.relay("r").await;
    let a = world.start("a", &[QUIC]).await;
    let b = world.start("b", &[QUIC]).await.echo();
    relay.know(&[&a, &b]).await;
    for (node, other) in [(&a, &b), (&b, &a)] {
        // The other's record as it was before it had an address.
        let key = std::fs::read(world.folder.path().join(format!("{}.key", other.name))).unwrap();
        let old = NodeRecord {
            node: other.name.clone(),
            peer_id: other.net.peer_id(),
            addresses: Vec::new(),
            relay: false,
            sequence: 1,
            not_after: jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1),
        };
        let credentials = world.credentials(other.name.as_str());
        let old = old.sign(&credentials, &Keypair::from_protobuf_encoding(&key).unwrap()).unwrap();
        let records = BTreeMap::from([(other.name.clone(), old), (relay.name.clone(), relay.record().await)]);
        assert!(node.net.set_records(records).await.unwrap().is_empty());
        node.record_with(|addresses| circuits(addresses) == 1).await;
    }
    let mut early = a.open(&b).await;
    early.write_all(b"early").await.unwrap();
    early.flush().await.unwrap();
    a.sees(&b, |status| status.path == Path::Lan).await;
    b.sees(&a, |status| status.path == Path::Lan).await;
    // The stream that was opened through the relay is not cut; a new one takes the direct path.
    let mut back = [0; 5];
    early.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"early");
    let sent = pattern(100_000);
    assert!(round_trip(a.open(&b).await, sent.clone()).await == sent);
    early.write_all(b"later").await.unwrap();
    early.shutdown().await.unwrap();
    let mut rest = Vec::new();
    early.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"later");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_relay_dies_the_other_one_carries() {
    let world = World::new();
    let (r1, r2) = (world.relay("r1").await, world.relay("r2").await);
    let (a, b) = behind(&world, &[&r1, &r2]).await;
    assert_eq!(round_trip(a.open(&b).await, b"before".to_vec()).await, b"before");
    let Path::Relayed { by } = a.is_connected_to(&b).await.path else { panic!("not relayed") };
    let (dead, alive) = if by == "r1" { (r1, r2) } else { (r2, r1) };
    dead.net.stop().await;
    a.sees(&b, |status| status.path != Path::Relayed { by: by.clone() }).await;
    assert_eq!(round_trip(a.open(&b).await, b"after".to_vec()).await, b"after");
    let through_the_other = Path::Relayed { by: alive.name.to_string() };
    assert_eq!(a.is_connected_to(&b).await.path, through_the_other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_comes_back_is_used_again() {
    let world = World::new();
    let config = Config { relay: true, ..world.config("r", &[TCP]) };
    let relay = Node::start(config.clone()).await;
    let address = relay.net.listening().to_vec();
    let (a, b) = behind(&world, &[&relay]).await;
    assert_eq!(round_trip(a.open(&b).await, b"before".to_vec()).await, b"before");
    relay.net.stop().await;
    a.sees(&b, |status| status.path == Path::None).await;
    for node in [&a, &b] {
        node.record_with(|addresses| circuits(addresses) == 0).await;
    }
    let relay = Node::start(Config { listen: address, ..config }).await;
    relay.know(&[&a, &b]).await;
    for node in [&a, &b] {
        node.record_with(|addresses| circuits(addresses) == 1).await;
    }
    assert_eq!(round_trip(a.open(&b).await, b"after".to_vec()).await, b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_are_taken_from_a_list_that_changes() {
    let world = World::new();
    let relay = Node::start(Config { relay: true, ..world.config("r", &[TCP]) }).await;
    let a = world.start("a", &[]).await;
    // Nobody knows anybody: the relay and the node introduce themselves.
    a.net.set_relays(vec![Relay::Address(relay.net.listening()[0].clone())]).await.unwrap();
    a.record_with(|addresses| circuits(addresses) == 1).await;
    a.is_connected_to(&relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_serves_members_alone() {
    let (world, foreign) = (World::new(), World::new());
    let relay = Node::start(Config { relay: true, ..world.config("r", &[TCP]) }).await;
    let evil = world.intruder(&foreign, "a", &[]).await;
    evil.know(&[&relay]).await;
    let place = evil.record_with(|addresses| circuits(addresses) > 0);
    assert!(tokio::time::timeout(TRIES, place).await.is_err(), "a place for nobody that we know");
    // A member of the same name gets one.
    let good = world.start("a", &[]).await;
    good.know(&[&relay]).await;
    good.record_with(|addresses| circuits(addresses) > 0).await;
}
