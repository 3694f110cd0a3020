//! DeviceStatus: what a device reported; same namespace and name as its Device, which owns it.
//!
//! The descriptions are what `kubectl explain` shows.

use crate::{Condition, Free, ObjectMeta, or_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// States that a mapper may report, in lower case. Others are not accepted.
pub mod state {
    /// The device works.
    pub const OK: &str = "ok";
    /// The device is reachable.
    pub const ONLINE: &str = "online";
    /// The device is not reachable.
    pub const OFFLINE: &str = "offline";
    /// The device is reachable and does not work.
    pub const UNHEALTHY: &str = "unhealthy";
    /// Nobody knows.
    pub const UNKNOWN: &str = "unknown";
}

/// What a device reported: its values, its state and its conditions. It has the name of its Device and goes
/// with it. Written by the platform.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// `devices.kubeedge.io/v1beta1`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub api_version: String,
    /// `DeviceStatus`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub kind: String,
    /// Metadata.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Nothing can be configured.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: DeviceStatusSpec,
    /// What the device reported.
    #[serde(default, deserialize_with = "or_default")]
    pub status: DeviceStatusFields,
}

/// Nothing can be configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceStatusSpec {}

/// What a device reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatusFields {
    /// Desired and reported value of each property.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<Twin>,
    /// State of the device as its mapper says: ok, online, offline, unhealthy or unknown.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// When the device was online last, RFC 3339.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub last_online_time: String,
    /// Ready, Online and Synced, each with its reason.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// metadata.generation of the Device that this status belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_generation: Option<i64>,
    /// Free for other programs; Skerry leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Free>,
}

/// A property as it shall be and as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    /// Name of the property.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub property_name: String,
    /// The value that the device reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinProperty>,
    /// The desired value that the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_desired: Option<TwinProperty>,
}

/// A value and what is known about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TwinProperty {
    /// The value as text.
    pub value: String,
    /// What is known about the value, such as timestamp (milliseconds since 1970), type and quality.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}
