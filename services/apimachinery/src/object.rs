//! A stored object as the cache holds it: its JSON bytes, ready to send, and a small index.
//!
//! Built by the storage writer once per write; read by every get, list and watch. Invariants: the bytes
//! are the object exactly as stored, with its resourceVersion; they are made once and shared by reference
//! between the cache, the event ring and every watcher.
//! Limits: the size of an object is bounded by the request body limit of the server.
//! Nothing here does IO. On a crash entries are rebuilt from the database.

use crate::json::{map_at, str_at};
use crate::meta;
use crate::selector::{FieldSelector, LabelSelector, field_paths};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use std::sync::Arc;

/// Namespace and name. Ordered as lists are: by namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// The type of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// The object is new to the watcher.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone, or no longer selected.
    Deleted,
}

impl EventType {
    /// As in the watch stream.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

const LINE_END: &[u8] = b"}\n";

fn line_start(kind: EventType) -> &'static [u8] {
    match kind {
        EventType::Added => b"{\"type\":\"ADDED\",\"object\":",
        EventType::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
        EventType::Deleted => b"{\"type\":\"DELETED\",\"object\":",
    }
}

/// One line of a watch stream.
pub fn watch_line(kind: EventType, object: &[u8]) -> Bytes {
    let start = line_start(kind);
    let mut line = BytesMut::with_capacity(start.len() + object.len() + LINE_END.len());
    line.put_slice(start);
    line.put_slice(object);
    line.put_slice(LINE_END);
    line.freeze()
}

/// A stored object.
#[derive(Debug)]
pub struct Entry {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The version of this state.
    pub version: u64,
    /// The version at which the object was created.
    pub created: u64,
    /// `metadata.uid`.
    pub uid: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[Box<str>]>,
    paths: &'static [&'static str],
    body: Bytes,
    line: Bytes,
    line_type: EventType,
}

impl Entry {
    /// Builds the entry. `object` must carry its resourceVersion already; `line_type` is the event that this
    /// write will be for most watchers.
    pub fn new(storage: &str, object: &Value, version: u64, created: u64, line_type: EventType) -> Self {
        let body = serde_json::to_vec(object).unwrap_or_default();
        Self::from_bytes(storage, object, &body, version, created, line_type)
    }

    /// As [`Entry::new`], from bytes that were serialized before (the database row).
    pub fn from_bytes(
        storage: &str,
        object: &Value,
        body: &[u8],
        version: u64,
        created: u64,
        line_type: EventType,
    ) -> Self {
        let line = watch_line(line_type, body);
        let start = line_start(line_type).len();
        let body = line.slice(start..start + body.len());
        let labels = map_at(object, "/metadata/labels").map(|map| {
            map.iter().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect::<Box<[_]>>()
        });
        let paths = field_paths(storage);
        Self {
            key: ObjectKey::new(meta::namespace(object), meta::name(object)),
            version,
            created,
            uid: meta::uid(object).into(),
            labels: labels.unwrap_or_default(),
            fields: paths.iter().map(|path| field_text(object, path)).collect(),
            paths,
            body,
            line,
            line_type,
        }
    }

    /// The object as JSON.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The watch line for an event of this type; shared when it is the usual one.
    pub fn line(&self, kind: EventType) -> Bytes {
        if kind == self.line_type { self.line.clone() } else { watch_line(kind, &self.body) }
    }

    /// Parses the object.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }

    /// A selectable field's value; absent is `""`.
    pub fn field(&self, path: &str) -> &str {
        match path {
            "metadata.name" => &self.key.name,
            "metadata.namespace" => &self.key.namespace,
            _ => self.paths.iter().zip(self.fields.iter()).find(|(p, _)| **p == path).map_or("", |(_, v)| v),
        }
    }
}

fn field_text(object: &Value, path: &str) -> Box<str> {
    let pointer = format!("/{}", path.replace('.', "/"));
    match (path, object.pointer(&pointer)) {
        ("source", _) => match str_at(object, "/source/component") {
            "" => str_at(object, "/reportingComponent").into(),
            component => component.into(),
        },
        ("spec.hostNetwork" | "spec.unschedulable", None) => "false".into(),
        (_, Some(Value::String(text))) => text.as_str().into(),
        (_, Some(Value::Null | Value::Object(_) | Value::Array(_)) | None) => "".into(),
        (_, Some(scalar)) => scalar.to_string().into(),
    }
}

/// What a list or watch selects.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all namespaces.
    pub namespace: String,
    /// Labels.
    pub labels: LabelSelector,
    /// Fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Is the entry selected?
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || *self.namespace == *entry.key.namespace)
            && (self.labels.is_empty() || self.labels.matches(|key| entry.label(key)))
            && (self.fields.is_empty() || self.fields.matches(|path| entry.field(path)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_shares_one_buffer_and_answers_selectors() {
        let object =
            json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": "web"}}, "spec": {"nodeName": "n1"}});
        let entry = Entry::new("/pods", &object, 7, 7, EventType::Added);
        assert_eq!(entry.value(), object);
        let line = entry.line(EventType::Added);
        assert!(line.starts_with(b"{\"type\":\"ADDED\",\"object\":{") && line.ends_with(b"}}\n"));
        let body = entry.body().as_ptr_range();
        assert!(line.as_ptr_range().contains(&body.start));
        assert!(entry.line(EventType::Deleted).starts_with(b"{\"type\":\"DELETED\""));
        let mut filter = Filter { namespace: "d".into(), ..Filter::default() };
        filter.fields = FieldSelector::parse("spec.nodeName=n1,spec.hostNetwork=false", "/pods", "Pod").unwrap();
        filter.labels = LabelSelector::parse("app=web").unwrap();
        assert!(filter.matches(&entry));
        filter.namespace = "e".into();
        assert!(!filter.matches(&entry));
    }
}
