//! From the wire to checked types and back.
//!
//! Used by every machine of this crate and by the services that relay messages. Nothing that comes
//! out of here can be a path outside its directory, a control character on a terminal, or a key
//! that two ends spell differently: names follow the rules of Kubernetes' path segments.

use bytes::Bytes;
use skerry_common::{Encoding, Key, NameError, Version};
use skerry_proto::sync::v1 as proto;

use crate::error::ProtocolError;
use crate::limits::{
    MAX_KIND_BYTES, MAX_NAME_BYTES, MAX_REASON_BYTES, MAX_REPORT_BYTES, MAX_SELECTOR_BYTES, MAX_VERSION_BYTES,
};

/// What a change weighs beside its names and body: field tags, lengths, the encoding.
const CHANGE_OVERHEAD: usize = 24;

/// Bytes that an upsert adds to its delta; both ends count alike.
pub(crate) fn upsert_cost(key: &Key, version: &Version, body: &Bytes) -> usize {
    tombstone_cost(key).saturating_add(version.as_str().len()).saturating_add(body.len())
}

/// Bytes that a tombstone adds to its delta.
pub(crate) fn tombstone_cost(key: &Key) -> usize {
    CHANGE_OVERHEAD + key.namespace.len() + key.name.len()
}

/// A key as it goes on the wire.
#[must_use]
pub fn key_to_wire(key: &Key) -> proto::Key {
    proto::Key { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

/// Reads a key.
///
/// # Errors
/// [`ProtocolError::Missing`] without a key, [`ProtocolError::Invalid`] or
/// [`ProtocolError::TooLarge`] for a name that Kubernetes would not take as a path segment.
pub fn key_from_wire(key: Option<&proto::Key>) -> Result<Key, ProtocolError> {
    let key = key.ok_or(ProtocolError::Missing { field: "key" })?;
    Key::checked(&key.namespace, &key.name).map_err(|error| match error {
        NameError::Empty => ProtocolError::Missing { field: "name" },
        NameError::TooLong(limit) => {
            ProtocolError::TooLarge { what: "name", got: key.name.len().max(key.namespace.len()), limit }
        }
        NameError::Invalid(_) => ProtocolError::Invalid { field: "key", reason: "not the name of a Kubernetes object" },
    })
}

/// An encoding as it goes on the wire.
#[must_use]
pub fn encoding_to_wire(encoding: Encoding) -> i32 {
    match encoding {
        Encoding::Identity => proto::Encoding::Identity as i32,
        Encoding::Zstd => proto::Encoding::Zstd as i32,
    }
}

/// Reads an encoding.
///
/// # Errors
/// [`ProtocolError::Invalid`] if it is unspecified or not known here.
pub fn encoding_from_wire(value: i32) -> Result<Encoding, ProtocolError> {
    match proto::Encoding::try_from(value) {
        Ok(proto::Encoding::Identity) => Ok(Encoding::Identity),
        Ok(proto::Encoding::Zstd) => Ok(Encoding::Zstd),
        Ok(proto::Encoding::Unspecified) | Err(_) => {
            Err(ProtocolError::Invalid { field: "encoding", reason: "neither identity nor zstd" })
        }
    }
}

/// Reads a version.
///
/// # Errors
/// [`ProtocolError`] if it is empty, too long, or not printable ASCII.
pub fn version_from_wire(version: &str) -> Result<Version, ProtocolError> {
    if version.is_empty() {
        return Err(ProtocolError::Missing { field: "version" });
    }
    check_text("version", version, MAX_VERSION_BYTES)?;
    Ok(Version::new(version))
}

/// What a subscriber holds, as it goes on the wire.
#[must_use]
pub fn held_to_wire(key: &Key, version: &Version) -> proto::HeldObject {
    proto::HeldObject { key: Some(key_to_wire(key)), version: version.as_str().to_owned() }
}

/// Checks the parts of an `Open` that do not belong to the list of held objects.
///
/// # Errors
/// [`ProtocolError`] if the kind or the selector is missing, too long, or not printable ASCII.
pub fn check_open(open: &proto::Open) -> Result<(), ProtocolError> {
    if open.kind.is_empty() {
        return Err(ProtocolError::Missing { field: "kind" });
    }
    check_segment("kind", &open.kind, MAX_KIND_BYTES)?;
    check_text("selector", &open.selector, MAX_SELECTOR_BYTES)
}

/// A report with its parts checked. The body is still as sent: decompress it with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingReport {
    /// Grows with every report of the node; never zero.
    pub id: u64,
    /// The node as the message names it: to be compared with the peer's identity; empty on a
    /// stream of one node.
    pub node: String,
    /// The session as the message names it; zero on a stream of one node.
    pub session: u64,
    /// What is reported.
    pub kind: String,
    /// About which object.
    pub key: Key,
    /// The object's uid; empty where it has none.
    pub uid: String,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The content.
    pub body: Bytes,
    /// When the reporter saw it, milliseconds since 1970 by its own clock: for people, never to
    /// decide what is newer.
    pub observed_unix_ms: i64,
    /// W3C trace context; may be empty.
    pub traceparent: String,
}

impl IncomingReport {
    /// Checks a report.
    ///
    /// # Errors
    /// [`ProtocolError`] for a missing, invalid or oversized part.
    pub fn from_wire(report: proto::Report) -> Result<Self, ProtocolError> {
        if report.id == 0 {
            return Err(ProtocolError::Missing { field: "id" });
        }
        if report.kind.is_empty() {
            return Err(ProtocolError::Missing { field: "kind" });
        }
        check_segment("kind", &report.kind, MAX_KIND_BYTES)?;
        check_segment("node", &report.node, MAX_NAME_BYTES)?;
        check_text("uid", &report.uid, MAX_VERSION_BYTES)?;
        check_text("traceparent", &report.traceparent, MAX_VERSION_BYTES)?;
        if report.body.len() > MAX_REPORT_BYTES {
            return Err(ProtocolError::TooLarge {
                what: "report body",
                got: report.body.len(),
                limit: MAX_REPORT_BYTES,
            });
        }
        Ok(Self {
            id: report.id,
            key: key_from_wire(report.key.as_ref())?,
            encoding: encoding_from_wire(report.encoding)?,
            node: report.node,
            session: report.session,
            kind: report.kind,
            uid: report.uid,
            body: report.body,
            observed_unix_ms: report.observed_unix_ms,
            traceparent: report.traceparent,
        })
    }
}

/// Cuts a reason for people at [`MAX_REASON_BYTES`], at a character.
#[must_use]
pub fn cut_reason(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let mut at = MAX_REASON_BYTES;
        while !reason.is_char_boundary(at) {
            at -= 1;
        }
        reason.truncate(at);
    }
    reason
}

/// A name that may be empty but never leaves its directory or its line.
fn check_segment(field: &'static str, value: &str, limit: usize) -> Result<(), ProtocolError> {
    check_text(field, value, limit)?;
    if value == "." || value == ".." {
        return Err(ProtocolError::Invalid { field, reason: "a dot or two" });
    }
    if value.bytes().any(|b| matches!(b, b'/' | b'\\' | b'%' | b' ')) {
        return Err(ProtocolError::Invalid { field, reason: "holds a slash, a backslash, a percent sign or a space" });
    }
    Ok(())
}

fn check_text(field: &'static str, value: &str, limit: usize) -> Result<(), ProtocolError> {
    if value.len() > limit {
        return Err(ProtocolError::TooLarge { what: field, got: value.len(), limit });
    }
    if value.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
        return Err(ProtocolError::Invalid { field, reason: "not printable ASCII" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(namespace: &str, name: &str) -> proto::Key {
        proto::Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn keys_that_are_taken() {
        for (namespace, name) in [("", "node-1"), ("default", "web-0"), ("kube-system", "a:b"), ("default", "a.b.c")] {
            let key = key_from_wire(Some(&wire(namespace, name))).unwrap();
            assert_eq!(key_to_wire(&key), wire(namespace, name));
        }
    }

    #[test]
    fn keys_that_are_refused() {
        let long = "x".repeat(254);
        let long_namespace = "x".repeat(64);
        for (namespace, name, code) in [
            ("default", "", "missing"),
            ("default", "..", "invalid"),
            ("default", ".", "invalid"),
            ("..", "web", "invalid"),
            ("default", "../../etc/shadow", "invalid"),
            ("default", "a/b", "invalid"),
            ("default", "a\\b", "invalid"),
            ("a/b", "web", "invalid"),
            ("default", "a%2fb", "invalid"),
            ("default", "a b", "invalid"),
            ("default", "a\u{1b}[2J", "invalid"),
            ("default", "a\nb", "invalid"),
            ("default", "a\0b", "invalid"),
            ("default", "ä", "invalid"),
            ("default", long.as_str(), "too_large"),
            (long_namespace.as_str(), "web", "too_large"),
        ] {
            let error = key_from_wire(Some(&wire(namespace, name))).unwrap_err();
            assert_eq!(error.code(), code, "{namespace:?}/{name:?}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert_eq!(key_from_wire(None).unwrap_err().code(), "missing");
    }

    #[test]
    fn versions() {
        assert_eq!(version_from_wire("42").unwrap().as_str(), "42");
        assert_eq!(version_from_wire("").unwrap_err().code(), "missing");
        assert_eq!(version_from_wire("4\n2").unwrap_err().code(), "invalid");
        let long = "9".repeat(MAX_VERSION_BYTES + 1);
        assert_eq!(version_from_wire(&long).unwrap_err().code(), "too_large");
    }

    #[test]
    fn opens() {
        let open = |kind: &str, selector: &str| proto::Open {
            kind: kind.to_owned(),
            selector: selector.to_owned(),
            ..proto::Open::default()
        };
        assert!(check_open(&open("Pod", "a=b, c in (d, e)")).is_ok());
        assert_eq!(check_open(&open("", "")).unwrap_err().code(), "missing");
        assert_eq!(check_open(&open("Po/d", "")).unwrap_err().code(), "invalid");
        assert_eq!(check_open(&open("Pod", &"x".repeat(MAX_SELECTOR_BYTES + 1))).unwrap_err().code(), "too_large");
    }

    fn report() -> proto::Report {
        proto::Report {
            id: 7,
            kind: "PodStatus".to_owned(),
            key: Some(wire("default", "web")),
            encoding: proto::Encoding::Identity as i32,
            body: Bytes::from_static(b"{}"),
            ..proto::Report::default()
        }
    }

    #[test]
    fn reports() {
        assert_eq!(IncomingReport::from_wire(report()).unwrap().id, 7);
        type Break = fn(&mut proto::Report);
        let broken: [(&str, Break); 8] = [
            ("missing", |r| r.id = 0),
            ("missing", |r| r.kind.clear()),
            ("missing", |r| r.key = None),
            ("invalid", |r| r.encoding = 0),
            ("invalid", |r| r.encoding = 99),
            ("invalid", |r| r.node = "../x".to_owned()),
            ("invalid", |r| r.traceparent = "\u{7}".to_owned()),
            ("too_large", |r| r.body = Bytes::from(vec![0; MAX_REPORT_BYTES + 1])),
        ];
        for (code, change) in broken {
            let mut report = report();
            change(&mut report);
            assert_eq!(IncomingReport::from_wire(report).unwrap_err().code(), code);
        }
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        let cut = cut_reason("ä".repeat(MAX_REASON_BYTES));
        assert_eq!(cut.len(), MAX_REASON_BYTES);
        assert_eq!(cut_reason("short".to_owned()), "short");
    }
}
