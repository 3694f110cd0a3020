//! PushMethod: where a mapper sends the values of a property by itself.
//!
//! The descriptions are what `kubectl explain` shows. Passwords are never here: mappers take them from
//! their environment.

use crate::{Free, or_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a mapper sends the values of a property by itself, without the cloud.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PushMethod {
    /// Send values with HTTP POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<PushHttp>,
    /// Publish values on an MQTT broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<PushMqtt>,
    /// Send values as OpenTelemetry metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otel: Option<PushOtel>,
    /// Write values to a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_method: Option<DbMethod>,
    /// Settings of the anomaly detection of the mapper, as it defines them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly_detection: Option<Free>,
}

/// HTTP POST of values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PushHttp {
    /// Host that values are sent to.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub host_name: String,
    /// Port of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Path of the request, with its leading slash.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub request_path: String,
    /// How long a request may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Values on an MQTT broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PushMqtt {
    /// Address of the broker, such as tcp://127.0.0.1:1883.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Topic that values are published on.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// Quality of service of MQTT: 0, 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<i32>,
    /// Whether the broker keeps the last value for new subscribers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<bool>,
}

/// Values as OpenTelemetry metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PushOtel {
    /// URL of a collector that takes OTLP over HTTP.
    #[serde(
        default,
        rename = "endpointURL",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub endpoint_url: String,
}

/// A database for values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DbMethod {
    /// InfluxDB 2. The token is taken from the environment of the mapper: TOKEN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub influxdb2: Option<Influxdb2>,
    /// Redis. The password is taken from the environment of the mapper: PASSWORD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// TDengine. User and password are taken from the environment of the mapper: USERNAME and PASSWORD.
    #[serde(default, rename = "TDEngine", skip_serializing_if = "Option::is_none")]
    pub tdengine: Option<Tdengine>,
    /// MySQL. The password is taken from the environment of the mapper: PASSWORD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<Mysql>,
}

/// Values in InfluxDB 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Influxdb2 {
    /// How the database is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub influxdb2_client_config: Option<Influxdb2ClientConfig>,
    /// How values are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub influxdb2_data_config: Option<Influxdb2DataConfig>,
}

/// How InfluxDB is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Influxdb2ClientConfig {
    /// URL of the database.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Organization.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub org: String,
    /// Bucket.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub bucket: String,
}

/// How values are stored in InfluxDB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Influxdb2DataConfig {
    /// Measurement that values are written to.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub measurement: String,
    /// Tags of each point.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub tag: BTreeMap<String, String>,
    /// Name of the field that has the value.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub field_key: String,
}

/// Values in Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// How the database is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_client_config: Option<RedisClientConfig>,
}

/// How Redis is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RedisClientConfig {
    /// host:port of the server.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// Number of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db: Option<i64>,
    /// Most connections that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poolsize: Option<i64>,
    /// Fewest idle connections that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_idle_conns: Option<i64>,
}

/// Values in TDengine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tdengine {
    /// How the database is reached.
    #[serde(default, rename = "TDEngineClientConfig", skip_serializing_if = "Option::is_none")]
    pub client_config: Option<TdengineClientConfig>,
}

/// How TDengine is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TdengineClientConfig {
    /// host:port of the REST interface.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// Name of the database.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub db_name: String,
}

/// Values in MySQL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Mysql {
    /// How the database is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql_client_config: Option<MysqlClientConfig>,
}

/// How MySQL is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MysqlClientConfig {
    /// host:port of the server.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// Name of the database.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// Name of the user.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user_name: String,
}
