//! Just enough OpenAPI for kubectl: the server validates fields itself and says so here.
//!
//! kubectl 1.27 and newer look in `/openapi/v3` whether PATCH of a kind takes `fieldValidation`; older ones
//! fetch `/openapi/v2` as protobuf. Both have the schemas of custom resources, for `kubectl explain`. There
//! are none of the built-in kinds: they would be larger than the rest of the server.
//! Invariant: every resource of the registry is in its group's document. Limits: none. Stateless.

mod schemas;
mod v2;

use axum::response::Response;
use http::HeaderMap;
use schemas::{KIND_EXTENSION, published};
use serde_json::{Map, Value, json};
use skerry_apimachinery::{Registry, Resource};

/// What PATCH takes.
const PATCH_PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

/// `/openapi/v2`, in JSON or protobuf. `definitions` are the stored CustomResourceDefinitions.
pub(crate) fn v2(registry: &Registry, definitions: &[Value], headers: &HeaderMap) -> Response {
    v2::document(registry, &published(definitions), headers)
}

/// `/openapi/v3`: where the documents are.
pub(crate) fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            paths.insert(path, url);
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/apis/<group>/<version>`.
pub(crate) fn document(registry: &Registry, definitions: &[Value], group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in
        registry.resources().iter().filter(|r| r.group == group && r.version == version && !r.review && !r.computed)
    {
        let (path, operations) = operations(resource);
        paths.insert(path, operations);
    }
    let schemas = published(definitions).into_iter().filter(|one| one.group == group && one.version == version);
    let schemas: Map<String, Value> = schemas.map(|one| (one.name.clone(), one.with_kind())).collect();
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths, "components": {"schemas": schemas}})
}

fn operations(resource: &Resource) -> (String, Value) {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let namespace = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let path = format!("{root}/{}{namespace}/{}/{{name}}", resource.version, resource.plural);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str| {
        json!({
            "x-kubernetes-action": action, KIND_EXTENSION: kind,
            "parameters": PATCH_PARAMETERS.map(query),
            "responses": {"200": {"description": "OK"}},
        })
    };
    (
        path,
        json!({"patch": operation("patch"), "put": operation("put"), "get": operation("get"), "delete": operation("delete")}),
    )
}
