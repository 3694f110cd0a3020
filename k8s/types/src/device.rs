//! Device: one device, on which node it is, and what of it is read and written.
//!
//! The descriptions are what `kubectl explain` shows.

use crate::{Condition, Free, ObjectMeta, PushMethod, TwinProperty, or_default};
use serde::{Deserialize, Serialize};

/// A device that is attached to a node: which model it is of, which mapper speaks to it, and which of its
/// properties are read, written and forwarded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// `devices.kubeedge.io/v1beta1`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub api_version: String,
    /// `Device`.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub kind: String,
    /// Metadata.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the device is and what shall be done with it.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: DeviceSpec,
    /// What is known about the device. Written by the platform; its values are in the DeviceStatus of the
    /// same name. Fields that older versions of KubeEdge put here are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeviceSummary>,
}

/// What a device is and what shall be done with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// The DeviceModel of the device, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_model_ref: Option<DeviceModelRef>,
    /// Name of the node that the device is attached to. Without it the device is sent nowhere.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The properties that are read, written and forwarded. Only properties named here are reported; each
    /// has to be described in the DeviceModel.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<DeviceProperty>,
    /// Named operations of the device, each a set of properties that may be written through it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<DeviceMethod>,
    /// Which mapper speaks to the device, and how the device is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolConfig>,
    /// Whether and how often the state of the device is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_report: Option<StateReport>,
}

/// A DeviceModel in the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceModelRef {
    /// Name of the DeviceModel.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// A property of the device: how it is read, what it shall be, and where its values go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceProperty {
    /// Name of the property, as in the DeviceModel. Each name may appear once.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The value that the property shall have, for properties whose accessMode is ReadWrite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<TwinProperty>,
    /// How the property is found on the device: registers, node ids, topics and the like, as its mapper
    /// defines them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
    /// How often the value is reported to the cloud, in milliseconds. 0 means once a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub report_cycle: Option<i64>,
    /// How often the value is read from the device, in milliseconds. 0 means once a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub collect_cycle: Option<i64>,
    /// Whether the value is reported to the cloud, where it is shown in the DeviceStatus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// Where the mapper sends the values of the property without asking the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_method: Option<PushMethod>,
}

/// How a property is found on a device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VisitorConfig {
    /// The protocol that configData is for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub protocol_name: String,
    /// Settings of the mapper for this property, such as register and offset. Keys that are missing here are
    /// taken from the property in the DeviceModel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<Free>,
}

/// Which mapper speaks to a device, and how the device is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProtocolConfig {
    /// The protocol with which the mapper registered, such as modbus or opcua.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub protocol_name: String,
    /// How the device is reached, as its mapper defines it, such as address and unit. Keys that are missing
    /// here are taken from protocolConfigData in the DeviceModel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_data: Option<Free>,
}

/// An operation of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceMethod {
    /// Name of the method.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the method does, for people.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The properties that may be written through the method.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub property_names: Vec<String>,
}

/// Whether and how often the state of a device is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StateReport {
    /// Whether the state is reported to the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// How often the state is reported, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub report_cycle: Option<i64>,
}

/// What is known about a device, in short.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceSummary {
    /// State of the device as its mapper says: ok, online, offline, unhealthy or unknown.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// When the device was online last, RFC 3339.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub last_online_time: String,
    /// Ready, Online and Synced, each with its reason.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// metadata.generation that this status belongs to. A change of the status itself counts in it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Older form of spec.stateReport.reportToCloud, which wins over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_to_cloud: Option<bool>,
    /// Older form of spec.stateReport.reportCycle, which wins over it. Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_cycle: Option<i64>,
    /// Whatever else is there, as it was.
    #[serde(flatten)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub other: Free,
}

impl Device {
    /// `<namespace>/<name>`: what a device is called on the node.
    pub fn id(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// Name of the model, empty without one.
    pub fn model_name(&self) -> &str {
        self.spec.device_model_ref.as_ref().map_or("", |model| &model.name)
    }

    /// Name of the protocol, empty without one.
    pub fn protocol_name(&self) -> &str {
        self.spec.protocol.as_ref().map_or("", |protocol| &protocol.protocol_name)
    }

    /// Whether and how often the state is reported: `spec.stateReport`, else what older YAML has in `status`.
    pub fn state_report(&self) -> StateReport {
        if let Some(report) = &self.spec.state_report {
            return report.clone();
        }
        self.status
            .as_ref()
            .map(|status| StateReport { report_to_cloud: status.report_to_cloud, report_cycle: status.report_cycle })
            .unwrap_or_default()
    }

    /// The property of a name.
    pub fn property(&self, name: &str) -> Option<&DeviceProperty> {
        self.spec.properties.iter().find(|property| property.name == name)
    }
}
