//! Server-side apply: a manager states the fields it wants, the server remembers who wants what.
//!
//! Called for apply patches (`kubectl apply --server-side`, kube-rs controllers). Ownership is kept in
//! `metadata.managedFields` in Kubernetes' FieldsV1 form, for apply operations only: other writes do not
//! take ownership (a deliberate simplification, it keeps objects small).
//! Invariants: a field that another manager applied with a different value is never changed without
//! `force`; a field that a manager no longer states is removed only when nobody else states it.
//! Limits: [`MAX_MANAGERS`]. Pure: nothing to lose on a crash.

use super::keys::{Lists, Merge, key_default};
use crate::error::ApiError;
use crate::json::{as_map, list_at};
use crate::meta;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Most managers of one object.
pub(crate) const MAX_MANAGERS: usize = 32;

type Path = Vec<String>;
type FieldSet = BTreeSet<Path>;

/// The result of an apply.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The merged object with its `managedFields`.
    pub object: Value,
    /// False when nothing but the time of the managed fields would differ.
    pub changed: bool,
}

/// Who applies, and how.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// `fieldManager`.
    pub manager: &'a str,
    /// The subresource that is applied to, or `""`.
    pub subresource: &'a str,
    /// Take fields over from other managers.
    pub force: bool,
    /// API version of the configuration.
    pub api_version: &'a str,
    /// Now, as `metav1.Time`.
    pub time: &'a str,
    /// How the lists of a custom resource merge: the keys of the items by the name of the list, or none for
    /// a set.
    pub lists: Option<&'a BTreeMap<String, Vec<String>>>,
}

/// Applies `config` to `live` (an empty object when it does not exist yet).
pub fn apply(kind: &str, live: &Value, config: &Value, options: &ApplyOptions<'_>) -> Result<Applied, ApiError> {
    let ApplyOptions { manager, subresource, force, api_version, time, lists } = *options;
    let lists = Lists { kind, custom: lists };
    if !config.is_object() {
        return Err(ApiError::BadRequest("an apply patch must be an object".into()));
    }
    if !list_at(config, "/metadata/managedFields").is_empty() {
        return Err(ApiError::BadRequest("metadata.managedFields must be nil".into()));
    }
    let mut config = config.clone();
    crate::json::drop_nulls(&mut config);
    let wanted = wanted_fields(lists, &config);
    let mut mine = FieldSet::new();
    let mut others: Vec<(Value, FieldSet)> = Vec::new();
    for entry in list_at(live, "/metadata/managedFields") {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or("");
        let set = entry.get("fieldsV1").map(decode).unwrap_or_default();
        if text("manager") == manager && text("operation") == "Apply" && text("subresource") == subresource {
            mine = set;
        } else {
            others.push((entry.clone(), set));
        }
    }
    let mut conflicts = Vec::new();
    for (entry, set) in &mut others {
        let mut lost = Vec::new();
        for path in wanted.intersection(set).filter(|p| p.last().is_none_or(|l| l != ".")) {
            let (have, want) = (find(live, path), find(&config, path));
            if have.is_some() && have != want {
                conflicts
                    .push((entry.get("manager").and_then(Value::as_str).unwrap_or("").to_owned(), path_text(path)));
                lost.push(path.clone());
            }
        }
        for path in lost {
            set.remove(&path);
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(ApiError::ApplyConflict(conflicts));
    }
    let mut object = if live.is_object() { live.clone() } else { json!({}) };
    let mut gone: Vec<&Path> =
        mine.difference(&wanted).filter(|p| !others.iter().any(|(_, set)| set.contains(*p))).collect();
    gone.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in gone {
        let kept = wanted.iter().chain(others.iter().flat_map(|(_, set)| set)).any(|p| is_below(p, path));
        if !kept {
            remove(&mut object, path);
        }
    }
    merge(lists, "", &mut object, &config);
    let mut entries: Vec<Value> = Vec::new();
    for (mut entry, set) in others {
        if !set.is_empty() {
            as_map(&mut entry).insert("fieldsV1".into(), encode(&set));
            entries.push(entry);
        }
    }
    let mut entry = json!({
        "manager": manager, "operation": "Apply", "apiVersion": api_version, "time": time,
        "fieldsType": "FieldsV1", "fieldsV1": encode(&wanted),
    });
    if !subresource.is_empty() {
        as_map(&mut entry).insert("subresource".into(), subresource.into());
    }
    entries.push(entry);
    if entries.len() > MAX_MANAGERS {
        return Err(ApiError::BadRequest(format!("more than {MAX_MANAGERS} field managers")));
    }
    let mut before = live.clone();
    let same_owners = without_times(list_at(live, "/metadata/managedFields")) == without_times(&entries);
    meta::metadata(&mut object).insert("managedFields".into(), Value::Array(entries));
    let mut after = object.clone();
    for side in [&mut before, &mut after] {
        meta::metadata(side).remove("managedFields");
    }
    Ok(Applied { changed: before != after || !same_owners, object })
}

fn without_times(entries: &[Value]) -> Vec<Value> {
    let mut out: Vec<Value> = entries.to_vec();
    for entry in &mut out {
        as_map(entry).remove("time");
    }
    out.sort_by_key(|e| e.get("manager").and_then(Value::as_str).unwrap_or("").to_owned());
    out
}

/// The fields that a configuration states, without identity and system fields.
fn wanted_fields(lists: Lists<'_>, config: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    collect(lists, "", config, &mut Vec::new(), &mut set);
    set.retain(|path| {
        let mut steps = path.iter().map(String::as_str);
        match (steps.next(), steps.next()) {
            (Some("f:apiVersion" | "f:kind"), _) => false,
            (Some("f:metadata"), Some(field)) => {
                matches!(field, "f:labels" | "f:annotations" | "f:finalizers" | "f:ownerReferences")
            }
            (Some("f:metadata"), None) => false,
            _ => true,
        }
    });
    set
}

fn collect(lists: Lists<'_>, field: &str, value: &Value, path: &mut Path, set: &mut FieldSet) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                path.push(format!("f:{name}"));
                collect(lists, name, value, path, set);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() && lists.merge(field) != Merge::Atomic => {
            for item in items {
                let step = match lists.merge(field) {
                    Merge::Map(keys) => format!("k:{}", key_of(item, &keys)),
                    _ => format!("v:{item}"),
                };
                path.push(step);
                if item.is_object() {
                    path.push(".".into());
                    set.insert(path.clone());
                    path.pop();
                    collect(lists, "", item, path, set);
                } else {
                    set.insert(path.clone());
                }
                path.pop();
            }
        }
        _ => {
            set.insert(path.clone());
        }
    }
}

fn key_of(item: &Value, keys: &[&str]) -> Value {
    let one = |key: &&str| {
        let value = item.get(*key).cloned().or_else(|| key_default(key).map(Value::from))?;
        Some(((*key).to_owned(), value))
    };
    Value::Object(keys.iter().filter_map(one).collect())
}

fn decode(fields: &Value) -> FieldSet {
    fn walk(value: &Value, path: &mut Path, set: &mut FieldSet) {
        match value.as_object() {
            Some(map) if !map.is_empty() => {
                for (step, inner) in map {
                    path.push(step.clone());
                    walk(inner, path, set);
                    path.pop();
                }
            }
            _ => {
                set.insert(path.clone());
            }
        }
    }
    let mut set = FieldSet::new();
    if fields.as_object().is_some_and(|m| !m.is_empty()) {
        walk(fields, &mut Vec::new(), &mut set);
    }
    set
}

fn encode(set: &FieldSet) -> Value {
    let mut root = json!({});
    for path in set {
        let mut here = &mut root;
        for step in path {
            here = as_map(here).entry(step.clone()).or_insert_with(|| json!({}));
        }
    }
    root
}

fn same_item(item: &Value, key: &Value) -> bool {
    key.as_object().is_some_and(|map| {
        map.iter().all(|(name, want)| match item.get(name) {
            Some(have) => have == want,
            None => key_default(name).is_some_and(|d| want == d),
        })
    })
}

fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    let mut here = value;
    for step in path {
        here = match step.split_once(':') {
            Some(("f", name)) => here.get(name)?,
            Some(("k", key)) => {
                let key: Value = serde_json::from_str(key).ok()?;
                here.as_array()?.iter().find(|item| same_item(item, &key))?
            }
            Some(("v", text)) => {
                let wanted: Value = serde_json::from_str(text).ok()?;
                here.as_array()?.iter().find(|item| **item == wanted)?
            }
            _ => here,
        };
    }
    Some(here)
}

/// Is `path` the item or something in what `root` names (`root` may end with `.`)?
fn is_below(path: &[String], root: &[String]) -> bool {
    let root = match root.split_last() {
        Some((last, rest)) if last == "." => rest,
        _ => root,
    };
    path.len() >= root.len() && path.iter().zip(root).all(|(a, b)| a == b)
}

fn remove(value: &mut Value, path: &[String]) {
    let path = match path.split_last() {
        Some((last, rest)) if last == "." => rest,
        _ => path,
    };
    let Some((step, rest)) = path.split_first() else { return };
    match step.split_once(':') {
        Some(("f", name)) => {
            let Some(map) = value.as_object_mut() else { return };
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(inner) = map.get_mut(name) {
                let was_empty = is_empty(inner);
                remove(inner, rest);
                if !was_empty && is_empty(inner) {
                    map.remove(name);
                }
            }
        }
        Some(("k", key)) => {
            let Ok(key) = serde_json::from_str::<Value>(key) else { return };
            let Some(items) = value.as_array_mut() else { return };
            if rest.is_empty() {
                items.retain(|item| !same_item(item, &key));
            } else if let Some(item) = items.iter_mut().find(|item| same_item(item, &key)) {
                remove(item, rest);
            }
        }
        Some(("v", text)) => {
            if let (Ok(gone), Some(items)) = (serde_json::from_str::<Value>(text), value.as_array_mut()) {
                items.retain(|item| *item != gone);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn merge(lists: Lists<'_>, field: &str, target: &mut Value, config: &Value) {
    match (config, &mut *target) {
        (Value::Object(wanted), Value::Object(map)) => {
            for (name, value) in wanted {
                merge(lists, name, map.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(wanted), Value::Array(items)) => match lists.merge(field) {
            Merge::Map(keys) => {
                for item in wanted {
                    let key = key_of(item, &keys);
                    match items.iter_mut().find(|have| same_item(have, &key)) {
                        Some(have) => merge(lists, "", have, item),
                        None => items.push(item.clone()),
                    }
                }
            }
            Merge::Set => {
                for item in wanted {
                    if !items.contains(item) {
                        items.push(item.clone());
                    }
                }
            }
            Merge::Atomic => *target = config.clone(),
        },
        _ => *target = config.clone(),
    }
}

/// `.spec.containers[name="a"].image`
fn path_text(path: &[String]) -> String {
    let mut out = String::new();
    for step in path {
        match step.split_once(':') {
            Some(("f", name)) => out.push_str(&format!(".{name}")),
            Some(("k", key)) => {
                let key: Value = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> =
                    key.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
                out.push_str(&format!("[{}]", parts.join(",")));
            }
            Some(("v", text)) => out.push_str(&format!("[={text}]")),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn options(manager: &str, force: bool) -> ApplyOptions<'_> {
        ApplyOptions {
            manager,
            subresource: "",
            force,
            api_version: "apps/v1",
            time: "2026-01-01T00:00:00Z",
            lists: None,
        }
    }
    fn run(live: &Value, config: Value, manager: &str, force: bool) -> Result<Value, ApiError> {
        apply("Deployment", live, &config, &options(manager, force)).map(|a| a.object)
    }

    #[test]
    fn a_field_no_longer_stated_goes_and_others_stay() {
        let first = run(
            &json!({}),
            json!({"metadata": {"name": "d", "labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 1}}),
            "one",
            false,
        )
        .unwrap();
        let mut live = first;
        live["spec"]["paused"] = json!(true);
        let second = run(&live, json!({"metadata": {"name": "d", "labels": {"b": "2"}}}), "one", false).unwrap();
        assert_eq!(second["metadata"]["labels"], json!({"b": "2"}));
        assert_eq!(second["spec"], json!({"paused": true}));
    }

    #[test]
    fn conflicts_and_force() {
        let live = run(&json!({}), json!({"spec": {"replicas": 1, "paused": true}}), "one", false).unwrap();
        let error = run(&live, json!({"spec": {"replicas": 2}}), "two", false).unwrap_err();
        assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        assert!(run(&live, json!({"spec": {"replicas": 1}}), "two", false).is_ok());
        let forced = run(&live, json!({"spec": {"replicas": 2}}), "two", true).unwrap();
        assert_eq!(forced["spec"], json!({"replicas": 2, "paused": true}));
        // The first manager lost replicas: dropping it from its configuration removes nothing.
        let after = run(&forced, json!({"spec": {"paused": true}}), "one", false).unwrap();
        assert_eq!(after["spec"]["replicas"], 2);
    }

    #[test]
    fn list_items_are_owned_one_by_one() {
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let spec = |c: Vec<Value>| json!({"spec": {"template": {"spec": {"containers": c}}}});
        let live = run(&json!({}), spec(vec![container("a", "x"), container("b", "x")]), "one", false).unwrap();
        let live = run(&live, spec(vec![json!({"name": "c", "image": "z"})]), "two", false).unwrap();
        let live = run(&live, spec(vec![container("a", "y")]), "one", false).unwrap();
        let names: Vec<&Value> =
            live["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["image"], "y");
    }

    #[test]
    fn applying_again_changes_nothing() {
        let config = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}});
        let live = run(&json!({}), config.clone(), "one", false).unwrap();
        let again = apply("Deployment", &live, &config, &options("one", false)).unwrap();
        assert!(!again.changed);
    }
}
