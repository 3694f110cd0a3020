//! Small helpers over `serde_json::Value`, which is how objects are held while a request works on them.
//!
//! Called by every other module here and by `apiserver`. Invariant: no helper panics on a value of the
//! wrong shape; a getter answers "absent", a setter replaces what is in the way.
//! Limits: none. No IO, so nothing to lose on a crash.

use serde_json::{Map, Value};

/// The string at a JSON pointer, or `""`.
pub fn str_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a JSON pointer.
pub fn int_at(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The array at a JSON pointer, or an empty one.
pub fn list_at<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at a JSON pointer.
pub fn map_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v Map<String, Value>> {
    value.pointer(pointer).and_then(Value::as_object)
}

/// The value as a map; anything else is replaced by an empty map first.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("the value was made a map above"),
    }
}

/// The map under `path`, created on the way.
pub fn map_mut<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut Map<String, Value> {
    let mut here = as_map(value);
    for step in path {
        here = as_map(here.entry((*step).to_owned()).or_insert(Value::Null));
    }
    here
}

/// Sets `field` in the map under `path`.
pub fn set(value: &mut Value, path: &[&str], field: &str, to: impl Into<Value>) {
    map_mut(value, path).insert(field.to_owned(), to.into());
}

/// Removes `field` from the map under `path`; creates nothing.
pub fn remove(value: &mut Value, path: &[&str], field: &str) -> Option<Value> {
    let mut here = value;
    for step in path {
        here = here.get_mut(*step)?;
    }
    here.as_object_mut()?.remove(field)
}

/// Sets `field` only when it is absent or null.
pub fn default_to(map: &mut Map<String, Value>, field: &str, to: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), to.into());
    }
}

/// Removes null members of maps, at every depth, as decoding into typed structs does.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
