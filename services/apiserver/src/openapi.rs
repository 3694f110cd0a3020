//! Just enough OpenAPI for kubectl: the server validates fields itself and says so here.
//!
//! kubectl 1.27 and newer look in `/openapi/v3` whether PATCH of a kind takes `fieldValidation`; older ones
//! fetch `/openapi/v2` as protobuf. There are no schemas, so `kubectl explain` has nothing to say.
//! Invariant: every resource of the registry is in its group's document. Limits: none. Stateless.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use skerry_apimachinery::{Registry, Resource};

/// Where an operation says which kind it is about.
const KIND_EXTENSION: &str = "x-kubernetes-group-version-kind";

/// What PATCH takes.
const PATCH_PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`: the same operations without schemas, in protobuf or JSON. kubectl before 1.27 looks here
/// whether PATCH of a kind takes `dryRun`.
pub(crate) fn v2(registry: &Registry, headers: &HeaderMap) -> Response {
    let resources = registry.resources().iter().map(AsRef::as_ref).filter(|resource: &&Resource| !resource.review);
    let wants_protobuf =
        headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.contains("protobuf"));
    if !wants_protobuf {
        let paths: Map<String, Value> = resources.map(operations).collect();
        let document = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths,
            "definitions": {}});
        return crate::http::json_response(http::StatusCode::OK, &document);
    }
    let mut response = Response::new(Body::from(v2_protobuf(resources)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    response
}

/// The document as a message of gnostic's `openapi.v2`: only what kubectl reads of it.
fn v2_protobuf<'r>(resources: impl Iterator<Item = &'r Resource>) -> Vec<u8> {
    // Each nesting is one message of the schema: of a parameter, which may be one of several kinds, there are
    // four around the name.
    let parameter = |name: &str| {
        let query = [field(2, b"query"), field(4, name.as_bytes())].concat();
        field(8, &field(1, &field(2, &field(3, &query))))
    };
    let mut paths = Vec::new();
    for resource in resources {
        let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
        let names = format!("group: \"{group}\"\nkind: {kind}\nversion: {version}\n");
        let extension = [field(1, KIND_EXTENSION.as_bytes()), field(2, &field(2, names.as_bytes()))].concat();
        let operation = [PATCH_PARAMETERS.map(parameter).concat(), field(13, &extension)].concat();
        let item = [field(1, operations(resource).0.as_bytes()), field(2, &field(8, &operation))].concat();
        paths.extend(field(2, &item));
    }
    let info = [field(1, b"Kubernetes"), field(2, b"v1")].concat();
    [field(1, b"2.0"), field(2, &info), field(8, &paths)].concat()
}

/// A field of bytes: a string or a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or_default());
    out.extend_from_slice(bytes);
    out
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
    for resource in
        registry.resources().iter().filter(|r| r.group == group && r.version == version && !r.review && !r.computed)
    {
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
