//! What the cloud answers to desired values that were set on a node, as it is kept in the Device.
//!
//! DeviceController writes the answer in the same write as the value, as the annotation [`ANSWERS`]; so it reaches
//! the node with the value that goes with it, after any restart and through any replica. Values may come back to
//! what they were, and nobody could tell from them alone whether a write was heard; its id can. Limits:
//! [`MAX_ANSWERS`], and [`MAX_REFUSED`] bytes for each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Annotation of a Device: JSON of [`Answers`].
pub const ANSWERS: &str = "skerry.io/set-on-node";

/// Properties whose answers are kept: people set a few values by hand. Of more, those of other properties are
/// dropped, and their nodes go by the values alone.
pub const MAX_ANSWERS: usize = 64;

/// Longest reason, in bytes.
const MAX_REFUSED: usize = 256;

/// The answer to the newest write of a node to a property.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which write.
    pub id: String,
    /// Why it was not taken; `None`: it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Answers by property.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answers(BTreeMap<String, Answer>);

impl Answers {
    /// From the annotation; none when somebody has damaged it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// For the annotation.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The answer of a property.
    #[must_use]
    pub fn get(&self, property: &str) -> Option<&Answer> {
        self.0.get(property)
    }

    /// Takes the answer of a property, in place of an earlier one.
    pub fn put(&mut self, property: &str, id: &str, refused: Option<&str>) {
        if !self.0.contains_key(property) {
            while self.0.len() >= MAX_ANSWERS {
                self.0.pop_first();
            }
        }
        let refused = refused.map(|reason| {
            let mut end = reason.len().min(MAX_REFUSED);
            while !reason.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            reason.get(..end).unwrap_or_default().to_owned()
        });
        self.0.insert(property.to_owned(), Answer { id: id.to_owned(), refused });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_and_survive_the_annotation() {
        let mut answers = Answers::default();
        for n in 0..=MAX_ANSWERS {
            answers.put(&format!("p{n:03}"), "a", Some(&"ü".repeat(MAX_REFUSED)));
        }
        answers.put("p064", "b", None);
        let back = Answers::parse(&answers.text());
        assert_eq!(back, answers);
        assert_eq!(back.0.len(), MAX_ANSWERS);
        assert_eq!(back.get("p000"), None);
        assert!(back.get("p001").and_then(|a| a.refused.as_ref()).is_some_and(|reason| reason.len() <= MAX_REFUSED));
        assert_eq!(back.get("p064"), Some(&Answer { id: "b".into(), refused: None }));
        assert_eq!(Answers::parse("[]"), Answers::default());
    }
}
