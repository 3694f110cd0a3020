//! What the device's node said last about its conditions, as it is kept with the DeviceStatus.
//!
//! The conditions that users see change without the node (it is away, the model is gone) and change back.
//! The node says each thing once, so its own word is kept: as the annotation [`ANNOTATION`], written together
//! with the status, so that it survives a restart and any replica has it.

use serde::{Deserialize, Serialize};
use skerry_k8s_types::Condition;

/// Annotation of a DeviceStatus: JSON of [`Told`].
pub(crate) const ANNOTATION: &str = "skerry.io/reported";

/// Longest reason and message that are taken from a node.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1_024;

/// Conditions that are taken from a node.
const MAX_CONDITIONS: usize = 8;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Who said it.
    pub(crate) node: String,
    /// As it was said.
    pub(crate) conditions: Vec<Condition>,
}

impl Told {
    /// What a node says, within bounds and without times: those are the cloud's.
    pub(crate) fn new(node: &str, conditions: &[Condition]) -> Self {
        let known = |status: &str| matches!(status, "True" | "False" | "Unknown");
        let conditions = conditions.iter().filter(|c| known(&c.status)).take(MAX_CONDITIONS);
        let conditions = conditions.map(|said| Condition {
            r#type: skerry_kubesync::cut(&said.r#type, MAX_REASON).to_owned(),
            status: said.status.clone(),
            reason: skerry_kubesync::cut(&said.reason, MAX_REASON).to_owned(),
            message: skerry_kubesync::cut(&said.message, MAX_MESSAGE).to_owned(),
            ..Condition::default()
        });
        Self { node: node.to_owned(), conditions: conditions.collect() }
    }

    /// From the annotation; nothing when somebody has damaged it, until the node reports again.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// For the annotation.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
