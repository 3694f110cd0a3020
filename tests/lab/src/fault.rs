//! What a bad cable does to each packet: decided here, without IO; `pump` does it.
//!
//! Each direction of a cable has a generator of its own, from the seed. Every datagram of UDP and segment of TCP
//! takes the same number of draws, so the n-th one has the same fate in every run, whatever the settings of the
//! others. Packets of other protocols (ICMP, multicast listeners) are delayed and never lost, and do not count: their
//! number depends on timers of the kernel. Address resolution passes at once: a long line has none, and what ARP
//! makes of a loss or of seconds of delay is not what a test means by them.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The longest delay: beyond, queues would have to be longer, too.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// How much later a packet comes that changes places with those behind it.
const REORDERED: Duration = Duration::from_millis(10);
/// All of them, in the unit of the rates below.
const ALL: u16 = 1000;

/// What a cable does in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// One way.
    pub delay: Duration,
    /// Up to this much is added to the delay; it does not change the order.
    pub jitter: Duration,
    /// Of 1,000 packets, so many are lost.
    pub loss_per_mille: u16,
    /// Of 1,000 packets, so many come 10 ms late, behind those that were sent after them.
    pub reorder_per_mille: u16,
    /// Same seed, same fates.
    pub seed: u64,
}

impl Faults {
    /// A delay and nothing else.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A loss and nothing else, in packets of 1,000.
    #[must_use]
    pub fn loss(loss_per_mille: u16, seed: u64) -> Self {
        Self { loss_per_mille, seed, ..Self::default() }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.loss_per_mille > ALL || self.reorder_per_mille > ALL {
            return Err(format!("more than {ALL} of {ALL} packets"));
        }
        if self.delay + self.jitter > MAX_DELAY {
            return Err(format!("a delay above {} ms", MAX_DELAY.as_millis()));
        }
        Ok(())
    }
}

/// Packets of UDP and TCP that entered one direction of a cable with faults, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Arrived, or are under way.
    pub carried: u64,
    /// Lost by the seed.
    pub lost: u64,
    /// Carried, and late by the seed.
    pub reordered: u64,
    /// Dropped, of any protocol, because too many were under way.
    pub overflowed: u64,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    At(Instant),
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Direction {
    faults: Faults,
    random: StdRng,
    last: Option<Instant>,
    pub(crate) passed: Passed,
}

impl Direction {
    /// `upwards` distinguishes the two directions of a cable.
    pub(crate) fn new(faults: Faults, upwards: bool) -> Self {
        let random = StdRng::seed_from_u64(faults.seed.wrapping_mul(2).wrapping_add(u64::from(upwards)));
        Self { faults, random, last: None, passed: Passed::default() }
    }

    /// Other faults from now on; the generator begins again, what was counted stays.
    pub(crate) fn change(&mut self, faults: Faults, upwards: bool) {
        let (last, passed) = (self.last, self.passed);
        *self = Self { last, passed, ..Self::new(faults, upwards) };
    }

    /// Decides about the next packet; `full` when no more may be under way.
    pub(crate) fn next(&mut self, frame: &[u8], now: Instant, full: bool) -> Fate {
        let mut due = now + self.faults.delay;
        let mut late = false;
        let counted = match kind(frame) {
            Kind::Resolution => return Fate::At(now),
            Kind::Payload => true,
            Kind::Other => false,
        };
        if counted {
            let [lost, reordered] = [(); 2].map(|()| self.random.random_range(0..ALL));
            let jitter: f64 = self.random.random();
            if lost < self.faults.loss_per_mille {
                self.passed.lost += 1;
                return Fate::Lost;
            }
            due += self.faults.jitter.mul_f64(jitter);
            late = reordered < self.faults.reorder_per_mille;
        }
        if full {
            self.passed.overflowed += 1;
            return Fate::Lost;
        }
        self.passed.carried += u64::from(counted);
        self.passed.reordered += u64::from(late);
        if let Some(last) = self.last {
            due = due.max(last);
        }
        if late {
            return Fate::At(due + REORDERED);
        }
        self.last = Some(due);
        Fate::At(due)
    }
}

/// What an Ethernet frame carries.
enum Kind {
    /// UDP or TCP.
    Payload,
    /// ARP, or neighbour discovery.
    Resolution,
    Other,
}

fn kind(frame: &[u8]) -> Kind {
    let transport = match frame.get(12..14) {
        Some([0x08, 0x06]) => return Kind::Resolution,
        Some([0x08, 0x00]) => frame.get(14 + 9),
        Some([0x86, 0xdd]) => frame.get(14 + 6),
        _ => None,
    };
    match (transport, frame.get(14 + 40)) {
        (Some(6 | 17), _) => Kind::Payload,
        (Some(58), Some(133..=137)) => Kind::Resolution,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(ether_type: [u8; 2], at: usize, transport: u8) -> Vec<u8> {
        let mut frame = vec![0; 64];
        frame[12..14].copy_from_slice(&ether_type);
        frame[at] = transport;
        frame
    }
    fn udp() -> Vec<u8> {
        frame([0x08, 0x00], 23, 17)
    }

    fn fates(faults: Faults, upwards: bool, count: usize) -> Vec<Option<Duration>> {
        let (mut direction, start) = (Direction::new(faults, upwards), Instant::now());
        let fate = |_| match direction.next(&udp(), start, false) {
            Fate::Lost => None,
            Fate::At(at) => Some(at - start),
        };
        (0..count).map(fate).collect()
    }

    #[test]
    fn only_datagrams_and_segments_are_lost() {
        let mut broken = Direction::new(Faults::loss(ALL, 1), true);
        let now = Instant::now();
        for payload in [udp(), frame([0x08, 0x00], 23, 6), frame([0x86, 0xdd], 20, 17), frame([0x86, 0xdd], 20, 6)] {
            assert_eq!(broken.next(&payload, now, false), Fate::Lost);
        }
        broken.change(Faults { delay: Duration::from_secs(1), ..broken.faults }, true);
        for other in [frame([0x08, 0x00], 23, 1), frame([0x86, 0xdd], 20, 58), vec![]] {
            assert_eq!(broken.next(&other, now, false), Fate::At(now + Duration::from_secs(1)));
        }
        let mut solicitation = frame([0x86, 0xdd], 20, 58);
        solicitation[54] = 135;
        for resolution in [frame([0x08, 0x06], 23, 17), solicitation] {
            assert_eq!(broken.next(&resolution, now, true), Fate::At(now));
        }
        assert_eq!(broken.passed, Passed { lost: 4, ..Passed::default() });
        let mut whole = Direction::new(Faults::default(), true);
        assert_eq!([whole.next(&udp(), now, false), whole.next(&udp(), now, true)], [Fate::At(now), Fate::Lost]);
        assert_eq!(whole.passed, Passed { carried: 1, overflowed: 1, ..Passed::default() });
    }

    #[test]
    fn directions_and_seeds_differ() {
        let faults = Faults::loss(100, 7);
        assert_ne!(fates(faults, true, 1000), fates(faults, false, 1000));
        assert_ne!(fates(faults, true, 1000), fates(Faults { seed: 8, ..faults }, true, 1000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_seed_alone_decides(seed: u64, loss in 0..=ALL, reorder in 0..=ALL, jitter in 0..500_u64) {
            let delay = Duration::from_millis(50);
            let jitter = Duration::from_millis(jitter);
            let faults = Faults { delay, jitter, loss_per_mille: loss, reorder_per_mille: reorder, seed };
            let first = fates(faults, true, 300);
            prop_assert_eq!(&first, &fates(faults, true, 300));
            // What is lost does not depend on the other settings.
            let lost = |fates: &[Option<Duration>]| fates.iter().map(Option::is_none).collect::<Vec<_>>();
            prop_assert_eq!(lost(&first), lost(&fates(Faults::loss(loss, seed), true, 300)));
            for due in first.iter().flatten() {
                prop_assert!(*due >= delay && *due <= delay + jitter + REORDERED);
            }
        }

        #[test]
        fn without_reordering_the_order_stays(seed: u64, jitter in 0..500_u64) {
            let faults = Faults { jitter: Duration::from_millis(jitter), loss_per_mille: 100, seed, ..Faults::default() };
            let carried: Vec<Duration> = fates(faults, true, 300).into_iter().flatten().collect();
            prop_assert!(carried.is_sorted());
        }

        #[test]
        fn losses_are_near_their_rate(seed: u64) {
            let lost = fates(Faults::loss(50, seed), true, 5_000).iter().filter(|fate| fate.is_none()).count();
            // 250 expected, with a deviation of 15.
            prop_assert!((150..=350).contains(&lost), "{} of 5,000", lost);
        }
    }
}
