//! What is dialled, used and closed, from one moment to the next.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use libp2p::core::{ConnectedPoint, Endpoint, transport::PortUse};
use proptest::prelude::*;

use super::*;

const DIRECT: &str = "/ip4/203.0.113.7/udp/1/quic-v1";
const LAN: &str = "/ip4/192.168.1.7/udp/1/quic-v1";

fn idle(_: ConnectionId) -> (usize, usize) {
    (0, 0)
}

struct Setup {
    paths: Paths,
    own: PeerId,
    peer: PeerId,
    relay: PeerId,
    now: Instant,
    ids: usize,
}

impl Setup {
    /// A peer with these addresses, one relay, and we are the smaller of the two.
    fn new(addresses: &[&str]) -> Self {
        let mut ids = [PeerId::random(), PeerId::random()];
        ids.sort();
        let [own, peer] = ids;
        let relay = PeerId::random();
        let now = Instant::now();
        let mut paths = Paths::new(own, false);
        paths.know(peer, addresses.iter().map(|a| a.parse().unwrap()).collect(), now);
        paths.set_relays(vec![(relay, "/ip4/203.0.113.1/tcp/1".parse().unwrap())]);
        Self { paths, own, peer, relay, now, ids: 0 }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn plan(&mut self) -> Vec<Action> {
        let actions = self.paths.plan(self.now, idle);
        for action in &actions {
            if let Action::Dial { class, .. } = action {
                let id = self.id();
                self.paths.dialling(&self.peer, *class, id);
            }
        }
        actions
    }

    fn id(&mut self) -> ConnectionId {
        self.ids += 1;
        ConnectionId::new_unchecked(self.ids)
    }

    fn dialled(&mut self) -> Vec<Class> {
        let class = |action| match action {
            Action::Dial { class, .. } => Some(class),
            _ => None,
        };
        self.plan().into_iter().filter_map(class).collect()
    }

    fn fail(&mut self, class: Class) {
        let peer = self.paths.peers.get_mut(&self.peer).unwrap();
        let id = peer.attempt(class).in_flight.unwrap();
        self.paths.dial_failed(&self.peer, id, "refused".into(), self.now);
    }

    fn connect(&mut self, address: &str) -> ConnectionId {
        let id = self.unproved(address);
        assert!(self.paths.ping(&self.peer, id, Duration::from_millis(1), self.now));
        id
    }

    fn unproved(&mut self, address: &str) -> ConnectionId {
        let id = self.id();
        let endpoint = ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        self.paths.established(&self.peer, Connection::new(id, &endpoint, self.now));
        id
    }

    fn circuit(&self) -> String {
        format!("/ip4/203.0.113.1/tcp/1/p2p/{}/p2p-circuit/p2p/{}", self.relay, self.peer)
    }

    fn closes(&mut self) -> Vec<ConnectionId> {
        let close = |action| match action {
            Action::Close { connection, .. } => Some(connection),
            _ => None,
        };
        self.plan().into_iter().filter_map(close).collect()
    }
}

#[test]
fn nobody_is_dialled_before_somebody_wants_to() {
    let mut s = Setup::new(&[DIRECT]);
    assert_eq!(s.plan(), []);
    s.paths.want(&s.peer, s.now);
    assert_eq!(s.dialled(), [Class::Direct]);
}

#[test]
fn circuits_wait_for_a_direct_address_a_little() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    assert_eq!(s.dialled(), [Class::Direct]);
    s.pass(HEAD_START - Duration::from_millis(1));
    assert_eq!(s.dialled(), []);
    s.pass(Duration::from_millis(1));
    assert_eq!(s.dialled(), [Class::Relayed], "while the direct dial is still under way");
}

#[test]
fn circuits_do_not_wait_without_a_direct_address_or_after_it_failed() {
    let mut s = Setup::new(&[]);
    s.paths.want(&s.peer, s.now);
    let actions = s.plan();
    let circuit: Multiaddr = s.circuit().parse().unwrap();
    assert_eq!(actions, [Action::Dial { peer: s.peer, class: Class::Relayed, addresses: vec![circuit] }]);
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    s.plan();
    s.fail(Class::Direct);
    assert_eq!(s.dialled(), [Class::Relayed]);
}

#[test]
fn it_is_hopeless_when_all_has_failed_and_not_before() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    s.plan();
    assert!(!s.paths.is_hopeless(&s.peer));
    s.fail(Class::Direct);
    assert!(!s.paths.is_hopeless(&s.peer), "the relay is not tried");
    s.plan();
    s.fail(Class::Relayed);
    assert!(s.paths.is_hopeless(&s.peer));
    assert_eq!(s.paths.peer(&s.peer).unwrap().reason.as_deref(), Some("refused"));
    s.paths.want(&s.peer, s.now);
    assert!(!s.paths.is_hopeless(&s.peer), "somebody else gets a try of his own");
    assert_eq!(s.dialled(), [], "not more often than that");
    s.pass(HEAD_START);
    assert_eq!(s.dialled(), [Class::Direct, Class::Relayed]);
    s.paths.forget(&s.peer);
    assert!(s.paths.is_hopeless(&s.peer));
}

#[test]
fn a_peer_that_answers_and_lets_nobody_in_is_dialled_less_and_less_often() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.set_relays(Vec::new());
    s.paths.want(&s.peer, s.now);
    let mut pauses = Vec::new();
    for refusals in 1..8 {
        let before = s.now;
        while s.dialled().is_empty() {
            s.pass(Duration::from_millis(50));
        }
        pauses.push((s.now - before).as_millis());
        let id = s.paths.peers[&s.peer].direct.in_flight.unwrap();
        let endpoint = ConnectedPoint::Dialer {
            address: DIRECT.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        s.paths.established(&s.peer, Connection::new(id, &endpoint, s.now));
        s.paths.closed(&s.peer, id, Some("refused".into()), s.now);
        assert_eq!(s.paths.is_hopeless(&s.peer), refusals >= 3);
    }
    assert_eq!(pauses, [0, 250, 1_000, 2_000, 4_000, 8_000, 16_000]);
}

#[test]
fn a_relayed_connection_does_not_keep_a_direct_one_from_being_tried() {
    let mut s = Setup::new(&[]);
    s.paths.want(&s.peer, s.now);
    s.plan();
    let circuit = s.circuit();
    let relayed = s.connect(&circuit);
    assert_eq!(s.plan(), [Action::Exchange { peer: s.peer, connection: relayed }], "at once");
    s.paths.exchanged(&s.peer, vec![DIRECT.parse().unwrap(), LAN.parse().unwrap()], s.now);
    let Action::Dial { class: Class::Direct, addresses, .. } = &s.plan()[0] else { panic!("not dialled") };
    assert_eq!(addresses.len(), 2, "private ones too");
    // It fails; it is tried again, each time with an exchange first, less and less often.
    let mut pauses = Vec::new();
    for _ in 0..12 {
        s.fail(Class::Direct);
        let failed = s.now;
        let mut exchanged = false;
        loop {
            s.paths.want(&s.peer, s.now);
            s.paths.ping(&s.peer, relayed, Duration::from_millis(1), s.now);
            match s.plan().as_slice() {
                [] => s.pass(Duration::from_secs(1)),
                [Action::Exchange { .. }] => {
                    pauses.push((s.now - failed).as_secs());
                    exchanged = true;
                    s.paths.exchanged(&s.peer, Vec::new(), s.now);
                }
                [Action::Dial { .. }] => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(exchanged);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    s.fail(Class::Direct);
    s.pass(HEAD_START);
    assert_eq!(s.plan(), []);
    s.paths.network_changed(s.now);
    assert_eq!(s.plan(), [Action::Exchange { peer: s.peer, connection: relayed }], "at once");
}

#[test]
fn the_best_connection_is_used_and_the_others_end_when_they_are_empty() {
    let mut s = Setup::new(&[DIRECT, LAN]);
    s.paths.want(&s.peer, s.now);
    let circuit = s.circuit();
    let relayed = s.connect(&circuit);
    assert_eq!(s.paths.best(&s.peer).unwrap().id, relayed);
    let direct = s.connect(DIRECT);
    assert_eq!(s.paths.best(&s.peer).unwrap().id, direct);
    let lan = s.connect(LAN);
    assert_eq!(s.paths.best(&s.peer).unwrap().id, lan);
    let keep_alive = |s: &mut Setup| {
        for id in [relayed, direct, lan] {
            s.paths.ping(&s.peer, id, Duration::from_millis(1), s.now);
        }
    };
    // A stream on the relayed connection holds it.
    for _ in 0..20 {
        s.pass(Duration::from_secs(1));
        keep_alive(&mut s);
        let closed: Vec<Action> = s.paths.plan(s.now, |id| (usize::from(id == relayed), 0));
        for action in closed {
            let Action::Close { connection, .. } = action else { continue };
            assert_eq!(connection, direct);
            s.paths.closed(&s.peer, direct, None, s.now);
        }
    }
    assert_eq!(s.paths.peer(&s.peer).unwrap().connections.len(), 2);
    s.pass(GRACE);
    keep_alive(&mut s);
    assert_eq!(s.closes(), [relayed]);
}

#[test]
fn only_the_smaller_end_closes_what_is_not_the_best() {
    let mut s = Setup::new(&[LAN]);
    // We are the larger one.
    let (own, peer) = (s.peer, s.own);
    s.paths = Paths::new(own, false);
    (s.own, s.peer) = (own, peer);
    s.paths.know(peer, Vec::new(), s.now);
    let circuit = s.circuit();
    let relayed = s.connect(&circuit);
    let lan = s.connect(LAN);
    for _ in 0..60 {
        s.pass(Duration::from_secs(1));
        for id in [relayed, lan] {
            s.paths.ping(&s.peer, id, Duration::from_millis(1), s.now);
        }
        assert_eq!(s.closes(), []);
    }
}

#[test]
fn a_connection_without_a_ping_is_not_used_and_ends() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    let id = s.unproved(DIRECT);
    assert!(s.paths.best(&s.peer).is_none());
    for _ in 0..20 {
        s.pass(Duration::from_millis(500));
        if s.closes() == [id] {
            return;
        }
    }
    panic!("still open");
}

#[test]
fn silence_ends_a_connection_within_five_seconds() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    let id = s.connect(DIRECT);
    let last = s.now;
    while s.closes().is_empty() {
        s.now = s.paths.next(s.now).max(s.now + Duration::from_millis(1));
        assert!(s.now - last <= Duration::from_secs(5));
    }
    assert!(s.now - last >= SILENCE);
    // Traffic is a sign of life as good as a ping.
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    s.connect(DIRECT);
    for reads in 0..100 {
        s.pass(Duration::from_secs(1));
        let actions = s.paths.plan(s.now, |_| (1, reads));
        assert!(!actions.iter().any(|action| matches!(action, Action::Close { .. })));
    }
    let _ = id;
}

#[test]
fn a_process_that_stood_still_does_not_blame_its_peers() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.want(&s.peer, s.now);
    s.connect(DIRECT);
    s.plan();
    s.pass(IDLE / 2);
    assert_eq!(s.closes(), []);
}

#[test]
fn an_idle_peer_is_disconnected_unless_it_is_a_relay_of_ours() {
    for pinned in [false, true] {
        let mut s = Setup::new(&[DIRECT]);
        s.paths.want(&s.peer, s.now);
        s.paths.pin(&s.peer, pinned, s.now);
        let id = s.connect(DIRECT);
        let start = s.now;
        let mut closed = false;
        while s.now < start + 3 * IDLE {
            s.pass(Duration::from_secs(1));
            s.paths.ping(&s.peer, id, Duration::from_millis(1), s.now);
            closed |= s.closes() == [id];
        }
        assert_eq!(closed, !pinned);
    }
}

#[test]
fn a_relay_of_ours_is_dialled_again_soon() {
    let mut s = Setup::new(&[DIRECT]);
    s.paths.set_relays(Vec::new());
    s.paths.pin(&s.peer, true, s.now);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let before = s.now;
        while s.dialled().is_empty() {
            s.pass(Duration::from_millis(100));
        }
        pauses.push((s.now - before).as_millis());
        s.fail(Class::Direct);
    }
    assert_eq!(pauses, [0, 1_000, 2_000, 2_000, 2_000]);
}

#[test]
fn addresses_near_are_bounded_and_newest_first() {
    let mut s = Setup::new(&[]);
    for port in 0..100 {
        s.paths.near(&s.peer, vec![format!("/ip4/192.168.1.7/tcp/{port}").parse().unwrap()], s.now);
    }
    s.paths.want(&s.peer, s.now);
    let Action::Dial { addresses, .. } = &s.plan()[0] else { panic!("not dialled") };
    assert_eq!(addresses.len(), MAX_NEAR);
    assert_eq!(addresses[0].to_string(), "/ip4/192.168.1.7/tcp/99");
    s.paths.set_relays((0..100).map(|_| (PeerId::random(), "/ip4/203.0.113.1/tcp/1".parse().unwrap())).collect());
    assert_eq!(s.paths.circuits(&s.peer, &s.paths.peers[&s.peer]).len(), MAX_CIRCUITS);
}

#[test]
fn kinds_follow_from_addresses() {
    let relay = PeerId::random();
    let cases = [
        ("/ip4/10.1.2.3/tcp/1".to_owned(), Kind::Lan),
        ("/ip6/fd00::1/udp/1/quic-v1".to_owned(), Kind::Lan),
        ("/ip6/fe80::1/udp/1/quic-v1".to_owned(), Kind::Lan),
        ("/ip6/::ffff:10.0.0.1/tcp/1".to_owned(), Kind::Lan),
        ("/ip4/100.64.0.1/tcp/1".to_owned(), Kind::Direct),
        ("/ip4/203.0.113.1/tcp/1".to_owned(), Kind::Direct),
        ("/ip6/2001:db8::1/tcp/1".to_owned(), Kind::Direct),
        (format!("/ip4/10.1.2.3/tcp/1/p2p/{relay}/p2p-circuit"), Kind::Relayed(relay)),
    ];
    for (address, kind) in cases {
        let endpoint =
            ConnectedPoint::Listener { local_addr: address.parse().unwrap(), send_back_addr: address.parse().unwrap() };
        assert_eq!(Kind::of(&endpoint).0, kind, "{address}");
    }
}

proptest! {
    /// Whatever happens, at most one dial of a class is under way, and a peer that is wanted and can be dialled is
    /// dialled again within the longest pause.
    #[test]
    fn a_wanted_peer_is_never_forgotten(steps in prop::collection::vec((0_u8..6, 0_u64..5_000), 1..200)) {
        let mut s = Setup::new(&[DIRECT]);
        s.paths.want(&s.peer, s.now);
        let mut open: Vec<ConnectionId> = Vec::new();
        for (step, millis) in steps {
            s.pass(Duration::from_millis(millis));
            match step {
                0 => s.paths.want(&s.peer, s.now),
                1 if s.paths.peers[&s.peer].direct.in_flight.is_some() => s.fail(Class::Direct),
                2 if s.paths.peers[&s.peer].relayed.in_flight.is_some() => s.fail(Class::Relayed),
                3 if open.len() < 4 => open.push(s.connect(DIRECT)),
                4 if open.len() < 4 => {
                    let circuit = s.circuit();
                    open.push(s.unproved(&circuit));
                }
                5 => if let Some(id) = open.pop() {
                    s.paths.closed(&s.peer, id, None, s.now);
                },
                _ => {}
            }
            let dialled = s.dialled();
            prop_assert!(dialled.len() <= 2);
        }
        for id in open.drain(..) {
            s.paths.closed(&s.peer, id, None, s.now);
        }
        for class in [Class::Direct, Class::Relayed] {
            if s.paths.peers[&s.peer].direct.in_flight.is_some() && class == Class::Direct
                || s.paths.peers[&s.peer].relayed.in_flight.is_some() && class == Class::Relayed {
                s.fail(class);
            }
        }
        s.paths.want(&s.peer, s.now);
        let until = s.now + BACKOFF_DISCONNECTED;
        let mut dialled = Vec::new();
        while s.now < until && !dialled.contains(&Class::Direct) {
            dialled.extend(s.dialled());
            s.pass(Duration::from_millis(100));
        }
        prop_assert!(dialled.contains(&Class::Direct));
    }
}
