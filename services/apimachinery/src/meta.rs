//! Object metadata: names, labels, timestamps, uid, generation, deletion, preconditions.
//!
//! Called by create, update, patch and delete in `apiserver`. Invariants: system fields (uid,
//! creationTimestamp, deletionTimestamp, generation, resourceVersion) come from the server, never from
//! the caller; every name that passes [`is_dns_subdomain`] is safe as a path segment.
//! Limits: the name lengths of Kubernetes ([`MAX_NAME`], [`MAX_LABEL`], [`MAX_ANNOTATIONS`]).
//! Pure: the time and random suffixes are passed in. Nothing to lose on a crash.

use crate::error::FieldError;
use crate::json::{as_map, list_at, map_at, str_at};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Longest object name (DNS subdomain).
pub const MAX_NAME: usize = 253;
/// Longest label value and DNS label.
pub const MAX_LABEL: usize = 63;
/// Most bytes of all annotations of one object, as in Kubernetes.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Letters of a generated name suffix: no vowels, so no words.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a generated name suffix.
pub const SUFFIX_LENGTH: usize = 5;

const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SERVICE_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

/// Which names a resource accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain: most resources.
    #[default]
    Subdomain,
    /// DNS-1123 label: namespaces.
    Label,
    /// DNS-1035 label: services.
    Label1035,
    /// Anything that is a path segment: RBAC objects.
    PathSegment,
}

impl NameRule {
    /// Why `name` is refused, or `None`.
    pub fn refuse(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Subdomain => (!is_dns_subdomain(name)).then_some(SUBDOMAIN_MESSAGE),
            Self::Label => (!is_dns_label(name)).then_some(LABEL_MESSAGE),
            Self::Label1035 => {
                let ok = is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
                (!ok).then_some(SERVICE_MESSAGE)
            }
            Self::PathSegment => {
                let ok = !name.is_empty()
                    && name.len() <= MAX_NAME
                    && name != "."
                    && name != ".."
                    && !name.contains(['/', '%', '\0']);
                (!ok).then_some("a name may not be '.', '..' or contain '/' or '%'")
            }
        }
    }
}

/// DNS-1123 label.
pub fn is_dns_label(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// DNS-1123 subdomain.
pub fn is_dns_subdomain(text: &str) -> bool {
    // Kubernetes limits the whole, not each part.
    let part = |p: &str| {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let b = p.as_bytes();
        edge(b.first().copied())
            && edge(b.last().copied())
            && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
    };
    text.len() <= MAX_NAME && text.split('.').all(part)
}

/// A label or annotation key: optional DNS prefix, then a name.
pub fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// A label value; may be empty.
pub fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let edge = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// RFC 3339 with seconds, the form of `metav1.Time`.
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with microseconds, the form of `metav1.MicroTime`.
pub fn micro_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses either form.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// `metadata.name`, or `""`.
pub fn name(object: &Value) -> &str {
    str_at(object, "/metadata/name")
}
/// `metadata.namespace`, or `""`.
pub fn namespace(object: &Value) -> &str {
    str_at(object, "/metadata/namespace")
}
/// `metadata.uid`, or `""`.
pub fn uid(object: &Value) -> &str {
    str_at(object, "/metadata/uid")
}
/// `metadata.resourceVersion`, or `""`.
pub fn resource_version(object: &Value) -> &str {
    str_at(object, "/metadata/resourceVersion")
}
/// Is the object being deleted?
pub fn is_deleting(object: &Value) -> bool {
    !str_at(object, "/metadata/deletionTimestamp").is_empty()
}
/// Are there finalizers?
pub fn has_finalizers(object: &Value) -> bool {
    !list_at(object, "/metadata/finalizers").is_empty()
}
/// A label.
pub fn label<'o>(object: &'o Value, key: &str) -> Option<&'o str> {
    map_at(object, "/metadata/labels")?.get(key)?.as_str()
}
/// The metadata map, created when absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    as_map(as_map(object).entry("metadata").or_insert(Value::Null))
}

/// A generated name: `base` cut to fit, then five letters chosen by `pick` (which answers a number below its argument).
pub fn generate_name(base: &str, mut pick: impl FnMut(usize) -> usize) -> String {
    let keep =
        base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= MAX_LABEL - SUFFIX_LENGTH).last();
    let mut name = base.get(..keep.unwrap_or(0)).unwrap_or("").to_owned();
    for _ in 0..SUFFIX_LENGTH {
        let at = pick(SUFFIX_ALPHABET.len()) % SUFFIX_ALPHABET.len();
        name.push(SUFFIX_ALPHABET.get(at).copied().map_or('x', char::from));
    }
    name
}

/// Fills the system fields of a new object.
pub fn stamp_new(object: &mut Value, uid: &str, now: Timestamp, with_generation: bool) {
    let meta = metadata(object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta.remove(field);
    }
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), time(now).into());
    if with_generation {
        meta.insert("generation".into(), 1.into());
    }
}

/// Carries the system fields of the stored object over to its replacement.
pub fn carry_system_fields(new: &mut Value, old: &Value) {
    let old_meta = old.get("metadata");
    let meta = metadata(new);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old_meta.and_then(|m| m.get(field)) {
            Some(value) => meta.insert(field.to_owned(), value.clone()),
            None => meta.remove(field),
        };
    }
    meta.remove("selfLink");
    // Absent means "leave as it is"; an empty list means "forget all managers".
    if !meta.contains_key("managedFields")
        && let Some(managed) = old_meta.and_then(|m| m.get("managedFields"))
    {
        meta.insert("managedFields".into(), managed.clone());
    }
    if let Some(Value::Array(items)) = meta.get("managedFields")
        && items.iter().all(|i| i.as_object().is_none_or(Map::is_empty))
    {
        meta.remove("managedFields");
    }
}

/// Raises `metadata.generation` by one.
pub fn bump_generation(object: &mut Value) {
    let meta = metadata(object);
    let next = meta.get("generation").and_then(Value::as_i64).unwrap_or(0) + 1;
    meta.insert("generation".into(), next.into());
}

/// Validates what the caller may set in metadata.
pub fn validate(object: &Value, rule: NameRule, namespaced: bool, errors: &mut Vec<FieldError>) {
    let name = name(object);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = rule.refuse(name) {
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    if namespaced && !is_dns_label(namespace(object)) {
        errors.push(FieldError::invalid("metadata.namespace", namespace(object), LABEL_MESSAGE));
    }
    string_map(object, "labels", errors, |field, key, value, errors| {
        if !is_qualified_name(key) {
            errors.push(FieldError::invalid(field, key, "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc')"));
        }
        if !is_label_value(value) {
            errors.push(FieldError::invalid(field, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, at most 63 characters long"));
        }
    });
    let mut size = 0;
    string_map(object, "annotations", errors, |field, key, value, errors| {
        size += key.len() + value.len();
        if !is_qualified_name(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid(
                field,
                key,
                "prefix must be a DNS subdomain and name part must consist of alphanumeric characters, '-', '_' or '.'",
            ));
        }
    });
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::invalid(
            "metadata.annotations",
            size,
            format!("may not be more than {MAX_ANNOTATIONS} bytes"),
        ));
    }
    for (index, owner) in list_at(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("metadata.ownerReferences[{index}].{field}"), ""));
            }
        }
    }
}

fn string_map(
    object: &Value,
    field: &str,
    errors: &mut Vec<FieldError>,
    mut check: impl FnMut(&str, &str, &str, &mut Vec<FieldError>),
) {
    let path = format!("metadata.{field}");
    match object.pointer(&format!("/metadata/{field}")) {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) => check(&path, key, text, errors),
                    None => {
                        errors.push(FieldError::invalid(format!("{path}.{key}"), value.clone(), "must be a string"))
                    }
                }
            }
        }
        Some(other) => errors.push(FieldError::invalid(path, other.clone(), "must be a map of strings")),
    }
}

/// A `metav1.Status` that says success.
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource, "uid": uid});
    if !group.is_empty() {
        as_map(&mut details).insert("group".into(), group.into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Kubernetes' short form of an age: `5s`, `2m10s`, `3h`, `4d2h`.
pub fn human_duration(seconds: i64) -> String {
    let s = seconds;
    let (m, h, d) = (s / 60, s / 3600, s / 86400);
    match s {
        i64::MIN..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{s}s"),
        120..600 if s % 60 == 0 => format!("{m}m"),
        120..600 => format!("{m}m{}s", s % 60),
        600..10_800 => format!("{m}m"),
        10_800..28_800 if m % 60 == 0 => format!("{h}h"),
        10_800..28_800 => format!("{h}h{}m", m % 60),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 if h % 24 == 0 => format!("{d}d"),
        172_800..691_200 => format!("{d}d{}h", h % 24),
        691_200..63_072_000 => format!("{d}d"),
        _ => {
            let (years, days) = (d / 365, d % 365);
            if d < 365 * 8 && days > 0 { format!("{years}y{days}d") } else { format!("{years}y") }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        for (text, label, subdomain) in [
            ("a", true, true),
            ("a-b", true, true),
            ("a.b", false, true),
            ("-a", false, false),
            ("a-", false, false),
            ("A", false, false),
            ("", false, false),
            ("a..b", false, false),
            ("../etc", false, false),
        ] {
            assert_eq!(is_dns_label(text), label, "{text}");
            assert_eq!(is_dns_subdomain(text), subdomain, "{text}");
        }
        assert!(is_qualified_name("example.com/My_Key.1"));
        assert!(!is_qualified_name("Example!/a"));
        assert!(is_label_value(""));
        assert!(!is_label_value("a/b"));
        assert!(NameRule::Label1035.refuse("1a").is_some());
        assert!(NameRule::PathSegment.refuse("system:node").is_none());
    }

    #[test]
    fn generated_names_fit() {
        let long = "a".repeat(80) + "-";
        assert_eq!(generate_name(&long, |_| 0).len(), MAX_LABEL);
        assert_eq!(generate_name("web-", |_| 0), "web-bbbbb");
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (700, "11m"),
            (7200, "120m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn system_fields_are_not_the_callers() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "managedFields": [{"manager": "m"}]}});
        let mut new = json!({"metadata": {"name": "b", "uid": "2", "deletionTimestamp": "x", "generation": 9}});
        carry_system_fields(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "managedFields": [{"manager": "m"}]}})
        );
        let mut clear = json!({"metadata": {"managedFields": [{}]}});
        carry_system_fields(&mut clear, &old);
        assert!(clear.pointer("/metadata/managedFields").is_none());
    }
}
