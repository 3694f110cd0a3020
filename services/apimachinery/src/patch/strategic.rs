//! Strategic merge patch: a merge patch that knows which lists are maps by key.
//!
//! Called for `kubectl apply`, `edit`, `patch` and `taint` on built-in kinds. Directives served: `$patch`
//! (replace, delete, merge), `$deleteFromPrimitiveList/…`, `$setElementOrder/…`, `$retainKeys`.
//! Invariant: no directive ever reaches the stored object.
//! Limits: [`MAX_DEPTH`]. Pure: nothing to lose on a crash.

use super::keys::{ListKind, list_kind};
use crate::error::ApiError;
use serde_json::{Map, Value};

/// Deeper than any built-in kind; the JSON parser stops at 128 anyway.
const MAX_DEPTH: usize = 100;
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `object` of the given kind.
pub fn strategic_merge(kind: &str, object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::BadRequest("a strategic merge patch must be an object".into()));
    };
    let mut out = object.as_object().cloned().unwrap_or_default();
    merge_map(kind, &mut out, patch, 0)?;
    Ok(Value::Object(out))
}

fn bad(why: &str) -> ApiError {
    ApiError::BadRequest(format!("invalid strategic merge patch: {why}"))
}

fn merge_map(
    kind: &str,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    depth: usize,
) -> Result<(), ApiError> {
    if depth > MAX_DEPTH {
        return Err(bad("too deep"));
    }
    match patch.get("$patch").map(|v| v.as_str().unwrap_or("")) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = plain_map(patch);
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(_) => return Err(bad("unknown $patch directive")),
    }
    if let Some(keep) = patch.get("$retainKeys") {
        let keep = keep.as_array().ok_or_else(|| bad("$retainKeys must be a list"))?;
        target.retain(|name, _| keep.iter().any(|k| k == name.as_str()));
    }
    for (field, value) in patch {
        if let Some(name) = field.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| bad("a deletion list must be a list"))?;
            if let Some(Value::Array(items)) = target.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        } else if field.starts_with('$') {
            // $setElementOrder is applied after the merge below; the others were handled above.
        } else {
            merge_field(kind, target, field, value, depth)?;
        }
    }
    for (field, order) in patch {
        if let Some(name) = field.strip_prefix(ORDER)
            && let (Some(Value::Array(items)), Value::Array(order)) = (target.get_mut(name), order)
        {
            reorder(items, order, list_kind(kind, name));
        }
    }
    Ok(())
}

fn merge_field(
    kind: &str,
    target: &mut Map<String, Value>,
    field: &str,
    value: &Value,
    depth: usize,
) -> Result<(), ApiError> {
    match value {
        Value::Null => {
            target.remove(field);
        }
        Value::Object(patch) => {
            let mut merged = match target.remove(field) {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            let delete = patch.get("$patch").is_some_and(|p| p == "delete");
            merge_map(kind, &mut merged, patch, depth + 1)?;
            if !delete {
                target.insert(field.to_owned(), Value::Object(merged));
            }
        }
        Value::Array(patch) => {
            let old = match target.remove(field) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            let merged = match list_kind(kind, field) {
                ListKind::Map([key, ..]) => merge_list(kind, old, patch, key, depth)?,
                ListKind::Set => {
                    let mut items = old;
                    for item in patch {
                        if !items.contains(item) {
                            items.push(item.clone());
                        }
                    }
                    items
                }
                _ => patch.iter().map(plain).collect(),
            };
            target.insert(field.to_owned(), Value::Array(merged));
        }
        scalar => {
            target.insert(field.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(
    kind: &str,
    mut items: Vec<Value>,
    patch: &[Value],
    key: &str,
    depth: usize,
) -> Result<Vec<Value>, ApiError> {
    if patch.iter().any(|p| p.get("$patch").is_some_and(|d| d == "replace")) {
        // The directive stands alone or inside an item; the list becomes the other items.
        return Ok(patch.iter().map(plain).filter(|p| p.as_object().is_none_or(|m| !m.is_empty())).collect());
    }
    for change in patch {
        let change_map = change.as_object().ok_or_else(|| bad("a list of maps has an item that is no map"))?;
        let id = change_map.get(key).ok_or_else(|| bad(&format!("map: does not contain declared merge key: {key}")))?;
        let position = items.iter().position(|item| item.get(key) == Some(id));
        if change_map.get("$patch").is_some_and(|d| d == "delete") {
            items.retain(|item| item.get(key) != Some(id));
            continue;
        }
        match position.and_then(|at| items.get_mut(at)) {
            Some(Value::Object(map)) => merge_map(kind, map, change_map, depth + 1)?,
            _ => {
                let mut fresh = Map::new();
                merge_map(kind, &mut fresh, change_map, depth + 1)?;
                items.push(Value::Object(fresh));
            }
        }
    }
    Ok(items)
}

/// Puts items named in `order` in that order; the others keep their place behind the item before them.
fn reorder(items: &mut Vec<Value>, order: &[Value], kind: ListKind) {
    let rank = |item: &Value| {
        order.iter().position(|o| match kind {
            ListKind::Map([key, ..]) => o.get(*key).is_some() && o.get(*key) == item.get(*key),
            _ => o == item,
        })
    };
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(items.len());
    let mut last = 0;
    for item in items.drain(..) {
        last = rank(&item).map_or(last, |r| r + 1);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

/// A copy without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        scalar => scalar.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(k, v)| !k.starts_with('$') && !v.is_null()).map(|(k, v)| (k.clone(), plain(v))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn check(object: Value, patch: Value, expected: Value) {
        assert_eq!(strategic_merge("Pod", &object, &patch).unwrap(), expected);
    }

    #[test]
    fn containers_merge_by_name() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}]}, {"name": "c"}]}}),
            json!({"spec": {"containers": [
                {"name": "a", "image": "y", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]},
                {"name": "b"}, {"name": "c"}]}}),
        );
    }

    #[test]
    fn directives() {
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}),
        );
        check(
            json!({"metadata": {"finalizers": ["x", "y"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}}),
            json!({"metadata": {"finalizers": ["y", "z"]}}),
        );
        check(
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
        check(
            json!({"spec": {"nodeSelector": {"a": "1", "b": "2"}}}),
            json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}}),
            json!({"spec": {"nodeSelector": {"c": "3"}}}),
        );
        check(json!({"a": 1, "b": {"c": 2}}), json!({"a": null, "b": {"c": null}}), json!({"b": {}}));
    }

    #[test]
    fn atomic_lists_are_replaced_and_bad_patches_refused() {
        check(
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        );
        assert!(strategic_merge("Pod", &json!({}), &json!({"spec": {"containers": [{"image": "x"}]}})).is_err());
        assert!(strategic_merge("Pod", &json!({}), &json!({"spec": {"$patch": "what"}})).is_err());
    }
}
