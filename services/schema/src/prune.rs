//! Pruning: what the schema does not know is dropped, and named.
//!
//! Invariants: `apiVersion`, `kind` and `metadata` stay at the root and in embedded resources; pruning twice
//! changes nothing. Limits: [`MAX_UNKNOWN`] fields are named; all are dropped.

use crate::Schema;
use crate::node::Node;
use serde_json::Value;

/// Most unknown fields that are named.
const MAX_UNKNOWN: usize = 32;

impl Schema {
    /// Drops the fields that the schema does not have, and answers their paths.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(&self.root, object, true, &mut String::new(), &mut unknown);
        unknown
    }
}

fn prune(node: &Node, value: &mut Value, object: bool, path: &mut String, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let known = |name: &str| {
                node.properties.contains_key(name)
                    || node.values.is_some()
                    || node.preserve
                    || (object && matches!(name, "apiVersion" | "kind" | "metadata"))
            };
            map.retain(|name, _| {
                let keep = known(name);
                if !keep && unknown.len() < MAX_UNKNOWN {
                    let dot = if path.is_empty() { "" } else { "." };
                    unknown.push(format!("{path}{dot}{name}"));
                }
                keep
            });
            for (name, inner) in map.iter_mut() {
                if object && name == "metadata" {
                    continue;
                }
                if let Some(schema) = node.properties.get(name).or(node.values.as_deref()) {
                    step(path, name, |path| prune(schema, inner, schema.embedded, path, unknown));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &node.items else { return };
            for (at, item) in items.iter_mut().enumerate() {
                index(path, at, |path| prune(schema, item, schema.embedded, path, unknown));
            }
        }
        _ => {}
    }
}

/// Goes on with a field's path.
pub(crate) fn step<R>(path: &mut String, name: &str, next: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.push_str(name);
    let result = next(path);
    path.truncate(length);
    result
}

/// Goes on with an item's path.
pub(crate) fn index<R>(path: &mut String, at: usize, next: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    path.push_str(&format!("[{at}]"));
    let result = next(path);
    path.truncate(length);
    result
}
