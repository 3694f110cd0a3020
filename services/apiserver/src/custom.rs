//! Custom resources and their schemas: the compiled schema of each version, and what it does to an object.
//!
//! The schemas are compiled when definitions change (`Api::reload_registry`) and replaced as a whole, like the
//! registry. Invariants: what is stored of a custom resource has passed its schema; an update is not refused
//! for what was already wrong before it, so that a stricter definition never blocks a deletion.
//! Limits: those of `skerry-schema`. On a crash they are compiled again from the stored definitions.

use crate::state::Api;
use crate::typed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use skerry_apimachinery::json::{list_at, str_at};
use skerry_apimachinery::{ApiError, FieldError, Resource, meta};
use skerry_schema::Schema;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Compiled schemas by storage name and version, each with the version of its definition.
#[derive(Debug, Default)]
pub(crate) struct Schemas(HashMap<(String, String), (String, Arc<Schema>)>);

impl Schemas {
    /// Compiles the schemas of the definitions; those of definitions that have not changed are taken from
    /// `before`.
    pub(crate) fn new(definitions: &[Value], before: &Self) -> Self {
        let mut all = HashMap::new();
        for definition in definitions {
            let storage = crate::verbs::definition_storage(definition);
            let stamp = format!("{}/{}", meta::uid(definition), meta::resource_version(definition));
            for version in list_at(definition, "/spec/versions") {
                let key = (storage.clone(), str_at(version, "/name").to_owned());
                if let Some((_, schema)) = before.0.get(&key).filter(|(old, _)| *old == stamp) {
                    all.insert(key, (stamp.clone(), schema.clone()));
                    continue;
                }
                let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { continue };
                match Schema::compile(schema, "openAPIV3Schema") {
                    Ok(schema) => drop(all.insert(key, (stamp.clone(), Arc::new(schema)))),
                    // It was checked when it was written; one of an older release may be wrong for this one.
                    Err(errors) => {
                        tracing::error!(definition = meta::name(definition), ?errors, "a schema is not enforced")
                    }
                }
            }
        }
        Self(all)
    }

    fn get(&self, storage: &str, version: &str) -> Option<Arc<Schema>> {
        self.0.get(&(storage.to_owned(), version.to_owned())).map(|(_, schema)| schema.clone())
    }
}

/// The schema of the version in which an object is written.
fn schema_of(api: &Api, resource: &Resource, object: &Value) -> Option<Arc<Schema>> {
    if !resource.custom {
        return None;
    }
    let version = str_at(object, "/apiVersion").rsplit('/').next().unwrap_or_default();
    api.schemas().get(&resource.storage, version)
}

/// Checks the types of fields that every object has, drops what the schema does not know, and answers the
/// paths of what was dropped. Built-in kinds have their types in `typed`.
pub(crate) fn shape(api: &Api, resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    if !resource.custom {
        return typed::check(resource, object);
    }
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    if !metadata.is_null() {
        serde_json::from_value::<ObjectMeta>(metadata).map_err(|error| {
            ApiError::BadRequest(format!(
                "{} in version \"{}\" cannot be handled as a {}: metadata: {error}",
                resource.kind, resource.version, resource.kind
            ))
        })?;
    }
    Ok(schema_of(api, resource, object).map(|schema| schema.prune(object)).unwrap_or_default())
}

/// How the lists of the object merge when it is applied.
pub(crate) fn lists(api: &Api, resource: &Resource, object: &Value) -> Option<BTreeMap<String, Vec<String>>> {
    schema_of(api, resource, object).map(|schema| schema.lists())
}

/// Fills in the defaults of the schema.
pub(crate) fn fill(api: &Api, resource: &Resource, object: &mut Value) {
    if let Some(schema) = schema_of(api, resource, object) {
        schema.fill(object);
    }
}

/// Validates an object against its schema. `old` is what it replaces.
pub(crate) fn validate(
    api: &Api,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let Some(schema) = schema_of(api, resource, object) else { return };
    let mut found = schema.validate(object, old);
    if let (Some(old), false) = (old, found.is_empty()) {
        let before = schema.validate(old, None);
        found.retain(|error| !before.contains(error));
    }
    errors.append(&mut found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(version: &str, kind: &str) -> Value {
        json!({"metadata": {"uid": "u", "resourceVersion": version}, "spec": {"group": "g", "names": {"plural": "p"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": kind}}}]}})
    }

    #[test]
    fn schemas_of_definitions_that_did_not_change_are_kept() {
        let first = Schemas::new(&[definition("1", "object")], &Schemas::default());
        let same = Schemas::new(&[definition("1", "object")], &first);
        let changed = Schemas::new(&[definition("2", "object")], &first);
        let schema = |all: &Schemas| all.get("g/p", "v1").map(|schema| Arc::as_ptr(&schema));
        assert!(schema(&first).is_some());
        assert_eq!(schema(&first), schema(&same));
        assert_ne!(schema(&first), schema(&changed));
        assert_eq!(schema(&Schemas::new(&[definition("3", "string")], &first)), None);
        assert_eq!(schema(&Schemas::new(&[], &first)), None);
    }
}
