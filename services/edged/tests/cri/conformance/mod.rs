//! The public conformance list, line by line, on a real containerd: see CONFORMANCE.md.
//!
//! A test is a table: each [`Row`] is a container that prints what it sees (or waits until it sees it)
//! and ends, several of them share a [`Sheet`], which is a pod, and the pods of a test run beside each
//! other on one node. A failure names the row and shows the whole output of its container.

mod containers;
mod empty_dirs;
mod environment;
mod files;
mod resizes;
mod sub_paths;
mod updates;

use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, wait};

/// One line of the list: a container and what it must print.
pub(crate) struct Row {
    name: String,
    container: Value,
    lines: Vec<String>,
}

/// A container that runs a script.
pub(crate) fn row(name: impl Into<String>, script: &str) -> Row {
    let container = json!({ "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script] });
    Row { name: name.into(), container, lines: Vec::new() }
}

impl Row {
    /// Sets a field of the container.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.container[field] = value;
        self
    }

    /// Adds a mount of a volume.
    pub(crate) fn mount(self, volume: &str, path: &str) -> Self {
        self.mount_with(json!({ "name": volume, "mountPath": path }))
    }

    /// Adds a mount.
    pub(crate) fn mount_with(mut self, mount: Value) -> Self {
        match self.container["volumeMounts"].as_array_mut() {
            Some(list) => list.push(mount),
            None => self.container["volumeMounts"] = json!([mount]),
        }
        self
    }

    /// Expects a line in the output.
    pub(crate) fn sees(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

/// A pod of rows. Its uid is its name.
pub(crate) struct Sheet {
    pub(crate) name: &'static str,
    metadata: Value,
    spec: Value,
    rows: Vec<Row>,
}

impl Sheet {
    pub(crate) fn new(name: &'static str, rows: Vec<Row>) -> Self {
        let named = |(i, r): (usize, &Row)| {
            let mut container = r.container.clone();
            container["name"] = format!("c{i}").into();
            container
        };
        let containers: Vec<Value> = rows.iter().enumerate().map(named).collect();
        let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers });
        Self { name, metadata: json!({ "uid": name, "labels": {}, "annotations": {} }), spec, rows }
    }

    /// Sets a field of the spec.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// Sets a field of the metadata.
    pub(crate) fn metadata(mut self, field: &str, value: Value) -> Self {
        self.metadata[field] = value;
        self
    }

    pub(crate) fn put(&self, node: &Node) {
        let mut spec = self.spec.clone();
        spec["nodeName"] = node.name.clone().into();
        let body = json!({ "metadata": self.metadata, "spec": spec });
        node.hub.put(kinds::POD, "test", self.name, body);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// What a row's container printed.
    pub(crate) fn output(&self, node: &Node, index: usize) -> String {
        plain(&node.log(self.name, self.name, &format!("c{index}"), 0))
    }

    /// Waits until all containers have ended; the rows that did not print what they should.
    pub(crate) async fn failures(&self, node: &Node) -> Vec<String> {
        let ended = || matches!(node.status(self.name)["phase"].as_str(), Some("Succeeded" | "Failed"));
        let state = || {
            let outputs: Vec<String> =
                (0..self.rows.len()).map(|i| format!("{}: {}", self.rows[i].name, self.output(node, i))).collect();
            format!("{outputs:#?}\n{:#}\n{:#?}", node.status(self.name), node.all_events())
        };
        wait(&format!("the end of {}", self.name), ended, state).await;
        let mut failures = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            let output = self.output(node, index);
            for line in row.lines.iter().filter(|l| !output.lines().any(|o| o == l.as_str())) {
                failures.push(format!("{}: {:?}: no line {line:?} in\n{output}", self.name, row.name));
            }
        }
        failures
    }
}

/// Puts all sheets, then asserts that every row of them saw what it should.
pub(crate) async fn check(node: &Node, sheets: &[Sheet]) {
    for sheet in sheets {
        sheet.put(node);
    }
    finish(node, sheets).await;
}

/// As [`check`], for sheets that run already.
pub(crate) async fn finish(node: &Node, sheets: &[Sheet]) {
    let mut failures = Vec::new();
    for sheet in sheets {
        failures.extend(sheet.failures(node).await);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A log without its columns.
pub(crate) fn plain(log: &str) -> String {
    log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| format!("{l}\n")).collect()
}

/// A configMap or secret of the namespace `test`.
pub(crate) fn put_data(node: &Node, kind: &str, name: &str, data: &[(&str, &str)]) {
    put_data_in(node, kind, "test", name, data);
}

pub(crate) fn put_data_in(node: &Node, kind: &str, namespace: &str, name: &str, data: &[(&str, &str)]) {
    let text = |value: &str| -> Value {
        if kind == kinds::SECRET {
            serde_json::to_value(k8s_openapi::ByteString(value.into())).unwrap()
        } else {
            value.into()
        }
    };
    let data: serde_json::Map<String, Value> = data.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect();
    node.hub.put(kind, namespace, name, json!({ "data": data }));
}

/// The node has told what it can give.
pub(crate) async fn allocatable(node: &Node) -> Value {
    let status = || node.hub.newest(kinds::NODE_STATUS, "").map(|b| b["status"]["allocatable"].clone());
    wait("the node's allocatable", || status().is_some_and(|a| a["memory"].is_string()), String::new).await;
    status().unwrap()
}

/// A quantity of memory as the node writes it, in bytes.
pub(crate) fn bytes(quantity: &Value) -> u64 {
    let text = quantity.as_str().unwrap();
    match text.strip_suffix("Ki") {
        Some(kibi) => kibi.parse::<u64>().unwrap() * 1024,
        None => text.parse().unwrap(),
    }
}
