//! CustomResourceDefinitions: defaults, status, validation.
//!
//! Invariant: the name is `<plural>.<group>` and exactly one version is stored. A definition is established
//! at once: there is one server. Limits: `registry::MAX_CUSTOM_RESOURCES`. Stateless.

use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_apimachinery::json::{default_to, list_at, map_mut, str_at};
use skerry_apimachinery::{FieldError, meta};
use skerry_schema::Schema;

pub(super) fn defaults(object: &mut Value) {
    let kind = str_at(object, "/spec/names/kind").to_owned();
    let names = map_mut(object, &["spec", "names"]);
    default_to(names, "singular", kind.to_ascii_lowercase());
    default_to(names, "listKind", format!("{kind}List"));
    default_to(map_mut(object, &["spec"]), "conversion", json!({"strategy": "None"}));
}

pub(crate) fn status(object: &Value, now: Timestamp) -> Value {
    let stored: Vec<&str> = list_at(object, "/spec/versions")
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| str_at(v, "/name"))
        .collect();
    let time = meta::time(now);
    json!({
        "acceptedNames": object.pointer("/spec/names").cloned().unwrap_or_default(),
        "storedVersions": stored,
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found", "lastTransitionTime": time},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted", "lastTransitionTime": time},
        ],
    })
}

pub(super) fn validate(object: &Value, errors: &mut Vec<FieldError>) {
    let (group, plural) = (str_at(object, "/spec/group"), str_at(object, "/spec/names/plural"));
    let expected = format!("{plural}.{group}");
    if meta::name(object) != expected {
        errors.push(FieldError::invalid(
            "metadata.name",
            meta::name(object),
            format!("must be spec.names.plural+\".\"+spec.group ({expected})"),
        ));
    }
    for (field, value) in
        [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", str_at(object, "/spec/names/kind"))]
    {
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    let scope = str_at(object, "/spec/scope");
    if !["Cluster", "Namespaced"].contains(&scope) {
        errors.push(FieldError::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    for (index, version) in list_at(object, "/spec/versions").iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(path, "schemas are required")),
            Some(schema) => errors.extend(Schema::compile(schema, &path).err().into_iter().flatten()),
        }
    }
    let stored =
        list_at(object, "/spec/versions").iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).count();
    if stored != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            stored,
            "must have exactly one version marked as storage version",
        ));
    }
}
