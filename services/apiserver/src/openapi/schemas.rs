//! Schemas of custom resources, as `kubectl explain` and clients that check before they send read them.
//!
//! Invariant: what is published is at most as strict as what is enforced. Limits: those of the definitions.

use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{list_at, str_at};

/// Where a schema says which kind it is.
pub(super) const KIND_EXTENSION: &str = "x-kubernetes-group-version-kind";

/// The schema of one version of a kind, by the name under which it is published.
pub(super) struct Published {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) schema: Value,
}

impl Published {
    /// The schema with the kind that it is of.
    pub(super) fn with_kind(&self) -> Value {
        let mut schema = self.schema.clone();
        if let Some(map) = schema.as_object_mut() {
            let kind = json!([{"group": self.group, "version": self.version, "kind": self.kind}]);
            map.insert(KIND_EXTENSION.into(), kind);
        }
        schema
    }
}

/// The schemas of all served versions.
pub(super) fn published(definitions: &[Value]) -> Vec<Published> {
    let mut all = Vec::new();
    for definition in definitions {
        let (group, kind) = (str_at(definition, "/spec/group"), str_at(definition, "/spec/names/kind"));
        let reversed = group.split('.').rev().collect::<Vec<_>>().join(".");
        for version in list_at(definition, "/spec/versions") {
            let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { continue };
            if version.get("served") != Some(&Value::Bool(true)) {
                continue;
            }
            let name = str_at(version, "/name");
            let mut schema = schema.clone();
            object_fields(&mut schema);
            all.push(Published {
                name: format!("{reversed}.{name}.{kind}"),
                group: group.to_owned(),
                version: name.to_owned(),
                kind: kind.to_owned(),
                schema,
            });
        }
    }
    all
}

/// What every object has, whether its schema says so or not.
fn object_fields(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let Some(fields) = map.entry("properties").or_insert_with(|| json!({})).as_object_mut() else { return };
    for (name, kind, text) in [
        ("apiVersion", "string", "Group and version of the schema of this object."),
        ("kind", "string", "Kind of this object."),
        ("metadata", "object", "Name, namespace, labels, annotations and the like: the same for every kind."),
    ] {
        let field = fields.entry(name).or_insert_with(|| json!({"type": kind}));
        if let Some(field) = field.as_object_mut() {
            field.entry("description").or_insert_with(|| text.into());
        }
    }
}

/// A schema in the words of version 2, which knows less. Below a place that keeps unknown fields nothing is
/// said, because clients would refuse what the server takes.
pub(super) fn for_v2(schema: &Value) -> Value {
    const KEPT: [&str; 5] = ["description", "type", "format", "required", "enum"];
    let Value::Object(map) = schema else { return json!({}) };
    let mut out: Map<String, Value> =
        map.iter().filter(|(name, _)| KEPT.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        out.remove("required");
        return Value::Object(out);
    }
    if map.get("nullable") == Some(&Value::Bool(true)) || map.contains_key("x-kubernetes-int-or-string") {
        // A null or a number would be refused where one type is said.
        out.remove("type");
        return Value::Object(out);
    }
    if let Some(Value::Object(fields)) = map.get("properties") {
        let fields: Map<String, Value> = fields.iter().map(|(name, inner)| (name.clone(), for_v2(inner))).collect();
        out.insert("properties".into(), fields.into());
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = map.get(name) {
            out.insert(name.into(), for_v2(inner));
        }
    }
    Value::Object(out)
}
