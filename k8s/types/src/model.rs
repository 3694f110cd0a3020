//! DeviceModel: what all devices of a kind have in common.
//!
//! The descriptions are what `kubectl explain` shows.

use crate::{Free, ObjectMeta, VisitorConfig, or_default};
use serde::{Deserialize, Serialize};

/// What all devices of a kind have in common: their properties with type, access and range, and defaults of
/// the settings of their mapper.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceModel {
    /// `devices.kubeedge.io/v1beta1`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub api_version: String,
    /// `DeviceModel`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub kind: String,
    /// Metadata.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The properties and the defaults.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: DeviceModelSpec,
}

/// The properties of a model and its defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceModelSpec {
    /// The protocol that devices of this model speak, for people.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Defaults of spec.protocol.configData of the devices. A key of the device replaces the whole key here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_config_data: Option<Free>,
    /// The properties that devices of this model may have.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<ModelProperty>,
}

/// A property that devices of a model may have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ModelProperty {
    /// Name of the property. Each name may appear once.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// What the property is, for people.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Type of the value: INT, FLOAT, DOUBLE, STRING, BOOLEAN, BYTES or STREAM. STREAM properties are named
    /// saveFrame or saveVideo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<PropertyType>,
    /// ReadWrite if a desired value may be set, else ReadOnly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Smallest value, for numbers.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub minimum: String,
    /// Largest value, for numbers.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub maximum: String,
    /// Unit of the value, for people.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Defaults of the visitors of this property in the devices. A key of the device replaces the whole key
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
}

/// Type of a property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum PropertyType {
    #[allow(missing_docs, reason = "the name says it, and a comment would change the schema")]
    Int,
    #[allow(missing_docs, reason = "see above")]
    Float,
    #[allow(missing_docs, reason = "see above")]
    Double,
    #[allow(missing_docs, reason = "see above")]
    String,
    #[allow(missing_docs, reason = "see above")]
    Boolean,
    #[allow(missing_docs, reason = "see above")]
    Bytes,
    #[allow(missing_docs, reason = "see above")]
    Stream,
}

impl PropertyType {
    /// As in the API and on the wire: `INT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::String => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::Bytes => "BYTES",
            Self::Stream => "STREAM",
        }
    }
}

/// Who may change a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AccessMode {
    #[allow(missing_docs, reason = "the name says it, and a comment would change the schema")]
    ReadWrite,
    #[allow(missing_docs, reason = "see above")]
    ReadOnly,
}

impl AccessMode {
    /// As in the API and on the wire: `ReadWrite`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "ReadWrite",
            Self::ReadOnly => "ReadOnly",
        }
    }
}

impl DeviceModel {
    /// The property of a name.
    pub fn property(&self, name: &str) -> Option<&ModelProperty> {
        self.spec.properties.iter().find(|property| property.name == name)
    }
}
