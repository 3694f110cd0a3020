//! Bodies in Kubernetes' protobuf form, as JSON: clients written in Go send them for built-in kinds.
//!
//! Called when a body says `application/vnd.kubernetes.protobuf`; answers are always JSON, which those
//! clients accept. The messages are a table (`fields.txt`), decoded without generated code.
//! Invariants: what is not in the table is skipped, as protobuf demands; zero values that Go writes for
//! fields that are not pointers are left out, so that defaults apply as with JSON.
//! Limits: [`MAX_DEPTH`]; the body limit bounds the rest. Stateless; a malformed body is a 400.

mod wire;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use skerry_apimachinery::ApiError;
use skerry_apimachinery::meta;
use std::collections::HashMap;
use std::sync::OnceLock;
use wire::{Field, Reader, Wire};

/// Media type of these bodies.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Deeper than any message of a built-in kind.
const MAX_DEPTH: usize = 64;
const MAGIC: &[u8] = b"k8s\0";
const TABLE: &str = include_str!("fields.txt");

/// Fields whose zero means something: pointers in Go.
const ZERO_COUNTS: &[&str] = &[
    "replicas",
    "terminationGracePeriodSeconds",
    "gracePeriodSeconds",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "tolerationSeconds",
    "activeDeadlineSeconds",
    "backoffLimit",
    "parallelism",
    "completions",
    "revisionHistoryLimit",
    "ttlSecondsAfterFinished",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "startingDeadlineSeconds",
    "defaultMode",
    "mode",
    "exitCode",
    "value",
    "maxSurge",
    "maxUnavailable",
    "minAvailable",
    "partition",
    "priority",
];
/// Flags whose `false` means something.
const FALSE_COUNTS: &[&str] = &[
    "automountServiceAccountToken",
    "enableServiceLinks",
    "allowPrivilegeEscalation",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "privileged",
    "optional",
    "controller",
    "blockOwnerDeletion",
    "immutable",
    "suspend",
    "hostUsers",
    "shareProcessNamespace",
    "allocateLoadBalancerNodePorts",
    "publishNotReadyAddresses",
    "orphanDependents",
    "attachRequired",
    "ready",
    "serving",
    "terminating",
];

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    kind: &'static str,
    repeated: bool,
    inline: bool,
}

type Messages = HashMap<&'static str, HashMap<u32, Entry>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut out = Messages::new();
        let mut current = "";
        for line in TABLE.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some(number), Some(name), Some(kind)) => {
                    let entry = Entry {
                        name,
                        kind: kind.trim_start_matches(['*', '~']),
                        repeated: kind.starts_with('*'),
                        inline: kind.starts_with('~'),
                    };
                    out.entry(current).or_default().insert(number.parse().unwrap_or(0), entry);
                }
                (Some(message), _, _) => {
                    current = message;
                    out.entry(message).or_default();
                }
                _ => {}
            }
        }
        out
    })
}

/// Decodes a body: the envelope, then the message that it names.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bad = |why: &str| ApiError::BadRequest(format!("error decoding protobuf: {why}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| bad("the body has no Kubernetes prefix"))?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader::new(envelope) {
        match field.map_err(bad)? {
            Field { number: 1, wire: Wire::Bytes(bytes) } => {
                for field in Reader::new(bytes) {
                    match field.map_err(bad)? {
                        Field { number: 1, wire: Wire::Bytes(text) } => {
                            version = String::from_utf8_lossy(text).into_owned()
                        }
                        Field { number: 2, wire: Wire::Bytes(text) } => {
                            kind = String::from_utf8_lossy(text).into_owned()
                        }
                        _ => {}
                    }
                }
            }
            Field { number: 2, wire: Wire::Bytes(bytes) } => raw = bytes,
            _ => {}
        }
    }
    let message = message_name(&version, &kind);
    if !messages().contains_key(message.as_str()) {
        return Err(ApiError::UnsupportedMediaType(format!(
            "{kind} of {version} is not served as {MEDIA_TYPE}; use application/json"
        )));
    }
    let mut object = decode_message(&message, raw, 0).map_err(bad)?;
    if kind != "DeleteOptions" {
        object.insert("apiVersion".into(), version.into());
        object.insert("kind".into(), kind.into());
    }
    Ok(Value::Object(object))
}

/// `apps.Deployment` for `apps/v1` Deployment.
fn message_name(version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.DeleteOptions".into();
    }
    let group = version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
    format!("{group}.{kind}")
}

fn decode_message(message: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, &'static str> {
    if depth > MAX_DEPTH {
        return Err("too deep");
    }
    let mut out = Map::new();
    let Some(fields) = messages().get(message) else { return Ok(out) };
    for field in Reader::new(bytes) {
        let Field { number, wire } = field?;
        let Some(entry) = fields.get(&number) else { continue };
        if let Some(kind) = entry.kind.strip_prefix("map:") {
            let Wire::Bytes(pair) = wire else { return Err("a map entry is no message") };
            let (key, value) = map_entry(kind, pair, depth)?;
            if let Value::Object(map) = out.entry(entry.name).or_insert_with(|| json!({})) {
                map.insert(key, value);
            }
        } else if entry.inline {
            let Wire::Bytes(inner) = wire else { return Err("an inline message is no message") };
            out.extend(decode_message(entry.kind, inner, depth + 1)?);
        } else if entry.repeated {
            if let Value::Array(items) = out.entry(entry.name).or_insert_with(|| json!([])) {
                match (entry.kind, wire) {
                    // Packed numbers.
                    ("int32" | "int64", Wire::Bytes(packed)) => {
                        let mut rest = packed;
                        while !rest.is_empty() {
                            let (number, tail) = wire::varint(rest)?;
                            items.push(number.cast_signed().into());
                            rest = tail;
                        }
                    }
                    (kind, wire) => items.push(decode_value(kind, wire, depth)?),
                }
            }
        } else {
            let value = decode_value(entry.kind, wire, depth)?;
            if counts(entry.name, &value) {
                out.insert(entry.name.to_owned(), value);
            }
        }
    }
    Ok(out)
}

/// Is the value one that JSON would have?
fn counts(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(false) => FALSE_COUNTS.contains(&name),
        Value::String(text) => !text.is_empty() || name == "storageClassName",
        Value::Number(number) => number.as_i64() != Some(0) || ZERO_COUNTS.contains(&name),
        _ => true,
    }
}

fn map_entry(kind: &str, bytes: &[u8], depth: usize) -> Result<(String, Value), &'static str> {
    let (mut key, mut value) = (String::new(), Value::Null);
    for field in Reader::new(bytes) {
        match field? {
            Field { number: 1, wire: Wire::Bytes(text) } => key = string(text)?,
            Field { number: 2, wire } => value = decode_value(kind, wire, depth)?,
            _ => {}
        }
    }
    if value.is_null() {
        value = "".into();
    }
    Ok((key, value))
}

fn string(bytes: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8")
}

fn decode_value(kind: &str, wire: Wire<'_>, depth: usize) -> Result<Value, &'static str> {
    Ok(match (kind, wire) {
        ("string", Wire::Bytes(bytes)) => string(bytes)?.into(),
        ("bytes", Wire::Bytes(bytes)) => base64::prelude::BASE64_STANDARD.encode(bytes).into(),
        ("bool", Wire::Varint(number)) => (number != 0).into(),
        ("int32" | "int64", Wire::Varint(number)) => number.cast_signed().into(),
        ("time", Wire::Bytes(bytes)) => time(bytes)?.map_or(Value::Null, |t| meta::time(t).into()),
        ("microtime", Wire::Bytes(bytes)) => time(bytes)?.map_or(Value::Null, |t| meta::micro_time(t).into()),
        ("quantity", Wire::Bytes(bytes)) => first(bytes)?.map_or(Ok("0".to_owned()), string)?.into(),
        ("raw" | "fields", Wire::Bytes(bytes)) => {
            let raw = first(bytes)?.unwrap_or_default();
            serde_json::from_slice(raw).unwrap_or(Value::Null)
        }
        ("items", Wire::Bytes(bytes)) => {
            let mut items = Vec::new();
            for field in Reader::new(bytes) {
                if let Field { number: 1, wire: Wire::Bytes(text) } = field? {
                    items.push(string(text)?);
                }
            }
            items.into()
        }
        ("intorstring", Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (message, Wire::Bytes(bytes)) => Value::Object(decode_message(message, bytes, depth + 1)?),
        _ => return Err("a field has the wrong wire type"),
    })
}

/// The bytes of field 1.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    for field in Reader::new(bytes) {
        if let Field { number: 1, wire: Wire::Bytes(inner) } = field? {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}

/// `None` for the zero time, which Go writes as an empty message.
fn time(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, &'static str> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Reader::new(bytes) {
        match field? {
            Field { number: 1, wire: Wire::Varint(number) } => seconds = number.cast_signed(),
            Field { number: 2, wire: Wire::Varint(number) } => {
                nanos = i32::try_from(number.cast_signed()).map_err(|_| "a time is out of range")?
            }
            _ => {}
        }
    }
    if seconds == 0 && nanos == 0 {
        return Ok(None);
    }
    jiff::Timestamp::new(seconds, nanos).map(Some).map_err(|_| "a time is out of range")
}

fn int_or_string(bytes: &[u8]) -> Result<Value, &'static str> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Reader::new(bytes) {
        match field? {
            Field { number: 1, wire: Wire::Varint(kind) } => is_text = kind == 1,
            Field { number: 2, wire: Wire::Varint(value) } => number = value.cast_signed(),
            Field { number: 3, wire: Wire::Bytes(bytes) } => text = string(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn a_deployment_loses_go_zero_values_only() {
        let metadata =
            [field(1, b"web"), field(2, b""), field(8, b""), field(11, &[field(1, b"app"), field(2, b"web")].concat())]
                .concat();
        let spec = [vec![1 << 3, 0], vec![5 << 3, 0]].concat();
        let body = envelope("apps/v1", "Deployment", &[field(1, &metadata), field(2, &spec)].concat());
        assert_eq!(
            decode(&body).unwrap(),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": 0}})
        );
    }

    #[test]
    fn every_message_that_a_field_names_exists() {
        for (message, fields) in messages() {
            for entry in fields.values() {
                let kind = entry.kind.strip_prefix("map:").unwrap_or(entry.kind);
                let known = !kind.contains('.') || messages().contains_key(kind);
                assert!(known, "{message}.{} is of unknown type {kind}", entry.name);
            }
        }
    }

    #[test]
    fn malformed_and_unknown_bodies_are_refused() {
        assert_eq!(decode(b"{}").unwrap_err().code(), 400);
        assert_eq!(decode(&envelope("x.io/v1", "Thing", b"")).unwrap_err().code(), 415);
        let body = envelope("v1", "Pod", &[1 << 3 | 2, 200]);
        assert_eq!(decode(&body).unwrap_err().code(), 400);
        for end in 0..body.len() {
            let _ = decode(body.get(..end).unwrap());
        }
    }
}
