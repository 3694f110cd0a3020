//! CPU time into CPU use: the difference between two looks. No IO.
//!
//! Owned by the collector. The kernel counts time since the start; what users want to see is the use
//! now. The first look at something has no rate; looks in quick succession share one, since the
//! difference of two near readings is mostly noise. Bounded by what was seen in the last full look.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Shorter windows are noise: the kernel counts in steps of some milliseconds.
const MIN_WINDOW: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu_ns: u64,
    at: Instant,
    rate: Option<u64>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: HashMap<String, Sample>,
}

impl Rates {
    /// Billionths of a core since the last look at `key`.
    pub(super) fn next(&mut self, key: &str, cpu_ns: u64, at: Instant) -> Option<u64> {
        let Some(last) = self.samples.get_mut(key) else {
            self.samples.insert(key.to_owned(), Sample { cpu_ns, at, rate: None });
            return None;
        };
        let window = at.saturating_duration_since(last.at);
        // Less time than before: another group under the same name.
        if cpu_ns < last.cpu_ns {
            *last = Sample { cpu_ns, at, rate: None };
        } else if window >= MIN_WINDOW {
            let used = u128::from(cpu_ns - last.cpu_ns).saturating_mul(1_000_000_000);
            let rate = used.checked_div(window.as_nanos()).and_then(|r| u64::try_from(r).ok());
            *last = Sample { cpu_ns, at, rate };
        }
        last.rate
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, keys: &HashSet<String>) {
        self.samples.retain(|k, _| keys.contains(k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_looks_that_are_apart() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(rates.next("a", 0, start), None);
        assert_eq!(rates.next("a", 1_000_000, after(100)), None, "too near");
        assert_eq!(rates.next("a", 1_000_000_000, after(2_000)), Some(500_000_000), "half a core");
        assert_eq!(rates.next("a", 1_900_000_000, after(2_100)), Some(500_000_000), "too near: the last one");
        assert_eq!(rates.next("a", 5, after(9_000)), None, "it began again");
        rates.retain(&HashSet::new());
        assert_eq!(rates.next("a", 9, after(20_000)), None);
    }
}
