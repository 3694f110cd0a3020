//! Objects as stored and as one API version shows them.
//!
//! Called before a write and after a read. Core and `events.k8s.io` Events are one stored object (in core
//! form); versions of a custom resource differ only in `apiVersion` (conversion strategy None).
//! Invariant: a round trip through a view loses nothing. Limits: none. Stateless.

use bytes::Bytes;
use serde_json::Value;
use skerry_apimachinery::json::as_map;
use skerry_apimachinery::{Entry, Resource};

/// (core, events.k8s.io)
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn is_new_event(resource: &Resource) -> bool {
    resource.group == "events.k8s.io"
}

/// Turns what a client sent into the stored form.
pub(crate) fn to_storage(resource: &Resource, object: &mut Value) {
    if is_new_event(resource) {
        let map = as_map(object);
        for (core, new) in EVENT_FIELDS {
            if let Some(value) = map.remove(*new) {
                map.insert((*core).to_owned(), value);
            }
        }
        map.insert("apiVersion".into(), "v1".into());
    }
}

/// Turns a stored object into what this resource's version shows.
pub(crate) fn from_storage(resource: &Resource, object: &mut Value) {
    let map = as_map(object);
    if is_new_event(resource) {
        for (core, new) in EVENT_FIELDS {
            if let Some(value) = map.remove(*core) {
                map.insert((*new).to_owned(), value);
            }
        }
    }
    map.insert("apiVersion".into(), resource.api_version().into());
}

/// Must entries be converted for this resource?
fn differs(resource: &Resource, body: &[u8]) -> bool {
    if is_new_event(resource) {
        return true;
    }
    // Objects are serialized with apiVersion first, so a look at the start is enough.
    resource.custom && !body.starts_with(format!("{{\"apiVersion\":\"{}\"", resource.api_version()).as_bytes())
}

/// The bytes of an entry in this resource's version; shared when no conversion is needed.
pub(crate) fn bytes(resource: &Resource, entry: &Entry) -> Bytes {
    if !differs(resource, entry.body()) {
        return entry.body().clone();
    }
    Bytes::from(serde_json::to_vec(&value(resource, entry)).unwrap_or_default())
}

/// The value of an entry in this resource's version.
pub(crate) fn value(resource: &Resource, entry: &Entry) -> Value {
    let mut object = entry.value();
    from_storage(resource, &mut object);
    object
}

/// A watch line in this resource's version; shared when no conversion is needed.
pub(crate) fn line(resource: &Resource, kind: skerry_apimachinery::EventType, entry: &Entry) -> Bytes {
    if differs(resource, entry.body()) {
        skerry_apimachinery::watch_line(kind, &bytes(resource, entry))
    } else {
        entry.line(kind)
    }
}
