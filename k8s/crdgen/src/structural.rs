//! From what schemars makes of a type to a structural schema of Kubernetes.
//!
//! Structural means: inlined, one `type` everywhere, no `nullable` unions. Optional fields are left out of
//! `required` and are not nullable, as in KubeEdge's schemas. Free maps keep unknown fields.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The structural schema of a type.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    clean(&mut schema);
    schema
}

fn clean(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for name in ["title", "default", "definitions"] {
        map.remove(name);
    }
    unite_with_null(map);
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if map.get("additionalProperties") == Some(&Value::Bool(true)) {
        map.remove("additionalProperties");
        map.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(clean);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(inner) {
            clean(inner);
        }
    }
}

/// An optional field is `T` or null; here it is `T`.
fn unite_with_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get("type")
        && let Some(one) = types.iter().find(|t| *t != "null").cloned()
    {
        map.insert("type".into(), one);
    }
    if let Some(Value::Array(choices)) = map.remove("anyOf")
        && let Some(Value::Object(one)) = choices.into_iter().find(|choice| *choice != json!({"type": "null"}))
    {
        for (name, value) in one {
            map.entry(name).or_insert(value);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

/// The schema at a path such as `spec.properties[].name`.
///
/// # Panics
/// When the path does not exist: the test of this crate shows it.
#[allow(clippy::expect_used, reason = "a wrong path is a mistake in this crate, which its test finds")]
pub(crate) fn at<'s>(schema: &'s mut Value, path: &str) -> &'s mut Map<String, Value> {
    let mut here = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]");
        here = here.pointer_mut(&format!("/properties/{name}")).expect("a field of the type");
        if step.ends_with("[]") {
            here = here.get_mut("items").expect("a list");
        }
    }
    here.as_object_mut().expect("a schema")
}
