//! The linear relation between what is in a register and the value: `value = raw * scale + valueOffset`.
//!
//! A scale is meant in decimals, and 0.1 is no binary number: it is kept as a fraction of whole numbers, so
//! that 3 with a scale of 0.1 is 0.3 and not 0.30000000000000004. Whole numbers stay exact.

use skerry_mapper_sdk::ConfigError;

/// Decimals of a scale that are kept; a `f64` has no more.
const MAX_DECIMALS: usize = 15;

/// A linear relation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    numerator: f64,
    offset: f64,
    /// Of both, a power of ten.
    denominator: f64,
}

impl Scale {
    /// A scale of 0 is none: KubeEdge's structs have it where nothing is written.
    ///
    /// # Errors
    /// When a scale is too small to be told from 0.
    pub(crate) fn new(scale: f64, offset: f64) -> Result<Self, ConfigError> {
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let (numerator, places) = fraction(scale);
        if numerator == 0.0 {
            return Err(ConfigError::invalid("scale", format!("{scale} has more than {MAX_DECIMALS} decimals")));
        }
        // Both over the same power of ten, so that there is one division and one rounding.
        let (offset, offset_places) = fraction(offset);
        let all = places.max(offset_places);
        let (numerator, offset) = (numerator * ten(all - places), offset * ten(all - offset_places));
        Ok(Self { numerator, denominator: ten(all), offset })
    }

    /// Whether values are what is in the registers.
    pub(crate) fn is_identity(&self) -> bool {
        self.whole_numbers() == Some((1, 0))
    }

    /// Numerator and offset where all is whole.
    fn whole_numbers(&self) -> Option<(i64, i64)> {
        // Ten to the power of zero, exactly.
        #[expect(clippy::float_cmp)]
        let whole = self.denominator == 1.0;
        exact(self.numerator).zip(exact(self.offset)).filter(|_| whole)
    }

    /// The value of a whole number, if it is a whole number too.
    pub(crate) fn whole(&self, raw: i128) -> Option<i128> {
        let (factor, offset) = self.whole_numbers()?;
        raw.checked_mul(i128::from(factor))?.checked_add(i128::from(offset))
    }

    /// The value.
    pub(crate) fn apply(&self, raw: f64) -> f64 {
        (raw * self.numerator + self.offset) / self.denominator
    }

    /// What is in the registers for a whole value, if that is whole and exact.
    pub(crate) fn whole_raw(&self, value: i128) -> Option<i128> {
        let (factor, offset) = self.whole_numbers()?;
        let raw = value.checked_sub(i128::from(offset))?;
        (raw.checked_rem(i128::from(factor))? == 0).then(|| raw / i128::from(factor))
    }

    /// What is in the registers for a value.
    pub(crate) fn invert(&self, value: f64) -> f64 {
        (value * self.denominator - self.offset) / self.numerator
    }
}

/// The number as the user wrote it: its digits as a whole number, and how many of them are decimals.
fn fraction(number: f64) -> (f64, usize) {
    // Display has the shortest digits that are this number, and never an exponent.
    let text = number.to_string();
    let Some((whole, decimals)) = text.split_once('.') else { return (number, 0) };
    let decimals: String = decimals.chars().take(MAX_DECIMALS).collect();
    match format!("{whole}{decimals}").parse() {
        Ok(digits) => (digits, decimals.len()),
        Err(_) => (number, 0),
    }
}

/// A power of ten; those up to [`MAX_DECIMALS`] are exact.
fn ten(exponent: usize) -> f64 {
    10_f64.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

/// A whole number that a `f64` holds exactly.
fn exact(number: f64) -> Option<i64> {
    // 2^53: all whole numbers up to here are exact.
    let fits = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole and far below the bound of an i64")]
    fits.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_are_meant_as_they_are_written() {
        let tenth = Scale::new(0.1, 0.0).unwrap();
        assert_eq!(tenth.apply(3.0).to_string(), "0.3");
        assert_eq!(tenth.apply(253.0).to_string(), "25.3");
        assert_eq!(Scale::new(0.01, -40.0).unwrap().apply(6520.0).to_string(), "25.2");
        assert_eq!(Scale::new(1e-3, 0.0).unwrap().apply(7.0).to_string(), "0.007");
        assert_eq!(Scale::new(2.5, 1.0).unwrap().apply(3.0).to_string(), "8.5");
        assert!(Scale::new(0.0, 0.0).unwrap().is_identity());
        assert!(Scale::new(1e-20, 0.0).unwrap_err().to_string().contains("`scale`"));
    }

    #[test]
    fn whole_numbers_are_exact() {
        let scale = Scale::new(10.0, 3.0).unwrap();
        assert_eq!(scale.whole(i128::from(u64::MAX)), Some(184_467_440_737_095_516_153));
        assert_eq!(scale.whole_raw(184_467_440_737_095_516_153), Some(i128::from(u64::MAX)));
        assert_eq!(scale.whole_raw(14), None);
        assert_eq!(Scale::new(0.5, 0.0).unwrap().whole(4), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_written_is_what_was_read(raw: i32, digits in 1_u32..100_000, decimals in 0_i32..6, offset in -1000_i32..1000) {
            let scale = Scale::new(f64::from(digits) / 10_f64.powi(decimals), f64::from(offset)).unwrap();
            prop_assert_eq!(scale.invert(scale.apply(f64::from(raw))).round(), f64::from(raw));
        }
    }
}
