//! When to renew a certificate.
//!
//! Two thirds of the way through its life, spread over ± 10 % of the life so that nodes which joined
//! together do not renew together. Pure: the random number is passed in, so a simulation can repeat it.

use jiff::{SignedDuration, Timestamp};

/// Two thirds, in thousandths of the life.
const RENEW_AT: i64 = 667;

/// Half-width of the spread, in thousandths of the life.
const JITTER: f64 = 100.0;

/// The instant at which to renew a certificate that lives from `not_before` to `not_after`.
///
/// `random` is uniform in `[0, 1)`; values outside are clamped. The same number gives the same
/// instant, so draw it once per certificate.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, random: f64) -> Timestamp {
    let life = not_after.duration_since(not_before).max(SignedDuration::ZERO);
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
    #[expect(clippy::cast_possible_truncation, reason = "between -100 and 100")]
    let jitter = ((random * 2.0 - 1.0) * JITTER) as i64;
    let thousandths = RENEW_AT + jitter;
    // Seconds are enough, and cannot overflow: a life is at most 10^12 s.
    let offset = SignedDuration::from_secs(life.as_secs().saturating_mul(thousandths) / 1000);
    not_before.saturating_add(offset).unwrap_or(not_after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn renewal_is_at_two_thirds_and_spread_over_a_fifth_of_the_life() {
        let (start, end) = (at(0), at(100_000));
        assert_eq!(renew_at(start, end, 0.5), at(66_700));
        assert_eq!(renew_at(start, end, 0.0), at(56_700));
        assert_eq!(renew_at(start, end, 1.0), at(76_700));
        let times: Vec<i64> = (0..10_000).map(|i| renew_at(start, end, f64::from(i) / 10_000.0).as_second()).collect();
        let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
        assert!(spread >= 10_000, "10,000 renewals are spread over a tenth of the life at least: {spread}");
    }

    #[test]
    fn odd_input_stays_within_the_life() {
        for random in [f64::NAN, f64::INFINITY, -3.0, 7.0] {
            let when = renew_at(at(0), at(100), random);
            assert!(when >= at(0) && when <= at(100));
        }
        assert_eq!(renew_at(at(100), at(0), 0.9), at(100), "a life that ends before it begins");
        let _ = renew_at(Timestamp::MIN, Timestamp::MAX, 0.9);
    }
}
