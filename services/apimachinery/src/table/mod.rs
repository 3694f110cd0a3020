//! Tables as `kubectl get` prints them (`meta.k8s.io/v1` Table).
//!
//! Called by get, list and watch when the client asks for `as=Table`. Invariants: a row has exactly as
//! many cells as there are columns; a malformed object gives empty cells, never an error.
//! Limits: none beyond the list itself. Pure: the time is passed in. Nothing to lose on a crash.

mod core;
mod custom;
mod pod;
mod workload;

use crate::json::str_at;
use crate::meta;
use crate::registry::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A column: name, type, priority (0 is always shown).
pub(crate) type ColumnRow = (&'static str, &'static str, i64);

/// What a printer gives: its columns and one row of cells.
pub(crate) struct Printer {
    pub(crate) columns: &'static [ColumnRow],
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
}

fn printer(resource: &Resource) -> Option<Printer> {
    if resource.custom {
        return None;
    }
    pod::printer(&resource.kind).or_else(|| workload::printer(&resource.kind)).or_else(|| core::printer(&resource.kind))
}

/// The age of a timestamp, as kubectl prints it.
pub(crate) fn age(time: &str, now: Timestamp) -> Value {
    match meta::parse_time(time) {
        Some(then) => meta::human_duration(now.as_second() - then.as_second()).into(),
        None => "<unknown>".into(),
    }
}

/// The age of the object.
pub(crate) fn object_age(object: &Value, now: Timestamp) -> Value {
    age(str_at(object, "/metadata/creationTimestamp"), now)
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels_text(map: Option<&Value>) -> String {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    or_none(pairs.join(","))
}

/// The text, or `<none>`.
pub(crate) fn or_none(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text }
}

/// The rows' column definitions.
fn columns(resource: &Resource) -> Vec<Value> {
    let column = |name: &str, kind: &str, priority: i64| {
        let format = if name == "Name" { "name" } else { "" };
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority})
    };
    match printer(resource) {
        Some(p) => p.columns.iter().map(|(name, kind, priority)| column(name, kind, *priority)).collect(),
        None => {
            let mut out = vec![column("Name", "string", 0)];
            out.extend(resource.columns.iter().map(|c| column(&c.name, &c.kind, c.priority)));
            if !resource.columns.iter().any(|c| c.name.eq_ignore_ascii_case("age")) {
                out.push(column("Age", "string", 0));
            }
            out
        }
    }
}

/// One row. `include`: `Object`, `None`, or anything else for metadata only.
pub fn table_row(resource: &Resource, object: &Value, include: &str, now: Timestamp) -> Value {
    let cells = match printer(resource) {
        Some(p) => (p.cells)(object, now),
        None => custom::cells(resource, object, now),
    };
    let mut row = json!({"cells": cells});
    let attached = match include {
        "None" => None,
        "Object" => Some(object.clone()),
        _ => Some(json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        })),
    };
    if let (Some(map), Some(object)) = (row.as_object_mut(), attached) {
        map.insert("object".into(), object);
    }
    row
}

/// A table of these rows. `list_meta` is the metadata of the list.
pub fn table(resource: &Resource, rows: Vec<Value>, list_meta: Value, with_columns: bool) -> Value {
    let columns = if with_columns { Value::Array(columns(resource)) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "columnDefinitions": columns, "rows": rows})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn every_printer_has_as_many_cells_as_columns() {
        let registry = Registry::new([]);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        for resource in registry.resources() {
            for object in [
                json!({}),
                json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {}}),
            ] {
                let row = table_row(resource, &object, "None", now);
                assert_eq!(row["cells"].as_array().unwrap().len(), columns(resource).len(), "{}", resource.kind);
            }
        }
    }

    fn cells(plural: &str, group: &str, object: Value) -> Vec<String> {
        let resource = Registry::new([]).get(group, "v1", plural).unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let row = table_row(&resource, &object, "None", now);
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        row["cells"].as_array().unwrap().iter().map(text).collect()
    }

    #[test]
    fn a_crash_looping_pod() {
        let pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "b", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:50Z"}}}]}});
        assert_eq!(
            cells("pods", "", pod)[..7],
            ["p", "1/2", "CrashLoopBackOff", "3 (10s ago)", "60s", "10.0.0.1", "n1"]
        );
    }

    #[test]
    fn a_terminating_pod_and_a_node() {
        let pod = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(cells("pods", "", pod)[2], "Terminating");
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/edge": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0"}, "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}]}});
        assert_eq!(
            cells("nodes", "", node)[..6],
            ["n", "Ready,SchedulingDisabled", "edge", "<unknown>", "v1.33.0", "10.1.1.1"]
        );
    }

    #[test]
    fn a_service_and_a_deployment() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(
            cells("services", "", service)[..5],
            ["s", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP"]
        );
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}});
        assert_eq!(cells("deployments", "apps", deployment)[..4], ["d", "2/3", "3", "2"]);
    }
}
