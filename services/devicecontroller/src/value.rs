//! Whether a desired value fits its property in the DeviceModel.
//!
//! Pure. Used for what users write (admission) and for what nodes set (the sink), so that both are told the
//! same. What KubeEdge's mappers take is taken: INT also as `1.0` is not, as their parser refuses it; BOOLEAN in
//! the words of Go's ParseBool.

use skerry_k8s_types::{AccessMode, ModelProperty, PropertyType};

/// Longest value: a twin is for values, not for files.
pub(crate) const MAX_VALUE: usize = 64 << 10;

/// Characters of a value that are repeated in a message.
const SHOWN: usize = 64;

/// What Go's ParseBool takes, which KubeEdge's mappers use.
const BOOLEANS: [&str; 12] = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];

/// Checks a desired value against the model's property.
///
/// # Errors
/// Why it does not fit, and what would.
pub(crate) fn check(property: &ModelProperty, value: &str) -> Result<(), String> {
    let name = &property.name;
    if property.access_mode == Some(AccessMode::ReadOnly) {
        return Err(format!(
            "property {name:?} is ReadOnly in the DeviceModel: remove its desired value, or make it ReadWrite there"
        ));
    }
    if value.len() > MAX_VALUE {
        return Err(format!("the desired value of {name:?} is longer than {MAX_VALUE} bytes"));
    }
    let Some(r#type) = property.r#type else { return Ok(()) };
    let shown: String = value.chars().take(SHOWN).collect();
    let wrong = |wanted: &str| {
        Err(format!("the desired value {shown:?} of property {name:?} is no {}: write {wanted}", r#type.as_str()))
    };
    match r#type {
        PropertyType::Int => match value.trim().parse::<i128>() {
            // 64 bits, signed or not.
            Ok(number) if number >= i128::from(i64::MIN) && number <= i128::from(u64::MAX) => {
                range(property, value, |bound| {
                    bound.parse::<i128>().ok().map(|bound| number.cmp(&bound)).or_else(|| float(value, bound))
                })
            }
            _ => wrong("a whole number"),
        },
        PropertyType::Float | PropertyType::Double => match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => range(property, value, |bound| float(value, bound)),
            _ => wrong("a number"),
        },
        PropertyType::Boolean if !BOOLEANS.contains(&value.trim()) => wrong("true or false"),
        PropertyType::Boolean | PropertyType::String | PropertyType::Bytes | PropertyType::Stream => Ok(()),
    }
}

fn float(value: &str, bound: &str) -> Option<std::cmp::Ordering> {
    value.trim().parse::<f64>().ok()?.partial_cmp(&bound.parse::<f64>().ok()?)
}

/// `compare` orders the value against a bound; `None`: the bound is no number, and bounds nothing.
fn range(
    property: &ModelProperty,
    value: &str,
    compare: impl Fn(&str) -> Option<std::cmp::Ordering>,
) -> Result<(), String> {
    let (name, minimum, maximum) = (&property.name, property.minimum.trim(), property.maximum.trim());
    let below = !minimum.is_empty() && compare(minimum).is_some_and(std::cmp::Ordering::is_lt);
    let above = !maximum.is_empty() && compare(maximum).is_some_and(std::cmp::Ordering::is_gt);
    if !below && !above {
        return Ok(());
    }
    let allowed = match (minimum, maximum) {
        (minimum, "") => format!("at least {minimum}"),
        ("", maximum) => format!("at most {maximum}"),
        (minimum, maximum) => format!("{minimum} to {maximum}"),
    };
    Err(format!("the desired value {value} of property {name:?} is out of range: the DeviceModel allows {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(r#type: PropertyType, minimum: &str, maximum: &str) -> ModelProperty {
        ModelProperty {
            name: "p".to_owned(),
            r#type: Some(r#type),
            access_mode: Some(AccessMode::ReadWrite),
            minimum: minimum.to_owned(),
            maximum: maximum.to_owned(),
            ..ModelProperty::default()
        }
    }

    #[test]
    fn values_fit_type_and_range() {
        use PropertyType::{Boolean, Bytes, Double, Float, Int, Stream, String};
        type Case = (PropertyType, &'static str, &'static str, &'static str, Result<(), &'static str>);
        let cases: &[Case] = &[
            (Int, "", "", "7", Ok(())),
            (Int, "", "", "-7", Ok(())),
            (Int, "", "", "18446744073709551615", Ok(())),
            (Int, "", "", "18446744073709551616", Err("whole number")),
            (Int, "", "", "7.5", Err("whole number")),
            (Int, "", "", "on", Err("whole number")),
            (Int, "", "", "", Err("whole number")),
            (Int, "1", "10", "1", Ok(())),
            (Int, "1", "10", "10", Ok(())),
            (Int, "1", "10", "0", Err("allows 1 to 10")),
            (Int, "1", "10", "11", Err("allows 1 to 10")),
            (Int, "", "10", "11", Err("at most 10")),
            (Int, "1", "", "0", Err("at least 1")),
            (Int, "0.5", "", "0", Err("at least 0.5")),
            (Int, "9007199254740993", "", "9007199254740992", Err("at least")),
            (Int, "low", "", "0", Ok(())),
            (Float, "0", "1", "0.5", Ok(())),
            (Float, "0", "1", "1.5", Err("allows 0 to 1")),
            (Double, "", "", "1e3", Ok(())),
            (Double, "", "", "NaN", Err("a number")),
            (Double, "", "", "inf", Err("a number")),
            (Boolean, "", "", "true", Ok(())),
            (Boolean, "", "", "1", Ok(())),
            (Boolean, "", "", "on", Err("true or false")),
            (String, "1", "2", "anything", Ok(())),
            (Bytes, "", "", "AAEC", Ok(())),
            (Stream, "", "", "", Ok(())),
        ];
        for (r#type, minimum, maximum, value, want) in cases {
            let got = check(&property(*r#type, minimum, maximum), value);
            match want {
                Ok(()) => assert_eq!(got, Ok(()), "{type:?} {minimum}..{maximum} {value}"),
                Err(part) => assert!(
                    got.as_ref().is_err_and(|message| message.contains(part)),
                    "{type:?} {minimum}..{maximum} {value}: {got:?}"
                ),
            }
        }
    }

    #[test]
    fn what_is_read_only_is_not_desired_and_no_value_is_a_file() {
        let read_only =
            ModelProperty { access_mode: Some(AccessMode::ReadOnly), ..property(PropertyType::Int, "", "") };
        assert!(check(&read_only, "1").is_err_and(|message| message.contains("ReadOnly")));
        // KubeEdge takes a property without a mode or a type.
        let free = ModelProperty { access_mode: None, r#type: None, ..read_only };
        assert_eq!(check(&free, "anything"), Ok(()));
        assert!(check(&free, &"x".repeat(MAX_VALUE + 1)).is_err());
    }
}
