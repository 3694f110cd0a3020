//! Values as text, as the API has them: whether two are the same, and whether one may be wanted.
//!
//! Numbers are compared as numbers: a device that is asked for `21.50` and says `21.5` has done it.

use skerry_k8s_types::{AccessMode, ModelProperty, PropertyType};

/// Longest value. KubeEdge allows 512; strings of devices may be longer, and a thousand devices must fit.
pub(crate) const MAX_VALUE_BYTES: usize = 4096;

/// Relative difference below which two numbers are one: what a value loses on a way through 32 bits.
const SAME_WITHIN: f64 = 1e-6;

/// Whether two values of a property are the same.
pub(crate) fn same(kind: Option<PropertyType>, a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match kind {
        Some(PropertyType::Int) => match (a.trim().parse::<i128>(), b.trim().parse::<i128>()) {
            (Ok(a), Ok(b)) => a == b,
            _ => numbers(a, b),
        },
        Some(PropertyType::Float | PropertyType::Double) => numbers(a, b),
        Some(PropertyType::Boolean) => {
            matches!((boolean(a), boolean(b)), (Some(a), Some(b)) if a == b)
        }
        _ => false,
    }
}

fn numbers(a: &str, b: &str) -> bool {
    match (a.trim().parse::<f64>(), b.trim().parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= SAME_WITHIN * a.abs().max(b.abs()),
        _ => false,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "True" | "TRUE" | "1" => Some(true),
        "false" | "False" | "FALSE" | "0" => Some(false),
        _ => None,
    }
}

/// Whether a value is of the type that the model says. Returns the number, of a type of numbers.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check_type(model: Option<&ModelProperty>, property: &str, value: &str) -> Result<Option<f64>, String> {
    let wrong = |what: &str| Err(format!("{value:?} is not {what}, which the property {property:?} needs"));
    match model.and_then(|model| model.r#type) {
        Some(PropertyType::Int) => match value.trim().parse::<i128>() {
            #[expect(clippy::cast_precision_loss, reason = "only for the comparison with limits")]
            Ok(number) => Ok(Some(number as f64)),
            Err(_) => wrong("an integer"),
        },
        Some(PropertyType::Float | PropertyType::Double) => match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => wrong("a number"),
        },
        Some(PropertyType::Boolean) if boolean(value).is_none() => wrong("true or false"),
        _ => Ok(None),
    }
}

/// Whether a property may be asked for a value.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn check(model: Option<&ModelProperty>, property: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!("the value has {} bytes, and {MAX_VALUE_BYTES} are allowed", value.len()));
    }
    let Some(model) = model else {
        return Err(format!("the property {property:?} is not in the device's model"));
    };
    if model.access_mode != Some(AccessMode::ReadWrite) {
        return Err(format!("the property {property:?} is ReadOnly in the device's model"));
    }
    let Some(number) = check_type(Some(model), property, value)? else { return Ok(()) };
    let limit = |text: &str| text.trim().parse::<f64>().ok();
    if limit(&model.minimum).is_some_and(|minimum| number < minimum) {
        return Err(format!("{value} is below the minimum {} of the property {property:?}", model.minimum));
    }
    if limit(&model.maximum).is_some_and(|maximum| number > maximum) {
        return Err(format!("{value} is above the maximum {} of the property {property:?}", model.maximum));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        for (kind, a, b, is) in [
            (PropertyType::Int, "7", "07", true),
            (PropertyType::Int, "7", "7.0", true),
            (PropertyType::Int, "9007199254740993", "9007199254740992", false),
            (PropertyType::Double, "21.50", "21.5", true),
            (PropertyType::Float, "0.1", "0.10000000149011612", true),
            (PropertyType::Float, "0.1", "0.2", false),
            (PropertyType::Float, "NaN", "NaN", true),
            (PropertyType::Boolean, "true", "1", true),
            (PropertyType::Boolean, "true", "yes", false),
            (PropertyType::String, "1.0", "1", false),
        ] {
            assert_eq!(same(Some(kind), a, b), is, "{kind:?} {a} {b}");
        }
    }

    #[test]
    fn what_cannot_be_wanted_is_said_in_words() {
        let model = |kind, access| ModelProperty {
            name: "t".into(),
            r#type: Some(kind),
            access_mode: Some(access),
            minimum: "0".into(),
            maximum: "100".into(),
            ..ModelProperty::default()
        };
        let rw = |kind| model(kind, AccessMode::ReadWrite);
        let say = |model: Option<&ModelProperty>, value: &str| check(model, "t", value).unwrap_err();
        assert!(check(Some(&rw(PropertyType::Int)), "t", "100").is_ok());
        assert!(say(Some(&rw(PropertyType::Int)), "101").contains("above the maximum 100"));
        assert!(say(Some(&rw(PropertyType::Double)), "-0.5").contains("below the minimum 0"));
        assert!(say(Some(&rw(PropertyType::Int)), "1.5").contains("an integer"));
        assert!(say(Some(&rw(PropertyType::Double)), "inf").contains("a number"));
        assert!(say(Some(&rw(PropertyType::Boolean)), "on").contains("true or false"));
        assert!(say(Some(&model(PropertyType::Int, AccessMode::ReadOnly)), "1").contains("ReadOnly"));
        assert!(say(None, "1").contains("not in the device's model"));
        assert!(say(Some(&rw(PropertyType::String)), &"x".repeat(MAX_VALUE_BYTES + 1)).contains("bytes"));
    }
}
