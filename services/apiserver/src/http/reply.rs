//! Answers: objects, tables, lists, statuses.
//!
//! Called by dispatch with what a verb gave. Invariant: the bytes of stored objects are sent as they are,
//! without parsing, unless the client asked for another form.
//! Limits: lists are streamed in chunks of [`CHUNK_ITEMS`] objects. Stateless.

use super::Form;
use crate::call::Call;
use crate::view;
use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use skerry_apimachinery::{ApiError, Entry, table, table_row};
use std::sync::Arc;

/// Objects in one chunk of a streamed list.
const CHUNK_ITEMS: usize = 64;

/// What a verb answers.
pub(crate) enum Reply {
    /// A stored object.
    Entry(StatusCode, Arc<Entry>),
    /// An object that is not stored as such (dry run, scale, review).
    Value(StatusCode, Value),
    /// A list.
    List(List),
    /// A finished response (watch).
    Raw(Response),
}

pub(crate) struct List {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) version: u64,
    pub(crate) next: String,
    pub(crate) remaining: usize,
}

fn respond(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response {
    respond(status, Bytes::from(serde_json::to_vec(value).unwrap_or_default()))
}

/// The answer for an error.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &error.status());
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer for a verb's reply, in the form that the client wants.
pub(crate) fn reply_response(call: &Call, reply: Reply) -> Response {
    let mut response = match reply {
        Reply::Raw(response) => response,
        Reply::List(list) => list_response(call, list),
        Reply::Entry(status, entry) if call.form == Form::Json => respond(status, view::bytes(&call.resource, &entry)),
        Reply::Entry(status, entry) => json_response(status, &shaped(call, view::value(&call.resource, &entry))),
        Reply::Value(status, value) => json_response(status, &shaped(call, value)),
    };
    let warnings = call.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for warning in warnings.iter() {
        let text = warning.replace('\n', " ").replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// One object in the form that the client wants. Statuses stay as they are.
pub(crate) fn shaped(call: &Call, object: Value) -> Value {
    if object.get("kind").is_some_and(|k| k == "Status") {
        return object;
    }
    match call.form {
        Form::Table => {
            let meta = json!({"resourceVersion": skerry_apimachinery::meta::resource_version(&object)});
            let row = table_row(&call.resource, &object, &call.include, call.now);
            table(&call.resource, vec![row], meta, true)
        }
        Form::Metadata => metadata_only(&object),
        Form::Json | Form::Discovery => object,
    }
}

/// PartialObjectMetadata.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or_default()})
}

fn list_response(call: &Call, list: List) -> Response {
    let mut meta = json!({"resourceVersion": list.version.to_string()});
    if !list.next.is_empty()
        && let Some(map) = meta.as_object_mut()
    {
        map.insert("continue".into(), list.next.into());
        map.insert("remainingItemCount".into(), list.remaining.into());
    }
    let resource = call.resource.clone();
    match call.form {
        Form::Table => {
            let row = |entry: &Arc<Entry>| table_row(&resource, &entry.value(), &call.include, call.now);
            let rows = list.entries.iter().map(row).collect();
            json_response(StatusCode::OK, &table(&resource, rows, meta, true))
        }
        Form::Metadata => {
            let items: Vec<Value> = list.entries.iter().map(|e| metadata_only(&e.value())).collect();
            let body = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            json_response(StatusCode::OK, &body)
        }
        Form::Json | Form::Discovery => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                resource.list_kind(),
                resource.api_version()
            );
            let entries = Arc::new(list.entries);
            let chunks = entries.len().div_ceil(CHUNK_ITEMS);
            let chunk = move |index: usize| {
                let mut out = BytesMut::new();
                let start = index * CHUNK_ITEMS;
                for (offset, entry) in entries.iter().skip(start).take(CHUNK_ITEMS).enumerate() {
                    if start + offset > 0 {
                        out.put_u8(b',');
                    }
                    out.put_slice(&view::bytes(&resource, entry));
                }
                out.freeze()
            };
            let parts =
                std::iter::once(Bytes::from(head)).chain((0..chunks).map(chunk)).chain([Bytes::from_static(b"]}")]);
            respond(StatusCode::OK, Body::from_stream(stream::iter(parts.map(Ok::<_, std::convert::Infallible>))))
        }
    }
}
