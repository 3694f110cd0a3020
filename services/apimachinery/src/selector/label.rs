//! Label selectors in their string form (`a=b,c!=d,e in (f,g),h,!i`) and from `metav1.LabelSelector`.
//!
//! Called by list, watch and delete-collection. Invariants: `!=` and `notin` match objects without the
//! key, as in Kubernetes; an empty selector matches everything.
//! Limits: `MAX_REQUIREMENTS`. Pure: nothing to lose on a crash.

use super::MAX_REQUIREMENTS;
use crate::error::ApiError;
use crate::meta::{is_label_value, is_qualified_name};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

/// A parsed label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<(String, Op)>,
}

impl LabelSelector {
    /// Parses the string form.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in split_requirements(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(bad(text, "found ',', expected: identifier"));
            }
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(bad(text, "too many requirements"));
            }
            requirements.push(requirement(part).map_err(|why| bad(text, &why))?);
        }
        Ok(Self { requirements })
    }

    /// True when every object matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Does an object with these labels match? `get` answers the value of a key.
    pub fn matches<'l>(&self, get: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.requirements.iter().all(|(key, op)| {
            let value = get(key);
            match op {
                Op::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
                Op::NotIn(values) => value.is_none_or(|v| !values.iter().any(|w| w == v)),
                Op::Exists => value.is_some(),
                Op::Missing => value.is_none(),
                Op::Greater(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
                Op::Less(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
            }
        })
    }
}

fn bad(text: &str, why: &str) -> ApiError {
    ApiError::BadRequest(format!("unable to parse requirement: {why} (selector \"{text}\")"))
}

/// Splits at commas that are outside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn requirement(part: &str) -> Result<(String, Op), String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok((checked_key(key)?, Op::Missing));
    }
    for (sign, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = part.split_once(sign) {
            let values = vec![checked_value(value)?];
            return Ok((checked_key(key)?, if negative { Op::NotIn(values) } else { Op::In(values) }));
        }
    }
    for (sign, greater) in [(">", true), ("<", false)] {
        if let Some((key, value)) = part.split_once(sign) {
            let number = value.trim().parse::<i64>().map_err(|_| format!("\"{}\" is not an integer", value.trim()))?;
            return Ok((checked_key(key)?, if greater { Op::Greater(number) } else { Op::Less(number) }));
        }
    }
    let mut words = part.splitn(2, char::is_whitespace);
    let key = checked_key(words.next().unwrap_or(""))?;
    let Some(rest) = words.next().map(str::trim) else { return Ok((key, Op::Exists)) };
    let (negative, list) = match (rest.strip_prefix("notin"), rest.strip_prefix("in")) {
        (Some(list), _) => (true, list),
        (None, Some(list)) => (false, list),
        (None, None) => return Err(format!("found '{rest}', expected: in, notin, =, ==, !=, >, <")),
    };
    let inner = list.trim().strip_prefix('(').and_then(|l| l.strip_suffix(')')).ok_or("expected: '(' values ')'")?;
    let values = inner.split(',').map(checked_value).collect::<Result<Vec<_>, _>>()?;
    Ok((key, if negative { Op::NotIn(values) } else { Op::In(values) }))
}

fn checked_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    if is_qualified_name(key) { Ok(key.to_owned()) } else { Err(format!("\"{key}\" is not a label key")) }
}

fn checked_value(value: &str) -> Result<String, String> {
    let value = value.trim();
    if is_label_value(value) { Ok(value.to_owned()) } else { Err(format!("\"{value}\" is not a label value")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn selectors() {
        let labels = |key: &str| match key {
            "app" => Some("web"),
            "example.com/tier" => Some("front"),
            "n" => Some("5"),
            _ => None,
        };
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("missing!=db", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db),example.com/tier=front", true),
            ("missing notin (x)", true),
            ("missing in (x)", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app=", false),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(labels), expected, "{text}");
        }
    }

    #[test]
    fn a_selector_that_does_not_parse_is_refused() {
        for text in ["app=a b", "a,,b", "app in web", "app foo (x)", "-x=1", "n>x", ",", "a=b=c/d"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_selector_panics(text in "[a-c=!<>(), /.in-]{0,40}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                selector.matches(|_| Some("a"));
            }
        }
    }
}
