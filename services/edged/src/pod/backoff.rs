//! Delays between attempts: crash loops, image pulls, and everything else that is tried again.
//!
//! Called by the plan and the worker, without IO. Invariants: a delay doubles from its first value
//! to its limit, and starts again after twice the limit without a failure, as in the kubelet; there
//! is no jitter, because the attempts are local and users know the steps 10 s, 20 s, 40 s.

use super::UnixMs;

/// A container that ended is started again after 10 s, 20 s, … 5 minutes.
pub(crate) const CRASH: Limits = Limits { first_ms: 10_000, last_ms: 300_000 };
/// An image that could not be pulled is pulled again after 10 s, 20 s, … 5 minutes.
pub(crate) const IMAGE: Limits = Limits { first_ms: 10_000, last_ms: 300_000 };
/// Sandboxes, volumes and calls to the runtime are tried again after 1 s, 2 s, … 1 minute.
pub(crate) const RETRY: Limits = Limits { first_ms: 1_000, last_ms: 60_000 };

/// First and last delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
}

/// The delay in force after a failure, and when it was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delay {
    pub(crate) delay_ms: i64,
    set_ms: UnixMs,
}

impl Delay {
    /// What the delay must be after `failures` in a row, for an agent that has just started and
    /// finds them in the runtime.
    pub(crate) fn after(failures: u32, at: UnixMs, limits: Limits) -> Self {
        let mut delay = Self::default();
        for _ in 0..failures.min(16) {
            delay.next(at, limits);
        }
        delay
    }

    /// Notes a failure at `at` and returns the new delay.
    pub(crate) fn next(&mut self, at: UnixMs, limits: Limits) -> i64 {
        let forgotten = at.saturating_sub(self.set_ms) > limits.last_ms.saturating_mul(2);
        self.delay_ms = if self.delay_ms == 0 || forgotten {
            limits.first_ms
        } else {
            self.delay_ms.saturating_mul(2).min(limits.last_ms)
        };
        self.set_ms = at;
        self.delay_ms
    }

    /// The delay after a failure at `failed`: none when the last one is long ago.
    pub(crate) fn in_force(&self, failed: UnixMs, limits: Limits) -> i64 {
        if failed.saturating_sub(self.set_ms) > limits.last_ms.saturating_mul(2) { 0 } else { self.delay_ms }
    }

    /// When the next attempt may be made after a failure at `failed`. A clock that jumped back does
    /// not make it later than one delay from now.
    pub(crate) fn until(&self, failed: UnixMs, now: UnixMs) -> UnixMs {
        failed.min(now).saturating_add(self.delay_ms)
    }
}

/// Something that failed and is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Retry {
    delay: Delay,
    /// Not before this time; `None` when nothing failed.
    pub(crate) at: Option<UnixMs>,
    /// When it failed last.
    pub(crate) failed_ms: UnixMs,
}

impl Retry {
    pub(crate) fn failed(&mut self, now: UnixMs, limits: Limits) -> i64 {
        let delay = self.delay.next(now, limits);
        self.at = Some(now.saturating_add(delay));
        self.failed_ms = now;
        delay
    }

    /// The delay that one more failure would set.
    pub(crate) fn delay_after_next(&self, limits: Limits) -> i64 {
        self.delay.delay_ms.saturating_mul(2).clamp(limits.first_ms, limits.last_ms)
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The next attempt may be made at once, but the count of failures stays.
    pub(crate) fn hurry(&mut self) {
        self.at = self.at.map(|_| UnixMs::MIN);
    }

    /// Whether it must still wait, and until when. A clock that jumped back does not extend it.
    pub(crate) fn waits(&self, now: UnixMs) -> Option<UnixMs> {
        self.at.filter(|at| *at > now).map(|at| at.min(now.saturating_add(self.delay.delay_ms)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn crash_delays_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut delay = Delay::default();
        let mut at = 0;
        let seen: Vec<i64> = (0..7)
            .map(|_| {
                let d = delay.next(at, CRASH);
                at += d;
                d / 1000
            })
            .collect();
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(delay.next(at + 600_001, CRASH), 10_000);
    }

    #[test]
    fn a_clock_that_jumps_back_delays_once_more_at_most() {
        let mut retry = Retry::default();
        retry.failed(1_000_000_000, RETRY);
        assert_eq!(retry.waits(5_000), Some(6_000));
        assert_eq!(retry.waits(1_000_001_000), None);
        assert_eq!(Delay { delay_ms: 10, set_ms: 0 }.until(1_000, 50), 60);
    }

    #[test]
    fn a_restarted_agent_finds_the_delay_again() {
        assert_eq!(Delay::after(0, 0, CRASH).delay_ms, 0);
        assert_eq!(Delay::after(3, 0, CRASH).delay_ms, 40_000);
        assert_eq!(Delay::after(1000, 0, CRASH).delay_ms, 300_000);
    }
}
