//! Defaults: what the schema says for fields that are absent, or null where null is no value.
//!
//! Invariant: doing it twice changes nothing. Limits: those of the object.

use crate::Schema;
use crate::node::Node;
use serde_json::Value;

impl Schema {
    /// Fills in the defaults.
    pub fn fill(&self, object: &mut Value) {
        fill(&self.root, object);
    }
}

fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, schema) in &node.properties {
                let Some(default) = &schema.default else { continue };
                if map.get(name).is_none_or(|value| value.is_null() && !schema.nullable) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(schema) = node.properties.get(name).or(node.values.as_deref()) {
                    fill(schema, inner);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                items.iter_mut().for_each(|item| fill(schema, item));
            }
        }
        _ => {}
    }
}
