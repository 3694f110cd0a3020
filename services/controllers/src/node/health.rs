//! When a node counts as gone, and how fast nodes may be emptied.
//!
//! Pure: the monotonic time comes in. What counts is how long *we* have seen no new Lease or heartbeat,
//! by our own monotonic clock; the times that nodes write are only compared for being different. So a
//! clock that jumps, here or on a node, makes no node gone.
//!
//! Invariants: a restart of this process gives every node its full grace; time in which this process
//! did not run (a stalled or suspended machine) is not counted against the nodes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Above this share of nodes that are not ready, evictions slow down, as in Kubernetes.
const UNHEALTHY_SHARE: f64 = 0.55;
/// With fewer nodes, evictions stop above that share.
const LARGE_CLUSTER: usize = 50;
/// Evictions per second in a large cluster of which most is not ready.
const SLOW_RATE: f64 = 0.01;
/// A look that comes later than this many periods shows that we ourselves were not running.
const LATE_AFTER_PERIODS: u32 = 3;

/// What a node has last shown of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sign {
    /// renewTime of its Lease.
    pub(crate) renewed: Option<Timestamp>,
    /// lastHeartbeatTime of its Ready condition.
    pub(crate) heartbeat: Option<Timestamp>,
}

#[derive(Debug)]
struct Seen {
    sign: Sign,
    at: Instant,
}

/// When each node last showed a sign of life.
#[derive(Debug, Default)]
pub(crate) struct Health {
    nodes: HashMap<String, Seen>,
    looked: Option<Instant>,
}

impl Health {
    /// Notes what `node` shows now.
    pub(crate) fn observe(&mut self, node: &str, sign: Sign, now: Instant) {
        match self.nodes.get_mut(node) {
            Some(seen) => {
                if seen.sign != sign {
                    *seen = Seen { sign, at: now };
                }
            }
            None => {
                self.nodes.insert(node.to_owned(), Seen { sign, at: now });
            }
        }
    }

    /// The node is not a node any more.
    pub(crate) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Call it every `period`. When it was called much too late, nodes are given the time that we
    /// missed.
    pub(crate) fn look(&mut self, period: Duration, now: Instant) {
        if let Some(last) = self.looked.replace(now) {
            let elapsed = now - last;
            if elapsed > period * LATE_AFTER_PERIODS {
                let missed = elapsed - period;
                for seen in self.nodes.values_mut() {
                    seen.at = (seen.at + missed).min(now);
                }
            }
        }
    }

    /// Has the node been silent for too long?
    pub(crate) fn is_gone(&self, node: &str, grace: Duration, startup: Duration, now: Instant) -> bool {
        self.nodes.get(node).is_some_and(|seen| {
            let never = seen.sign == Sign::default();
            now - seen.at > if never { startup } else { grace }
        })
    }
}

/// Nodes per second that may be tainted NoExecute now; `None` stops evictions and takes them back.
pub(crate) fn eviction_rate(ready: usize, not_ready: usize, normal: f64, stop_when_all_gone: bool) -> Option<f64> {
    let total = ready + not_ready;
    if ready == 0 && not_ready > 0 && stop_when_all_gone {
        return None;
    }
    // Node counts are far below 2^52.
    if not_ready > 2 && not_ready as f64 >= UNHEALTHY_SHARE * total as f64 {
        return Some(if total > LARGE_CLUSTER { SLOW_RATE } else { 0.0 });
    }
    Some(normal)
}

/// A token bucket of one token.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    last: Option<Instant>,
}

impl Limiter {
    /// Takes the token if there is one.
    pub(crate) fn try_take(&mut self, rate: f64, now: Instant) -> bool {
        if rate <= 0.0 {
            return false;
        }
        let free = self.last.is_none_or(|last| (now - last).as_secs_f64() * rate >= 1.0);
        if free {
            self.last = Some(now);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const GRACE: Duration = Duration::from_secs(40);
    const STARTUP: Duration = Duration::from_secs(60);

    fn sign(second: i64) -> Sign {
        Sign { renewed: Some(Timestamp::from_second(second).unwrap()), heartbeat: None }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_change_we_saw() {
        let (mut health, start) = (Health::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        health.observe("n", sign(1000), at(0));
        health.observe("n", sign(1000), at(30));
        assert!(!health.is_gone("n", GRACE, STARTUP, at(40)));
        assert!(health.is_gone("n", GRACE, STARTUP, at(41)));
        health.observe("n", sign(1010), at(41));
        assert!(!health.is_gone("n", GRACE, STARTUP, at(80)));
        assert!(!health.is_gone("unknown", GRACE, STARTUP, at(1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_that_jump_make_no_node_gone() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.observe("n", sign(1_000_000), start);
        // The node's clock jumps back by years: still a sign of life.
        health.observe("n", sign(1000), start + Duration::from_secs(39));
        assert!(!health.is_gone("n", GRACE, STARTUP, start + Duration::from_secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_stall_is_not_counted() {
        let (mut health, start) = (Health::default(), Instant::now());
        let period = Duration::from_secs(5);
        health.observe("n", sign(1), start);
        health.look(period, start);
        let woken = start + Duration::from_secs(300);
        health.look(period, woken);
        assert!(!health.is_gone("n", GRACE, STARTUP, woken));
        assert!(health.is_gone("n", GRACE, STARTUP, woken + Duration::from_secs(41)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_spoke_has_its_startup_grace() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.observe("n", Sign::default(), start);
        assert!(!health.is_gone("n", GRACE, STARTUP, start + Duration::from_secs(60)));
        assert!(health.is_gone("n", GRACE, STARTUP, start + Duration::from_secs(61)));
    }

    #[test]
    fn evictions_slow_down_and_stop() {
        for (ready, not_ready, expected) in [
            (1, 0, Some(0.1)),
            (0, 0, Some(0.1)),
            (0, 1, None),
            (0, 100, None),
            (1, 1, Some(0.1)),
            (1, 2, Some(0.1)),
            (2, 3, Some(0.0)),
            (40, 60, Some(0.01)),
            (60, 40, Some(0.1)),
        ] {
            assert_eq!(eviction_rate(ready, not_ready, 0.1, true), expected, "{ready} {not_ready}");
        }
        assert_eq!(eviction_rate(0, 1, 0.1, false), Some(0.1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_node_at_a_time() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        assert!(limiter.try_take(0.1, start));
        assert!(!limiter.try_take(0.1, start + Duration::from_secs(9)));
        assert!(limiter.try_take(0.1, start + Duration::from_secs(10)));
        assert!(!limiter.try_take(0.0, start + Duration::from_secs(1000)));
    }
}
