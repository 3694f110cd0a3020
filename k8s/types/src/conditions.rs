//! Conditions of a device: what Skerry adds to KubeEdge's status.
//!
//! Invariant: one condition of each type; `lastTransitionTime` changes only with `status`.

use serde::{Deserialize, Serialize};

/// Model, node and mapper of the device are there.
pub const READY: &str = "Ready";
/// The mapper reaches the device.
pub const ONLINE: &str = "Online";
/// Every desired value has reached the device.
pub const SYNCED: &str = "Synced";

/// One aspect of the state of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Ready (model, node and mapper are there), Online (the mapper reaches the device) or Synced (every
    /// desired value has reached the device).
    pub r#type: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, as one word for programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, and what to do, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When status changed last, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
    /// metadata.generation of the object that the condition was computed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The condition of a type.
pub fn condition<'c>(conditions: &'c [Condition], r#type: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.r#type == r#type)
}

/// Puts a condition into the list, in place of the one of its type. The time of the last transition stays
/// when `status` does. Answers whether anything but that time has changed.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.r#type == new.r#type) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time.clone_from(&old.last_transition_time);
    }
    let changed = *old != new;
    *old = new;
    changed
}
