//! What the node says on KubeEdge's event bus, field for field, and what it says about a twin.
//!
//! There are no versions, as in KubeEdge's answers: versions were for its cloud, whose part the rule of convergence
//! has ([`crate::twin`]). Types have KubeEdge's names on the bus. Added to KubeEdge's fields is `quality` beside a
//! timestamp, where a value is not good: a value that is not fresh must not look so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skerry_common::Key;

use super::request::or_nothing;
use crate::fleet::{DeviceShown, TwinShown, rfc3339};
use crate::twin::Quality;

/// Longest identifier of a request that is repeated in its answer.
const MAX_EVENT_ID: usize = 128;

/// What every message has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Base {
    event_id: String,
    /// Milliseconds since the epoch.
    timestamp: i64,
}

impl Base {
    /// Of an answer to a request.
    pub(super) fn answer(event_id: &str, now_ms: i64) -> Self {
        let repeated = event_id.len() <= MAX_EVENT_ID;
        Self { event_id: if repeated { event_id.to_owned() } else { String::new() }, timestamp: now_ms }
    }

    /// Of news that nobody asked for.
    pub(super) fn news(now_ms: i64) -> Self {
        Self { event_id: uuid::Uuid::new_v4().to_string(), timestamp: now_ms }
    }
}

/// Milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ValueMetadata {
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) timestamp: i64,
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    quality: Option<&'static str>,
}

/// A value, reported or wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TwinValue {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<ValueMetadata>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct TypeMetadata {
    r#type: &'static str,
}

/// A twin as clients see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Twin {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<TwinValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actual: Option<TwinValue>,
    optional: bool,
    metadata: TypeMetadata,
}

/// KubeEdge's name on the bus for a type of a model.
fn bus_type(model: &str) -> &'static str {
    match model {
        "INT" => "int",
        "FLOAT" | "DOUBLE" => "float",
        "BOOLEAN" => "boolean",
        _ => "string",
    }
}

/// The twins of a device, by property.
pub(super) type Twins = BTreeMap<String, Twin>;

impl Twin {
    fn new(shown: TwinShown) -> Self {
        let actual = shown.reported.map(|(value, quality, source_ms)| TwinValue {
            value: (quality != Quality::Bad || !value.is_empty()).then_some(value),
            metadata: Some(ValueMetadata {
                timestamp: source_ms,
                quality: (quality != Quality::Good).then(|| quality.as_str()),
            }),
        });
        let expected = shown.desired.map(|(value, _)| TwinValue { value: Some(value), metadata: None });
        Self { expected, actual, optional: false, metadata: TypeMetadata { r#type: bus_type(shown.r#type) } }
    }

    /// What is wanted; nothing, where it is empty.
    pub(super) fn wanted(&self) -> Option<&str> {
        self.expected.as_ref()?.value.as_deref().filter(|value| !value.is_empty())
    }

    /// Says since when the value is wanted: as long as it was known to be, else since now.
    pub(super) fn date(&mut self, known: Option<&Self>, now_ms: i64) {
        let Some(expected) = &mut self.expected else { return };
        let known = known.and_then(|known| known.expected.as_ref()).filter(|known| known.value == expected.value);
        let since = known.and_then(|known| known.metadata.as_ref()).map_or(now_ms, |metadata| metadata.timestamp);
        expected.metadata = Some(ValueMetadata { timestamp: since, quality: None });
    }

    /// What is wanted and is not so; KubeEdge compares text.
    pub(super) fn delta(&self) -> Option<&str> {
        let expected = self.wanted()?;
        let actual = self.actual.as_ref().and_then(|actual| actual.value.as_deref());
        (actual != Some(expected)).then_some(expected)
    }

    /// Whether another says the same, but for the time.
    pub(super) fn says(&self, other: &Self) -> bool {
        let said = |twin: &Self| {
            let actual = twin.actual.clone();
            actual.map(|actual| (actual.value, actual.metadata.and_then(|metadata| metadata.quality)))
        };
        self.expected == other.expected && said(self) == said(other)
    }
}

/// A device as clients see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Member {
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) state: String,
    /// KubeEdge's form, in UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    last_online: String,
    /// The same as the API has it.
    #[serde(rename = "lastOnlineTime", skip_serializing_if = "String::is_empty")]
    last_online_time: String,
    /// Of a device that has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    twin: Option<Twins>,
}

impl Member {
    /// One of which only the name is known.
    pub(super) fn named(key: &Key) -> Self {
        Self { id: key.to_string(), name: key.name.to_string(), ..Self::default() }
    }

    /// With its twins, where they are no longer than `most` bytes; one may ask for them.
    pub(super) fn with_twins(self, twins: &Twins, most: usize) -> Self {
        let twin = (bytes(twins) <= most).then(|| twins.clone());
        Self { twin, ..self }
    }

    /// Without its identifier, which is in the topic.
    pub(super) fn without_id(self) -> Self {
        Self { id: String::new(), ..self }
    }
}

/// What clients may see of a device.
pub(super) fn member(shown: &DeviceShown) -> Member {
    let time = if shown.last_online_ms > 0 { rfc3339(shown.last_online_ms) } else { String::new() };
    Member {
        state: shown.state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        last_online: time.trim_end_matches('Z').replace('T', " "),
        last_online_time: time,
        ..Member::named(&shown.key)
    }
}

/// The twins of a device.
pub(super) fn twins(shown: DeviceShown) -> Twins {
    shown.twins.into_iter().map(|twin| (twin.property.to_string(), Twin::new(twin))).collect()
}

/// What goes out.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Body {
    /// The request was not done.
    Error {
        /// As HTTP has it.
        code: u16,
        /// For people.
        reason: String,
    },
    /// Twins as they are now.
    Twins {
        /// By property.
        twin: Twins,
    },
    /// What is wanted and is not so.
    Delta {
        /// Everything that is wanted.
        twin: Twins,
        /// The wanted values by property.
        delta: BTreeMap<String, String>,
    },
    /// What has changed.
    Document {
        /// By property.
        twin: BTreeMap<String, Change>,
    },
    /// The state of a device.
    State {
        /// The device.
        device: Member,
    },
    /// The devices of the node.
    Members {
        /// All of them.
        devices: Vec<Member>,
    },
    /// Devices that came and went.
    Membership {
        /// They came.
        added_devices: Vec<Member>,
        /// They went.
        removed_devices: Vec<Member>,
    },
}

/// A twin before and after.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    pub(super) last: Option<Twin>,
    pub(super) current: Option<Twin>,
}

/// A whole message.
#[derive(Debug, Serialize)]
struct Envelope<'b> {
    #[serde(flatten)]
    base: &'b Base,
    #[serde(flatten)]
    body: &'b Body,
}

/// How long something is in a message.
pub(super) fn bytes(part: &impl Serialize) -> usize {
    serde_json::to_vec(part).map_or(0, |bytes| bytes.len())
}

/// The bytes of a message.
pub(super) fn encode(base: &Base, body: &Body) -> Vec<u8> {
    // Text and numbers only: it cannot fail.
    serde_json::to_vec(&Envelope { base, body }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn shown(reported: Option<(&str, Quality)>, desired: Option<&str>) -> TwinShown {
        TwinShown {
            property: "t".into(),
            r#type: "INT",
            unit: String::new(),
            writable: true,
            reported: reported.map(|(value, quality)| (value.to_owned(), quality, 77)),
            desired: desired.map(|value| (value.to_owned(), true)),
            synced: false,
            refused: false,
            problem: String::new(),
        }
    }

    #[test]
    fn a_twin_is_kubeedges_and_says_when_it_is_not_good() {
        for (reported, desired, expected) in [
            (None, None, json!({})),
            (
                Some(("5", Quality::Good)),
                Some("6"),
                json!({ "expected": { "value": "6" }, "actual": { "value": "5", "metadata": { "timestamp": 77 } } }),
            ),
            (
                Some(("5", Quality::Uncertain)),
                None,
                json!({ "actual": { "value": "5", "metadata": { "timestamp": 77, "quality": "Uncertain" } } }),
            ),
            (
                Some(("", Quality::Bad)),
                None,
                json!({ "actual": { "metadata": { "timestamp": 77, "quality": "Bad" } } }),
            ),
        ] {
            let mut whole = json!({ "optional": false, "metadata": { "type": "int" } });
            whole.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
            assert_eq!(serde_json::to_value(Twin::new(shown(reported, desired))).unwrap(), whole);
        }
    }

    #[test]
    fn types_have_kubeedges_names_and_wanted_values_the_time_they_came() {
        for (model, bus) in [
            ("INT", "int"),
            ("DOUBLE", "float"),
            ("FLOAT", "float"),
            ("BOOLEAN", "boolean"),
            ("BYTES", "string"),
            ("", "string"),
        ] {
            assert_eq!(bus_type(model), bus);
        }
        let dated = |desired, known: Option<&Twin>, now| {
            let mut twin = Twin::new(shown(None, Some(desired)));
            twin.date(known, now);
            twin
        };
        let first = dated("6", None, 10);
        let (same, other) = (dated("6", Some(&first), 20), dated("7", Some(&first), 20));
        let at = |twin: &Twin| twin.expected.as_ref().unwrap().metadata.as_ref().unwrap().timestamp;
        assert_eq!((at(&first), at(&same), at(&other)), (10, 10, 20));
    }

    #[test]
    fn a_delta_is_what_is_wanted_and_is_not_so() {
        for (reported, desired, delta) in [
            (None, None, None),
            (None, Some("6"), Some("6")),
            (Some(("5", Quality::Good)), Some("6"), Some("6")),
            (Some(("6", Quality::Uncertain)), Some("6"), None),
            (Some(("5", Quality::Good)), None, None),
            (None, Some(""), None),
        ] {
            assert_eq!(Twin::new(shown(reported, desired)).delta(), delta, "{reported:?} {desired:?}");
        }
    }

    #[test]
    fn an_answer_repeats_the_identifier_unless_it_is_too_long() {
        let message = |id: &str| -> Value {
            let body = Body::Error { code: 404, reason: "no".into() };
            serde_json::from_slice(&encode(&Base::answer(id, 5), &body)).unwrap()
        };
        assert_eq!(message("e"), json!({ "event_id": "e", "timestamp": 5, "code": 404, "reason": "no" }));
        assert_eq!(message(&"e".repeat(MAX_EVENT_ID + 1))["event_id"], "");
        let news = |body| serde_json::from_slice::<Value>(&encode(&Base::news(5), &body)).unwrap();
        let empty = news(Body::Membership { added_devices: Vec::new(), removed_devices: Vec::new() });
        assert!(!empty["event_id"].as_str().unwrap().is_empty());
        assert_eq!((&empty["added_devices"], &empty["removed_devices"]), (&json!([]), &json!([])));
    }
}
