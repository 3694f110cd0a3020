//! Validation of a value against its schema, in kube-apiserver's words.
//!
//! Invariant: rules run only over values whose types are right. Limits: [`MAX_ERRORS`] errors are reported.

use crate::Schema;
use crate::node::{Items, Kind, Node, key_of};
use crate::prune::{index, step};
use serde_json::Value;
use skerry_apimachinery::{FieldError, FieldProblem, meta};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Most errors that one object gives: nobody reads more.
const MAX_ERRORS: usize = 64;

impl Schema {
    /// Every reason why the object may not be stored. `old` is what it replaces.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        value(&self.root, object, &mut String::new(), &mut errors);
        if errors.is_empty() {
            crate::rules::run(&self.root, object, old, &mut String::new(), &mut errors);
        }
        errors
    }
}

/// Checks a value and what is in it.
pub(crate) fn value(node: &Node, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    if errors.len() >= MAX_ERRORS || (value.is_null() && node.nullable) {
        return;
    }
    if !right_type(node, value) {
        let wanted = if node.int_or_string { "integer or string" } else { node.kind.map_or("object", Kind::name) };
        let have = type_name(value);
        errors.push(FieldError::invalid(
            path.as_str(),
            have,
            format!("{path} in body must be of type {wanted}: \"{have}\""),
        ));
        return;
    }
    if !node.allowed.is_empty() && !node.allowed.contains(value) {
        let list: Vec<String> = node.allowed.iter().map(Value::to_string).collect();
        errors.push(FieldError {
            field: path.clone(),
            problem: FieldProblem::NotSupported,
            value: Some(value.clone()),
            detail: format!("supported values: {}", list.join(", ")),
        });
    }
    match value {
        Value::String(text) => string(node, text, path, errors),
        Value::Number(_) => number(node, value, path, errors),
        Value::Array(items) => array(node, items, path, errors),
        Value::Object(map) => {
            bounds(&node.fields, map.len(), value, ["properties", "should have"], path, errors);
            for name in node.required.iter().filter(|name| !map.contains_key(*name)) {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                errors.push(FieldError::required(field, ""));
            }
            for (name, inner) in map {
                if let Some(schema) = node.properties.get(name).or(node.values.as_deref()) {
                    step(path, name, |path| self::value(schema, inner, path, errors));
                }
            }
        }
        _ => {}
    }
    combined(node, value, path, errors);
}

fn right_type(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || is_integer(value);
    }
    match node.kind {
        // Without a type, whatever is there but null: only what is preserved may be null.
        None => !value.is_null() || node.preserve,
        Some(Kind::Object) => value.is_object(),
        Some(Kind::Array) => value.is_array(),
        Some(Kind::String) => value.is_string(),
        Some(Kind::Boolean) => value.is_boolean(),
        Some(Kind::Number) => value.is_number(),
        Some(Kind::Integer) => is_integer(value),
    }
}

fn is_integer(value: &Value) -> bool {
    value.as_i64().is_some() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn string(node: &Node, text: &str, path: &mut String, errors: &mut Vec<FieldError>) {
    let length = text.chars().count();
    let [least, most] = node.length.map(|bound| bound.map(|b| usize::try_from(b).unwrap_or(usize::MAX)));
    if let Some(least) = least.filter(|least| length < *least) {
        let why = format!("{path} in body should be at least {least} chars long");
        errors.push(FieldError::invalid(path.as_str(), text, why));
    }
    if let Some(most) = most.filter(|most| length > *most) {
        let why = format!("{path} in body should be at most {most} chars long");
        errors.push(FieldError::invalid(path.as_str(), text, why));
    }
    if let Some(pattern) = node.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        let why = format!("{path} in body should match '{pattern}'");
        errors.push(FieldError::invalid(path.as_str(), text, why));
    }
    let formed = match node.format.as_str() {
        "date-time" => meta::parse_time(text).is_some(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        _ => true,
    };
    if !formed {
        let why = format!("{path} in body must be of type {}: \"{text}\"", node.format);
        errors.push(FieldError::invalid(path.as_str(), text, why));
    }
}

fn number(node: &Node, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    let number = value.as_f64().unwrap_or_default();
    let mut wrong = |why: String| {
        errors.push(FieldError::invalid(path.as_str(), value.clone(), format!("{path} in body {why}")));
    };
    match node.minimum {
        Some((bound, true)) if number <= bound => wrong(format!("should be greater than {bound}")),
        Some((bound, false)) if number < bound => wrong(format!("should be greater than or equal to {bound}")),
        _ => {}
    }
    match node.maximum {
        Some((bound, true)) if number >= bound => wrong(format!("should be less than {bound}")),
        Some((bound, false)) if number > bound => wrong(format!("should be less than or equal to {bound}")),
        _ => {}
    }
    if let Some(divisor) = node.multiple_of.filter(|divisor| (number / divisor).fract() != 0.0) {
        wrong(format!("should be a multiple of {divisor}"));
    }
    let fits = match node.format.as_str() {
        "int32" => value.as_i64().is_none_or(|number| i32::try_from(number).is_ok()),
        "int64" => value.as_i64().is_some() || value.is_f64(),
        _ => true,
    };
    if !fits {
        wrong(format!("must be of type {}: \"{value}\"", node.format));
    }
}

fn array(node: &Node, items: &[Value], path: &mut String, errors: &mut Vec<FieldError>) {
    let whole = Value::from(items.len());
    bounds(&node.count, items.len(), &whole, ["items", "should have"], path, errors);
    // Texts of JSON are compared: maps are sorted by key, so equal values have equal texts.
    let mut seen = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let identity = match &node.list {
            Items::Atomic => None,
            Items::Set => Some(item.clone()),
            Items::Map(keys) => {
                let default = |key: &String| {
                    let default = node.items.as_ref()?.properties.get(key)?.default.clone()?;
                    Some((key.clone(), default))
                };
                let mut identity: serde_json::Map<_, _> = keys.iter().filter_map(default).collect();
                identity.extend(key_of(item, keys));
                Some(Value::Object(identity))
            }
        };
        index(path, at, |path| {
            if let Some(identity) = identity
                && !seen.insert(identity.to_string())
            {
                errors.push(FieldError::duplicate(path.as_str(), identity));
            }
            if let Some(schema) = &node.items {
                value(schema, item, path, errors);
            }
        });
    }
}

fn bounds(
    [least, most]: &[Option<u64>; 2],
    have: usize,
    value: &Value,
    [what, should]: [&str; 2],
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let have = u64::try_from(have).unwrap_or(u64::MAX);
    let shown = if value.is_object() { Value::from(have) } else { value.clone() };
    if let Some(least) = least.filter(|least| have < *least) {
        errors.push(FieldError::invalid(
            path,
            shown.clone(),
            format!("{path} in body {should} at least {least} {what}"),
        ));
    }
    if let Some(most) = most.filter(|most| have > *most) {
        errors.push(FieldError::invalid(path, shown, format!("{path} in body {should} at most {most} {what}")));
    }
}

fn combined(node: &Node, whole: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    let passes = |schema: &Node| {
        let mut found = Vec::new();
        value(schema, whole, &mut String::new(), &mut found);
        found.is_empty()
    };
    for schema in &node.all_of {
        value(schema, whole, path, errors);
    }
    let mut wrong = |why: &str| {
        errors.push(FieldError::invalid(path.as_str(), type_name(whole), format!("{path} in body {why}")));
    };
    if !node.any_of.is_empty() && !node.any_of.iter().any(passes) {
        wrong("must validate at least one schema (anyOf)");
    }
    if !node.one_of.is_empty() && node.one_of.iter().filter(|schema| passes(schema)).count() != 1 {
        wrong("must validate one and only one schema (oneOf)");
    }
    if node.not.as_deref().is_some_and(passes) {
        wrong("must not validate the schema (not)");
    }
}
