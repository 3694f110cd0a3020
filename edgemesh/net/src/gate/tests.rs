//! The door itself: strangers are counted, members are not.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use libp2p::{identity::Keypair, relay, swarm::ListenError, swarm::behaviour::ListenFailure};
use skerry_identity::{Ca, CredentialOptions, CredentialWatch, DEFAULT_NODE_LIFETIME, TrustDomain};

use super::*;
use crate::{Config, behaviour::Behaviour};

fn enter(gate: &mut Gate, connection: usize, peer: PeerId) -> bool {
    let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let id = ConnectionId::new_unchecked(connection);
    gate.handle_established_inbound_connection(id, peer, &address, &address).is_ok()
}

#[tokio::test]
async fn strangers_are_bounded_and_leave_their_place() {
    let ca = Ca::generate(&TrustDomain::default()).unwrap();
    let node = NodeName::parse("a").unwrap();
    let credentials = ca.node_credentials(&node, DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
    let credentials = CredentialWatch::fixed(CredentialOptions::new(ca.trust_domain().clone()), credentials).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(node.clone(), folder.path().join("key"), credentials, 0);
    let config = Config { mdns: false, upnp: false, ..config };
    let key = Keypair::generate_ed25519();
    let (_transport, circuits) = relay::client::new(key.public().to_peer_id());
    let (streams, _accepted) = Streams::new();
    let mut gate = Behaviour::new(&config, &key, circuits, streams).unwrap().gate;

    for index in 0..MAX_STRANGERS {
        assert!(enter(&mut gate, index, PeerId::random()));
        assert!(gate.is_stranger(ConnectionId::new_unchecked(index)));
    }
    assert!(!enter(&mut gate, MAX_STRANGERS, PeerId::random()), "one too many");
    let member = PeerId::random();
    gate.admit(member, node);
    assert!(enter(&mut gate, MAX_STRANGERS + 1, member), "a member is no stranger");
    assert!(!gate.is_stranger(ConnectionId::new_unchecked(MAX_STRANGERS + 1)));
    // One goes away; here, because another behaviour denied it.
    let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    gate.on_swarm_event(FromSwarm::ListenFailure(ListenFailure {
        local_addr: &address,
        send_back_addr: &address,
        error: &ListenError::Aborted,
        connection_id: ConnectionId::new_unchecked(0),
        peer_id: None,
    }));
    assert!(enter(&mut gate, MAX_STRANGERS + 2, PeerId::random()));
    gate.expel(&member);
    assert!(!enter(&mut gate, MAX_STRANGERS + 3, member), "now it is one");
}
