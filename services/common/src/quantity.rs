//! Resource quantities as Kubernetes writes them ("500m", "1Gi", "1e3"), as integers.
//!
//! Used by the scheduler and by edged. Pure. Values are rounded up, as Kubernetes does; those of 64 bits
//! saturate instead of overflowing.

/// Digits in front of the point that are read: more is no quantity.
const MAX_WHOLE: usize = 18;

/// Digits behind the point that are read; Kubernetes keeps no more.
const MAX_FRACTION: usize = 9;

/// Largest power of ten in an exponent.
const MAX_EXPONENT: u32 = 18;

/// The value in thousandths: for cpu. `None` when it is not a quantity.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000).map(saturate)
}

/// The value in whole units: for memory, pods and extended resources. `None` when it is not a quantity.
#[must_use]
pub fn units(text: &str) -> Option<i64> {
    scaled(text, 1).map(saturate)
}

/// The value times `factor`, rounded away from zero. `None` when it is not a quantity.
#[must_use]
pub fn scaled(text: &str, factor: u32) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(split)?;
    let (multiply, divide): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs().min(MAX_EXPONENT))?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    };
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > MAX_WHOLE {
        return None;
    }
    let fraction: String = fraction.chars().take(MAX_FRACTION).collect();
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let ten = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (numerator, denominator) =
        (digits.checked_mul(multiply)?.checked_mul(factor.into())?, divide.checked_mul(ten)?);
    let value = numerator.checked_add(denominator - 1)?.checked_div(denominator)?;
    Some(if negative { -value } else { value })
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (text, in_milli, in_units) in [
            ("1", 1000, 1),
            ("500m", 500, 1),
            ("0.1", 100, 1),
            ("1.5", 1500, 2),
            ("100u", 1, 1),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1e3", 1_000_000, 1000),
            ("2E", i64::MAX, 2_000_000_000_000_000_000),
            ("1e-3", 1, 1),
            ("-1", -1000, -1),
            ("0", 0, 0),
            (".5", 500, 1),
        ] {
            assert_eq!((milli(text), units(text)), (Some(in_milli), Some(in_units)), "{text}");
        }
        for bad in ["", "m", "1x", "--1", "1.2.3", "abc", "1e", "1 Gi", "99999999999999999999"] {
            assert_eq!(units(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn integers_are_themselves_and_nothing_panics() {
        for n in [0, 1, 999, 1_000_000_000_000] {
            assert_eq!((units(&n.to_string()), milli(&format!("{n}m"))), (Some(n), Some(n)));
        }
        for odd in ["-", "+", ".", "-.", "1..", "1e99999999999", "1e-400", "\u{20ac}", "1\u{0}", "e", "Ki", "+-1"] {
            let _ = (milli(odd), units(odd));
        }
        assert_eq!(scaled("9E", 1000), Some(9_000_000_000_000_000_000_000));
    }
}
