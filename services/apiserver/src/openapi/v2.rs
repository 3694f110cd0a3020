//! `/openapi/v2`, in JSON and as the protobuf messages of gnostic's `openapi.v2` that older kubectl reads.
//!
//! The messages are written by hand, because only a few of their fields are needed. Their numbers are those
//! of gnostic's OpenAPIv2.proto. Stateless.

use super::schemas::{KIND_EXTENSION, Published, for_v2};
use super::{PATCH_PARAMETERS, operations};
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{list_at, map_at, str_at};
use skerry_apimachinery::{Registry, Resource};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document. kubectl before 1.27 looks here whether PATCH of a kind takes `dryRun`, and for `explain`.
pub(super) fn document(registry: &Registry, published: &[Published], headers: &HeaderMap) -> Response {
    let resources = registry.resources().iter().map(AsRef::as_ref).filter(|resource: &&Resource| !resource.review);
    let wants_protobuf =
        headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.contains("protobuf"));
    if !wants_protobuf {
        let paths: Map<String, Value> = resources.map(operations).collect();
        let definitions = published.iter().map(|one| {
            let mut schema = for_v2(&one.schema);
            if let (Some(map), Some(kind)) = (schema.as_object_mut(), one.with_kind().get(KIND_EXTENSION)) {
                map.insert(KIND_EXTENSION.into(), kind.clone());
            }
            (one.name.clone(), schema)
        });
        let definitions: Map<String, Value> = definitions.collect();
        let document = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths,
            "definitions": definitions});
        return crate::http::json_response(http::StatusCode::OK, &document);
    }
    let mut response = Response::new(Body::from(messages(resources, published)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}

fn messages<'r>(resources: impl Iterator<Item = &'r Resource>, published: &[Published]) -> Vec<u8> {
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
        let operation = [PATCH_PARAMETERS.map(parameter).concat(), field(13, &extension(&names))].concat();
        let item = [field(1, operations(resource).0.as_bytes()), field(2, &field(8, &operation))].concat();
        paths.extend(field(2, &item));
    }
    let mut definitions = Vec::new();
    for one in published {
        let kind = format!("- group: {}\n  kind: {}\n  version: {}\n", one.group, one.kind, one.version);
        let message = [schema(&for_v2(&one.schema)), field(31, &extension(&kind))].concat();
        definitions.extend(field(1, &[field(1, one.name.as_bytes()), field(2, &message)].concat()));
    }
    let info = [field(1, b"Kubernetes"), field(2, b"v1")].concat();
    [field(1, b"2.0"), field(2, &info), field(8, &paths), field(9, &definitions)].concat()
}

/// The extension that says of which kind something is.
fn extension(yaml: &str) -> Vec<u8> {
    [field(1, KIND_EXTENSION.as_bytes()), field(2, &field(2, yaml.as_bytes()))].concat()
}

/// A `Schema`.
fn schema(of: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, name) in [(2, "/format"), (4, "/description")] {
        let text = str_at(of, name);
        if !text.is_empty() {
            out.extend(field(number, text.as_bytes()));
        }
    }
    for name in list_at(of, "/required").iter().filter_map(Value::as_str) {
        out.extend(field(19, name.as_bytes()));
    }
    if let Some(values) = map_at(of, "/additionalProperties") {
        out.extend(field(21, &field(1, &schema(&Value::Object(values.clone())))));
    }
    let kind = str_at(of, "/type");
    if !kind.is_empty() {
        out.extend(field(22, &field(1, kind.as_bytes())));
    }
    if let Some(items) = of.get("items") {
        out.extend(field(23, &field(1, &schema(items))));
    }
    if let Some(fields) = map_at(of, "/properties") {
        let fields = fields
            .iter()
            .map(|(name, inner)| field(1, &[field(1, name.as_bytes()), field(2, &schema(inner))].concat()));
        out.extend(field(25, &fields.collect::<Vec<_>>().concat()));
    }
    out
}

/// A field of bytes: a string or a message.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 6);
    varint(usize::try_from(number << 3 | 2).unwrap_or_default(), &mut out);
    varint(bytes.len(), &mut out);
    out.extend_from_slice(bytes);
    out
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}
