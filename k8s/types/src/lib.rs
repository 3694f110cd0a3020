//! The kinds of `devices.kubeedge.io/v1beta1` as Rust types: Device, DeviceModel, DeviceStatus.
//!
//! Used by everything that reads or writes devices, in the cloud and on the node, and by the generator of
//! the CustomResourceDefinitions (feature `schema`), which takes names, types and descriptions from here.
//! Field for field what KubeEdge has, so that its YAML and its objects pass unchanged; conditions,
//! `observedGeneration` and `deviceGeneration` are ours. There is no Kubernetes client and no IO.
//!
//! What KubeEdge leaves free (`configData`, `extensions`, …) is a map of JSON values: integers of 64 bits
//! and floats of 64 bits keep their value. A `null` where a list, a map or a struct is expected reads as
//! absent, because clients written in Go send it.

mod conditions;
mod definitions;
mod device;
mod merge;
mod meta;
mod model;
mod push;
mod status;

pub use conditions::{Condition, ONLINE, READY, SYNCED, condition, set_condition};
pub use definitions::DEFINITIONS;
pub use device::{
    Device, DeviceMethod, DeviceModelRef, DeviceProperty, DeviceSpec, DeviceSummary, ProtocolConfig, StateReport,
    VisitorConfig,
};
pub use merge::merge_defaults;
pub use meta::{ObjectMeta, OwnerReference};
pub use model::{AccessMode, DeviceModel, DeviceModelSpec, ModelProperty, PropertyType};
pub use push::{
    DbMethod, Influxdb2, Influxdb2ClientConfig, Influxdb2DataConfig, Mysql, MysqlClientConfig, PushHttp, PushMethod,
    PushMqtt, PushOtel, Redis, RedisClientConfig, Tdengine, TdengineClientConfig,
};
pub use status::{DeviceStatus, DeviceStatusFields, DeviceStatusSpec, Twin, TwinProperty, state};

/// Free JSON, keyed by field name.
pub type Free = serde_json::Map<String, serde_json::Value>;

/// The API group.
pub const GROUP: &str = "devices.kubeedge.io";
/// The version that is stored.
pub const VERSION: &str = "v1beta1";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "devices.kubeedge.io/v1beta1";

/// Reads `null` as the default: clients written in Go send it for an empty list or map.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}
