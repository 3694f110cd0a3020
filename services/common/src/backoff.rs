//! Full-jitter exponential backoff.
//!
//! The delay is drawn evenly from zero to the current ceiling, and the ceiling doubles up to its
//! maximum: a thousand clients that failed together do not come back together. The random number is
//! passed in, so that state machines stay deterministic.

use std::time::Duration;

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// A backoff whose ceiling starts at `min` and ends at `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), ceiling: min }
    }

    /// The next delay. `random` is evenly distributed in `0.0..1.0`.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let delay = self.ceiling.mul_f64(random.clamp(0.0, 1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        delay
    }

    /// As [`Backoff::next_delay`], with the thread's random numbers.
    pub fn jittered(&mut self) -> Duration {
        self.next_delay(rand::random::<f64>())
    }

    /// Starts again from the minimum, after a success that lasted.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let ceilings: Vec<_> = (0..10).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(ceilings, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.5), Duration::from_millis(100));
    }
}
