//! Which relays hold a place, as they come, answer, slow down and go.
#![allow(clippy::unwrap_used)]

use super::*;

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Relays that were asked and answered, with these times, in the order of the list.
struct Setup {
    relays: Relays,
    peers: Vec<PeerId>,
    start: Instant,
}

impl Setup {
    fn new(times: &[u64]) -> Self {
        let peers: Vec<PeerId> = times.iter().map(|_| PeerId::random()).collect();
        let mut relays = Relays::default();
        relays.set(&peers);
        for (peer, time) in peers.iter().zip(times) {
            relays.ping(peer, ms(*time));
        }
        Self { relays, peers, start: Instant::now() }
    }

    /// Does what is planned, as a relay that always says yes.
    fn settle(&mut self, now: Instant) {
        for _ in 0..10 {
            for action in self.relays.plan(now) {
                match action {
                    Action::Reserve(peer) => {
                        self.relays.asked(&peer, ListenerId::next(), now);
                        self.relays.accepted(&peer, now);
                    }
                    Action::Release(listener) => assert!(self.relays.ended(listener, now)),
                }
            }
        }
    }

    fn held(&self) -> Vec<usize> {
        let held = self.relays.held();
        (0..self.peers.len()).filter(|index| held.contains(&self.peers[*index])).collect()
    }
}

#[test]
fn the_two_nearest_hold_a_place() {
    let mut s = Setup::new(&[50, 10, 90, 20]);
    s.settle(s.start);
    assert_eq!(s.held(), [1, 3]);
    assert_eq!(s.relays.by_distance().first(), Some(&s.peers[1]));
}

#[test]
fn a_relay_that_is_not_connected_is_not_asked() {
    let mut relays = Relays::default();
    relays.set(&[PeerId::random()]);
    assert_eq!(relays.plan(Instant::now()), []);
}

#[test]
fn when_one_dies_the_next_takes_its_place() {
    let mut s = Setup::new(&[10, 20, 30]);
    s.settle(s.start);
    let listener = s.relays.states[&s.peers[0]].listener.unwrap().0;
    s.relays.disconnected(&s.peers[0]);
    assert!(s.relays.ended(listener, s.start));
    s.settle(s.start);
    assert_eq!(s.held(), [1, 2]);
}

#[test]
fn a_much_better_one_replaces_the_worst_after_a_while_and_before_it_is_given_up() {
    let mut s = Setup::new(&[50, 60]);
    s.settle(s.start);
    let near = PeerId::random();
    let list = [s.peers.clone(), vec![near]].concat();
    s.relays.set(&list);
    s.peers.push(near);
    s.relays.ping(&near, ms(5));
    s.settle(at(s.start, 29));
    assert_eq!(s.held(), [0, 1], "not yet settled");
    let actions = s.relays.plan(at(s.start, 31));
    assert_eq!(actions, [Action::Reserve(near)], "made before the other is given up");
    s.relays.asked(&near, ListenerId::next(), at(s.start, 31));
    assert_eq!(s.relays.plan(at(s.start, 31)), [], "waits for the answer");
    s.relays.accepted(&near, at(s.start, 31));
    s.settle(at(s.start, 31));
    assert_eq!(s.held(), [0, 2]);
}

#[test]
fn a_little_better_is_no_reason() {
    let mut s = Setup::new(&[50, 60]);
    s.settle(s.start);
    let other = PeerId::random();
    s.relays.set(&[s.peers.clone(), vec![other]].concat());
    s.relays.ping(&other, ms(45));
    assert_eq!(s.relays.plan(at(s.start, 100)), []);
}

#[test]
fn a_relay_that_refuses_is_asked_less_and_less_often() {
    let mut s = Setup::new(&[10]);
    let mut now = s.start;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let asked = now;
        loop {
            if let [Action::Reserve(peer)] = s.relays.plan(now)[..] {
                let listener = ListenerId::next();
                s.relays.asked(&peer, listener, now);
                s.relays.ended(listener, now);
                break;
            }
            now += Duration::from_secs(1);
        }
        pauses.push((now - asked).as_secs());
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30]);
}

#[test]
fn a_relay_that_does_not_answer_is_released() {
    let mut s = Setup::new(&[10]);
    let listener = ListenerId::next();
    s.relays.asked(&s.peers[0], listener, s.start);
    assert_eq!(s.relays.plan(at(s.start, 4)), []);
    assert_eq!(s.relays.plan(at(s.start, 5)), [Action::Release(listener)]);
}

#[test]
fn a_relay_that_leaves_the_list_is_released() {
    let mut s = Setup::new(&[10, 20]);
    s.settle(s.start);
    let listener = s.relays.states[&s.peers[0]].listener.unwrap().0;
    let (gone, actions) = s.relays.set(&s.peers[1..]);
    assert_eq!((gone, actions), (vec![s.peers[0]], vec![Action::Release(listener)]));
}

#[test]
fn the_list_is_bounded() {
    let peers: Vec<PeerId> = (0..MAX_RELAYS + 5).map(|_| PeerId::random()).collect();
    let mut relays = Relays::default();
    relays.set(&peers);
    assert_eq!(relays.by_distance().len(), MAX_RELAYS);
}
