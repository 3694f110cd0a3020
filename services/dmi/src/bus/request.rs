//! What a client of the event bus sends, as KubeEdge's clients write it.
//!
//! Unknown fields are read over, versions among them: what is wanted converges by a rule of its own
//! ([`crate::twin`]). Limits: serde_json's depth of 128, and the length that [`super::answer`] has looked at.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::payload::TwinValue;

/// See the module documentation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Request {
    #[serde(deserialize_with = "or_nothing")]
    pub(super) event_id: String,
    #[serde(deserialize_with = "or_nothing")]
    pub(super) timestamp: i64,
    pub(super) state: Option<String>,
    pub(super) twin: Option<BTreeMap<String, Option<TwinAsked>>>,
}

/// What a client wants of a twin.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TwinAsked {
    pub(super) expected: Option<TwinValue>,
    pub(super) actual: Option<TwinValue>,
}

/// Reads what a client has sent.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn read(bytes: &[u8]) -> Result<Request, String> {
    // serde would take the fields from a list as well.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("not a request: it must be a JSON object".into());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("not a request: {error}"))
}

/// A `null` is nothing, as Go has it.
pub(super) fn or_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_of_kubeedges_clients_is_read() {
        let text = r#"{"event_id":"1","timestamp":5,"twin":{"a":{"actual":{"value":"1","metadata":{"timestamp":4}},
            "expected":{"value":"2"},"optional":true,"metadata":{"type":"Updated"},
            "expected_version":{"cloud":1,"edge":2}},"b":null}}"#;
        let request = read(text.as_bytes()).unwrap();
        let twin = request.twin.unwrap();
        let a = twin["a"].as_ref().unwrap();
        assert_eq!(a.actual.as_ref().unwrap().metadata.as_ref().unwrap().timestamp, 4);
        assert_eq!(a.expected.as_ref().unwrap().value.as_deref(), Some("2"));
        assert!(twin["b"].is_none());
        let nothing = r#"{"event_id":null,"timestamp":null,"twin":{"a":{"actual":{"metadata":{"timestamp":null}}}}}"#;
        assert_eq!(read(nothing.as_bytes()).unwrap().event_id, "");
        for wrong in [r#"{"twin":{"a":{"actual":{"value":1}}}}"#, "[]", "null", "", "{", "{} {}"] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
