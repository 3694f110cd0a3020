//! `skerry watch devices`: each device as it is, then each that changes, until one ends it.
//!
//! A table has a line when something in it but an age has changed, so that values that come every second do
//! not fill the screen; JSON (one object per line) and YAML (one document each) have every change. A change
//! that the reader is too slow for is merged by the node with the next of that device.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::device_change::Change;

use super::client::{self, Devices};
use super::{ListArgs, show};
use crate::failure::{Context as _, Result};
use crate::ui::{self, GrowingTable, Output};

/// Prints until the node or the reader ends it.
pub(super) async fn run(args: &ListArgs) -> Result<()> {
    let mut devices = Devices::connect(&args.node).await?;
    let mut changes = devices.watch(&args.namespace()).await?;
    let mut printer = Printer::new(args.output, args.all_namespaces);
    loop {
        let message = changes.message().await.map_err(|status| client::failed(client::WATCHING, &status))?;
        let Some(change) = message.ok_or_else(client::ended)?.change else { continue };
        for line in printer.lines(&change, Timestamp::now())? {
            if !ui::line_is_read(line) {
                return Ok(());
            }
        }
    }
}

/// What was printed of each device. One entry per device of the node.
#[derive(Debug)]
struct Printer {
    output: Output,
    table: GrowingTable,
    last: HashMap<(String, String), Value>,
}

impl Printer {
    fn new(output: Output, namespaces: bool) -> Self {
        let table = GrowingTable::new(show::columns(namespaces), output == Output::Wide);
        Self { output, table, last: HashMap::new() }
    }

    fn lines(&mut self, change: &Change, now: Timestamp) -> Result<Vec<String>> {
        let what = || "cannot print the change".to_owned();
        match self.output {
            Output::Json => Ok(vec![serde_json::to_string(&document(change)).or_fail(what)?]),
            Output::Yaml => {
                let text = serde_saphyr::to_string(&document(change)).or_fail(what)?;
                Ok(vec!["---".into(), text.trim_end().to_owned()])
            }
            Output::Table | Output::Wide => Ok(self.rows(change, now)),
        }
    }

    fn rows(&mut self, change: &Change, now: Timestamp) -> Vec<String> {
        match change {
            Change::Device(view) => {
                let row = show::row(view, now);
                let mut lasting = row.clone();
                if let Some(fields) = lasting.as_object_mut() {
                    fields.remove("lastSeen");
                }
                if self.last.get(&id(view.key.as_ref())) == Some(&lasting) {
                    return Vec::new();
                }
                self.last.insert(id(view.key.as_ref()), lasting);
                self.table.row(&row)
            }
            Change::Removed(key) => {
                // One that was never shown is none that went.
                if self.last.remove(&id(Some(key))).is_none() {
                    return Vec::new();
                }
                self.table.row(&json!({ "namespace": key.namespace, "name": key.name, "state": "removed" }))
            }
        }
    }
}

fn id(key: Option<&pb::DeviceKey>) -> (String, String) {
    key.map(|key| (key.namespace.clone(), key.name.clone())).unwrap_or_default()
}

fn document(change: &Change) -> Value {
    match change {
        Change::Device(view) => json!({ "type": "device", "device": show::device(view) }),
        Change::Removed(key) => {
            json!({ "type": "removed", "device": { "namespace": key.namespace, "name": key.name } })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::show::tests::{boiler, now};
    use super::*;

    #[test]
    fn a_table_has_a_line_for_what_has_changed() {
        let mut printer = Printer::new(Output::Table, false);
        let mut view = boiler();
        let first = printer.lines(&Change::Device(view.clone()), now()).unwrap();
        assert_eq!(first.len(), 2, "{first:?}");
        // Another value and another age are no news here.
        view.last_online_unix_ms += 5_000;
        view.twins[0].reported = Some("22".into());
        assert!(printer.lines(&Change::Device(view.clone()), now()).unwrap().is_empty());
        view.conditions[2].state = "True".into();
        let second = printer.lines(&Change::Device(view.clone()), now()).unwrap();
        assert_eq!(second, ["b1     boiler   modbus     m        online   True     2s"]);
        let gone = Change::Removed(view.key.unwrap());
        assert!(printer.lines(&gone, now()).unwrap()[0].contains("removed"));
        assert!(printer.lines(&gone, now()).unwrap().is_empty());
    }

    #[test]
    fn programs_get_every_change() {
        let mut printer = Printer::new(Output::Json, true);
        let change = Change::Device(boiler());
        for _ in 0..2 {
            let lines = printer.lines(&change, now()).unwrap();
            assert_eq!(lines.len(), 1);
            let value: Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!((&value["type"], &value["device"]["name"]), (&"device".into(), &"b1".into()));
        }
        let gone = Change::Removed(boiler().key.unwrap());
        let lines = Printer::new(Output::Yaml, true).lines(&gone, now()).unwrap();
        assert_eq!(lines[0], "---");
        assert!(lines[1].contains("type: removed"), "{lines:?}");
    }
}
