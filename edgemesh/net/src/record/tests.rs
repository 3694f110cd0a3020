//! A record is what was signed, or nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;
use skerry_identity::{Ca, Clock, CredentialOptions, DEFAULT_NODE_LIFETIME, TrustDomain};

use super::*;

fn name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn watch(ca: &Ca, node: &str, clock: &Clock) -> CredentialWatch {
    let credentials = ca.node_credentials(&name(node), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
    let options = CredentialOptions { clock: clock.clone(), ..CredentialOptions::new(ca.trust_domain().clone()) };
    CredentialWatch::fixed(options, credentials).unwrap()
}

fn record(node: &str, key: &Keypair) -> NodeRecord {
    NodeRecord {
        node: name(node),
        peer_id: key.public().to_peer_id(),
        addresses: vec!["/ip4/192.0.2.1/udp/20006/quic-v1".parse().unwrap()],
        relay: true,
        sequence: 7,
        not_after: Timestamp::from_second(Timestamp::now().as_second()).unwrap() + SignedDuration::from_hours(1),
    }
}

struct Setup {
    ca: Ca,
    clock: Clock,
    key: Keypair,
    a: CredentialWatch,
    b: CredentialWatch,
}

fn setup() -> Setup {
    let ca = Ca::generate(&TrustDomain::default()).unwrap();
    let clock = Clock::manual(Timestamp::now());
    let (a, b) = (watch(&ca, "a", &clock), watch(&ca, "b", &clock));
    Setup { ca, clock, key: Keypair::generate_ed25519(), a, b }
}

#[test]
fn a_record_arrives_as_it_was_signed() {
    let s = setup();
    let record = record("a", &s.key);
    let encoded = record.sign(&s.a, &s.key).unwrap();
    assert_eq!(NodeRecord::verify(&encoded, &s.b).unwrap(), record);
    assert!(encoded.len() < 1_500, "{} bytes", encoded.len());
}

#[test]
fn what_does_not_hold_is_refused_and_says_why() {
    let s = setup();
    let refused = |encoded: &[u8]| NodeRecord::verify(encoded, &s.b).unwrap_err();
    // A record of a, signed by the certificate of another node of the same CA.
    let stolen = record("a", &s.key).sign(&s.b, &s.key).unwrap();
    assert!(matches!(refused(&stolen), RecordError::OtherNode { .. }));
    // A certificate of another CA for the same name.
    let foreign = watch(&Ca::generate(&TrustDomain::default()).unwrap(), "a", &s.clock);
    assert!(matches!(refused(&record("a", &s.key).sign(&foreign, &s.key).unwrap()), RecordError::Identity(_)));
    // Somebody else's PeerId: signing needs its key.
    let other = Keypair::generate_ed25519();
    assert!(matches!(record("a", &other).sign(&s.a, &s.key), Err(RecordError::Key)));
    let mut envelope = Envelope::decode(record("a", &s.key).sign(&s.a, &s.key).unwrap().as_slice()).unwrap();
    let mut payload = Payload::decode(envelope.payload.as_slice()).unwrap();
    payload.public_key = other.public().encode_protobuf();
    envelope.payload = payload.encode_to_vec();
    envelope.certificate_signature = s.a.current().unwrap().sign(CONTEXT, &envelope.payload).unwrap();
    envelope.key_signature = s.key.sign(&keyed(&envelope.payload)).unwrap();
    assert!(matches!(refused(&envelope.encode_to_vec()), RecordError::Key));
    // Too long a life, and too short.
    for hours in [-1, 32 * 24] {
        let wrong =
            NodeRecord { not_after: Timestamp::now() + SignedDuration::from_hours(hours), ..record("a", &s.key) };
        assert!(matches!(refused(&wrong.sign(&s.a, &s.key).unwrap()), RecordError::Expired { .. }));
    }
    // Nothing at all.
    assert!(matches!(refused(&[]), RecordError::Identity(_)));
    assert!(matches!(refused(b"\xff\xff"), RecordError::Malformed));
    assert!(matches!(refused(&vec![0; MAX_RECORD + 1]), RecordError::Limit));
}

#[test]
fn a_record_expires() {
    let s = setup();
    let record = record("a", &s.key);
    let encoded = record.sign(&s.a, &s.key).unwrap();
    s.clock.set(record.not_after - SignedDuration::from_secs(1));
    NodeRecord::verify(&encoded, &s.b).unwrap();
    s.clock.set(record.not_after);
    assert!(matches!(NodeRecord::verify(&encoded, &s.b), Err(RecordError::Expired { .. })));
}

#[test]
fn a_record_ends_with_its_certificate() {
    let s = setup();
    let short = s.ca.node_credentials(&name("a"), Duration::from_secs(600), Timestamp::now()).unwrap();
    let options = CredentialOptions::new(s.ca.trust_domain().clone());
    let short = CredentialWatch::fixed(options, short).unwrap();
    let encoded = record("a", &s.key).sign(&short, &s.key).unwrap();
    NodeRecord::verify(&encoded, &s.b).unwrap();
    s.clock.set(Timestamp::now() + SignedDuration::from_secs(601));
    assert!(matches!(NodeRecord::verify(&encoded, &s.b), Err(RecordError::Identity(_))));
}

#[test]
fn addresses_are_bounded_and_only_those_that_can_be_dialled() {
    let s = setup();
    let mut many = record("a", &s.key);
    many.addresses = (0..=u16::try_from(MAX_ADDRESSES).unwrap())
        .map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap())
        .collect();
    assert!(matches!(many.sign(&s.a, &s.key), Err(RecordError::Limit)));
    assert!(matches!(addresses(&vec![Vec::new(); MAX_ADDRESSES + 1]), Err(RecordError::Limit)));
    assert!(matches!(addresses(&[vec![0; MAX_ADDRESS + 1]]), Err(RecordError::Limit)));
    let encoded: Vec<Vec<u8>> = [
        "/ip4/192.0.2.1/tcp/1",
        "/ip4/224.0.0.1/udp/1/quic-v1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/255.255.255.255/udp/1/quic-v1",
        "/ip6/ff02::1/udp/1/quic-v1",
        "/unix/tmp",
        "/memory/1",
        "/dns4/relay.example.org/tcp/443",
    ]
    .iter()
    .map(|address| address.parse::<Multiaddr>().unwrap().to_vec())
    .collect();
    let kept: Vec<String> = addresses(&encoded).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["/ip4/192.0.2.1/tcp/1", "/dns4/relay.example.org/tcp/443"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bit_of_a_record_can_be_changed(position in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let s = setup();
        let original = record("a", &s.key);
        let mut encoded = original.sign(&s.a, &s.key).unwrap();
        let at = position.index(encoded.len());
        encoded[at] ^= 1 << bit;
        // Either it is refused, or the change was in what nobody signs and nothing of the record differs.
        if let Ok(read) = NodeRecord::verify(&encoded, &s.b) {
            prop_assert_eq!(read, original);
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let s = setup();
        prop_assert!(NodeRecord::verify(&noise, &s.b).is_err());
    }
}
