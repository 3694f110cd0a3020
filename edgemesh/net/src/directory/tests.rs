//! Who is known after which records.
#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use libp2p::identity::Keypair;
use skerry_identity::{Ca, CredentialOptions, DEFAULT_NODE_LIFETIME, RevocationPublisher, RevocationSet, TrustDomain};

use super::*;

fn name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

struct World {
    ca: Ca,
    own: CredentialWatch,
    revocations: RevocationPublisher,
    directory: Directory,
}

impl World {
    fn new() -> Self {
        let ca = Ca::generate(&TrustDomain::default()).unwrap();
        let (revocations, list) = RevocationPublisher::new();
        let options = CredentialOptions { revocations: list, ..CredentialOptions::new(ca.trust_domain().clone()) };
        let own = ca.node_credentials(&name("own"), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        let own = CredentialWatch::fixed(options, own).unwrap();
        Self { ca, own, revocations, directory: Directory::new(name("own")) }
    }

    fn record(&self, node: &str, key: &Keypair, sequence: u64) -> Vec<u8> {
        let credentials = self.ca.node_credentials(&name(node), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        let options = CredentialOptions::new(self.ca.trust_domain().clone());
        let record = NodeRecord {
            node: name(node),
            peer_id: key.public().to_peer_id(),
            addresses: Vec::new(),
            relay: false,
            sequence,
            not_after: Timestamp::now() + SignedDuration::from_hours(1),
        };
        record.sign(&CredentialWatch::fixed(options, credentials).unwrap(), key).unwrap()
    }

    fn set(&mut self, records: &[(&str, &Vec<u8>)]) -> (Changes, Vec<(NodeName, RecordError)>) {
        let records = records.iter().map(|(node, record)| (name(node), (*record).clone())).collect();
        self.directory.set(&records, &self.own)
    }
}

fn changes(gone: &[&Keypair], come: &[&Keypair]) -> Changes {
    let peers = |keys: &[&Keypair]| keys.iter().map(|key| key.public().to_peer_id()).collect();
    Changes { gone: peers(gone), come: peers(come) }
}

fn keys<const N: usize>() -> [Keypair; N] {
    std::array::from_fn(|_| Keypair::generate_ed25519())
}

#[test]
fn nodes_come_change_and_go() {
    let mut w = World::new();
    let [a, b, new] = keys();
    let (ra, rb) = (w.record("a", &a, 1), w.record("b", &b, 1));
    assert_eq!(w.set(&[("a", &ra), ("b", &rb)]).0, changes(&[], &[&a, &b]));
    assert_eq!(w.set(&[("a", &ra), ("b", &rb)]).0, Changes::default(), "nothing new");
    assert_eq!(w.directory.node(&a.public().to_peer_id()), Some(&name("a")));
    // The node was installed anew: another key.
    let again = w.record("a", &new, 2);
    assert_eq!(w.set(&[("a", &again), ("b", &rb)]).0, changes(&[&a], &[&new]));
    assert_eq!(w.directory.node(&a.public().to_peer_id()), None);
    assert_eq!(w.set(&[("b", &rb)]).0, changes(&[&new], &[]));
}

#[test]
fn an_older_record_is_a_replay_also_after_the_node_was_away() {
    let mut w = World::new();
    let [a] = keys();
    let (old, new) = (w.record("a", &a, 1), w.record("a", &a, 2));
    w.set(&[("a", &new)]);
    let (unchanged, refused) = w.set(&[("a", &old)]);
    assert_eq!(unchanged, Changes::default(), "the newer one stays in force");
    assert!(matches!(refused.as_slice(), [(_, RecordError::Replayed)]));
    w.set(&[]);
    assert!(matches!(w.set(&[("a", &old)]).1.as_slice(), [(_, RecordError::Replayed)]));
    assert_eq!(w.set(&[("a", &new)]).0, changes(&[], &[&a]));
}

#[test]
fn nobody_takes_anothers_place_or_key() {
    let mut w = World::new();
    let [a, b] = keys();
    let (ra, rb) = (w.record("a", &a, 1), w.record("b", &b, 1));
    let (_, refused) = w.set(&[("a", &rb)]);
    assert!(matches!(refused.as_slice(), [(_, RecordError::OtherPlace { .. })]), "published for another node");
    w.set(&[("a", &ra)]);
    // b holds the key of a, so it can sign with it.
    let copied = w.record("b", &a, 1);
    let (unchanged, refused) = w.set(&[("a", &ra), ("b", &copied)]);
    assert!(matches!(refused.as_slice(), [(_, RecordError::Taken { .. })]));
    assert_eq!(unchanged, Changes::default());
    assert_eq!(w.directory.node(&a.public().to_peer_id()), Some(&name("a")));
    let own = w.record("own", &b, 1);
    assert_eq!(w.set(&[("a", &ra), ("own", &own)]).0, Changes::default(), "we are nobody's peer");
}

#[test]
fn a_bad_record_does_not_displace_a_good_one() {
    let mut w = World::new();
    let [a] = keys();
    let good = w.record("a", &a, 1);
    w.set(&[("a", &good)]);
    let (unchanged, refused) = w.set(&[("a", &vec![1, 2, 3])]);
    assert_eq!((unchanged, refused.len()), (Changes::default(), 1));
    assert!(w.directory.record(&name("a")).is_some());
}

#[test]
fn whoever_introduces_itself_stays_until_its_node_is_there_and_gone() {
    let mut w = World::new();
    let [a, b] = keys();
    let ra = w.record("a", &a, 1);
    let (pa, pb) = (a.public().to_peer_id(), b.public().to_peer_id());
    assert!(matches!(w.directory.introduce(&pb, &ra, &w.own), Err(RecordError::Key)), "somebody else's record");
    assert_eq!(w.directory.introduce(&pa, &ra, &w.own).unwrap(), changes(&[], &[&a]));
    assert_eq!(w.set(&[]).0, Changes::default(), "its Node may not be here yet");
    assert_eq!(w.set(&[("a", &ra)]).0, Changes::default());
    assert_eq!(w.set(&[]).0, changes(&[&a], &[]), "now it was");
    assert!(matches!(w.directory.introduce(&pa, &ra, &w.own), Err(RecordError::Removed)));
    assert_eq!(w.set(&[("a", &ra)]).0, changes(&[], &[&a]));
    assert_eq!(w.directory.revoke(&name("a")), changes(&[&a], &[]));
    assert!(matches!(w.directory.introduce(&pa, &ra, &w.own), Err(RecordError::Removed)));
}

#[test]
fn introductions_are_bounded() {
    let mut w = World::new();
    let [first, late] = keys();
    let record = w.record("first", &first, 1);
    w.directory.introduce(&first.public().to_peer_id(), &record, &w.own).unwrap();
    // The others without signing each.
    for index in 1..MAX_INTRODUCED {
        let node = name(&format!("n{index}"));
        let record = NodeRecord { node: node.clone(), ..w.directory.record(&name("first")).unwrap().clone() };
        w.directory.nodes.insert(node, Known { record, encoded: Vec::new(), published: false });
    }
    let record = w.record("late", &late, 1);
    let peer = late.public().to_peer_id();
    assert!(matches!(w.directory.introduce(&peer, &record, &w.own), Err(RecordError::Full)));
    assert_eq!(w.set(&[("late", &record)]).0, changes(&[], &[&late]), "its Node lets it in");
}

#[test]
fn a_revocation_removes_those_who_are_there() {
    let mut w = World::new();
    let [a, b] = keys();
    let (ra, rb) = (w.record("a", &a, 1), w.record("b", &b, 1));
    w.set(&[("a", &ra), ("b", &rb)]);
    w.revocations.set(RevocationSet { nodes: [name("a")].into(), ..RevocationSet::default() });
    assert_eq!(w.directory.recheck(&w.own), changes(&[&a], &[]));
    assert_eq!(w.directory.recheck(&w.own), Changes::default());
    assert_eq!(w.directory.records().count(), 1);
}
