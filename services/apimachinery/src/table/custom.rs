//! Rows of custom resources, from `additionalPrinterColumns`, and of kinds without a printer of their own.
//!
//! Called through `table`. The JSON paths served are field steps, indexes and `[?(@.key=="value")]`
//! filters; anything else gives an empty cell. Limits: [`MAX_STEPS`]. Pure: nothing to lose on a crash.

use super::{age, object_age};
use crate::meta;
use crate::registry::Resource;
use jiff::Timestamp;
use serde_json::Value;

/// Longest path that is followed.
const MAX_STEPS: usize = 32;

pub(super) fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut row: Vec<Value> = vec![meta::name(object).into()];
    for column in &resource.columns {
        let value = find(object, &column.path);
        row.push(match (column.kind.as_str(), value) {
            (_, None | Some(Value::Null)) => "".into(),
            ("date", Some(Value::String(time))) => age(time, now),
            (_, Some(Value::Object(_) | Value::Array(_))) => value.map(Value::to_string).unwrap_or_default().into(),
            (_, Some(scalar)) => scalar.clone(),
        });
    }
    if !resource.columns.iter().any(|c| c.name.eq_ignore_ascii_case("age")) {
        row.push(object_age(object, now));
    }
    row
}

/// Follows a simple JSON path.
fn find<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    let mut here = object;
    let mut rest = path.trim();
    for _ in 0..MAX_STEPS {
        if rest.is_empty() {
            return Some(here);
        }
        if let Some(after) = rest.strip_prefix('[') {
            let (inner, tail) = after.split_once(']')?;
            let quoted = |c: char| c == '"' || c == '\'';
            here = if let Some(filter) = inner.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')')) {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(quoted);
                here.as_array()?.iter().find(|item| item.get(field.trim()).and_then(Value::as_str) == Some(wanted))?
            } else if let Ok(index) = inner.parse::<usize>() {
                here.get(index)?
            } else {
                here.get(inner.trim_matches(quoted))?
            };
            rest = tail;
        } else {
            let step = rest.strip_prefix('.').unwrap_or(rest);
            let end = step.find(['.', '[']).unwrap_or(step.len());
            here = here.get(step.get(..end)?.replace("\\", ""))?;
            rest = step.get(end..)?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_paths() {
        let object = json!({"spec": {"size": 3, "list": ["a", "b"]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(find(&object, ".spec.size"), Some(&json!(3)));
        assert_eq!(find(&object, ".spec.list[1]"), Some(&json!("b")));
        assert_eq!(find(&object, ".status.conditions[?(@.type==\"Ready\")].status"), Some(&json!("True")));
        assert_eq!(find(&object, ".spec.none.deeper"), None);
    }
}
