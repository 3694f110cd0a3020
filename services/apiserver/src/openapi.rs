//! Just enough OpenAPI for kubectl: the server validates fields itself and says so here.
//!
//! kubectl 1.27 and newer look in `/openapi/v3` whether PATCH of a kind takes `fieldValidation`; older ones
//! fetch `/openapi/v2` as protobuf and skip kinds that it does not describe. There are no schemas.
//! Invariant: every resource of the registry is in its group's document. Limits: none. Stateless.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use skerry_apimachinery::{Registry, Resource};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`: an empty document, in protobuf or JSON.
pub(crate) fn v2(headers: &HeaderMap) -> Response {
    let wants_protobuf =
        headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.contains("protobuf"));
    if !wants_protobuf {
        let document =
            json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": {}, "definitions": {}});
        return crate::http::json_response(http::StatusCode::OK, &document);
    }
    // openapi.v2.Document: 1 swagger; 2 info {1 title, 2 version}; 8 paths {}.
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)];
        out.extend_from_slice(bytes);
        out
    };
    let info = [field(1, b"Kubernetes"), field(2, b"v1")].concat();
    let document = [field(1, b"2.0"), field(2, &info), field(8, b"")].concat();
    let mut response = Response::new(Body::from(document));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    response
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
pub(crate) fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in registry.resources().iter().filter(|r| r.group == group && r.version == version && !r.review) {
        let (path, operations) = operations(resource);
        paths.insert(path, operations);
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths, "components": {"schemas": {}}})
}

fn operations(resource: &Resource) -> (String, Value) {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let namespace = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let path = format!("{root}/{}{namespace}/{}/{{name}}", resource.version, resource.plural);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str| {
        json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
            "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation"), query("force")],
            "responses": {"200": {"description": "OK"}},
        })
    };
    (
        path,
        json!({"patch": operation("patch"), "put": operation("put"), "get": operation("get"), "delete": operation("delete")}),
    )
}
