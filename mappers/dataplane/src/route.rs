//! `pushMethod` of a property, read: which sinks its values go to, and how each wants them.
//!
//! The one place that knows KubeEdge's fields. Names that become part of a statement or a line are checked here
//! against a strict pattern; what cannot be used is said in words that name the field.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_k8s_types::{Influxdb2, Mysql, PushHttp, PushMethod, PushMqtt, PushOtel, Redis, Tdengine};
use skerry_mapper_sdk::{DataType, Definition, PropertyDefinition};

use crate::address::Address;
use crate::record::Target;

/// Longest topic, path or name that a sink can be given.
const MAX_NAME: usize = 1024;
/// Longest name of a table of MySQL.
const MAX_MYSQL_NAME: usize = 64;
/// Longest name of a table of TDengine.
const MAX_TDENGINE_NAME: usize = 192;
/// How long a request may take where the Device does not say; KubeEdge's mappers wait for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// No request takes longer, whatever the Device says.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// A sink: two properties share its connection when this is equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SinkKey {
    Http(Address),
    Mqtt(Address),
    Otlp(Address),
    Influxdb2 { address: Address, org: String, bucket: String },
    Redis { address: Address, db: i64 },
    Tdengine { address: Address, database: String },
    Mysql { address: Address, database: String, user: String },
}

/// How a sink wants the values of a property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Route {
    Http { path: String, timeout_ms: u64 },
    Mqtt { topic: String, qos: u8, retain: bool },
    Otlp,
    Influxdb2 { measurement: String, tags: BTreeMap<String, String>, field: String },
    Redis,
    Tdengine { table: String },
    Mysql { table: String },
}

impl SinkKey {
    /// Its kind, for labels.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Mqtt(_) => "mqtt",
            Self::Otlp(_) => "otlp",
            Self::Influxdb2 { .. } => "influxdb2",
            Self::Redis { .. } => "redis",
            Self::Tdengine { .. } => "tdengine",
            Self::Mysql { .. } => "mysql",
        }
    }

    /// Why this build cannot serve it.
    fn missing(&self) -> Option<&'static str> {
        let there = match self {
            Self::Http(_) | Self::Influxdb2 { .. } | Self::Tdengine { .. } => true,
            Self::Mqtt(_) => cfg!(feature = "mqtt"),
            Self::Otlp(_) => cfg!(feature = "otlp"),
            Self::Redis { .. } => cfg!(feature = "redis"),
            Self::Mysql { .. } => cfg!(feature = "mysql"),
        };
        (!there).then_some("this mapper was built without it")
    }
}

/// For logs, and the name under which the spool keeps its values: everything of the key, no secret.
impl fmt::Display for SinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        let secure = |address: &Address| if address.tls { "+tls" } else { "" };
        match self {
            Self::Http(address) | Self::Mqtt(address) | Self::Otlp(address) => {
                write!(f, "{kind}{}://{address}", secure(address))
            }
            Self::Influxdb2 { address, org, bucket } => {
                write!(f, "{kind}{}://{address} org {org} bucket {bucket}", secure(address))
            }
            Self::Redis { address, db } => write!(f, "{kind}{}://{address}/{db}", secure(address)),
            Self::Tdengine { address, database } => write!(f, "{kind}{}://{address}/{database}", secure(address)),
            Self::Mysql { address, database, user } => {
                write!(f, "{kind}{}://{address}/{database} as {user}", secure(address))
            }
        }
    }
}

/// The sinks of a property, and what is wrong with those that cannot be used.
pub(crate) fn read(definition: &Definition, property: &PropertyDefinition) -> (Vec<(SinkKey, Target)>, Vec<String>) {
    let mut problems = Vec::new();
    let json = serde_json::Value::Object(property.push_method.object());
    let method = match PushMethod::deserialize(json) {
        Ok(method) => method,
        Err(error) => return (Vec::new(), vec![format!("property {}: pushMethod: {error}", property.name)]),
    };
    let place = Place { definition, property };
    let db = method.db_method.unwrap_or_default();
    let all = [
        method.http.map(|it| ("http", http(&it))),
        method.mqtt.map(|it| ("mqtt", mqtt(&it))),
        method.otel.map(|it| ("otel", place.otlp(&it))),
        db.influxdb2.map(|it| ("dbMethod.influxdb2", influxdb2(it))),
        db.redis.map(|it| ("dbMethod.redis", redis(it))),
        db.tdengine.map(|it| ("dbMethod.TDEngine", place.tdengine(it))),
        db.mysql.map(|it| ("dbMethod.mysql", place.mysql(it))),
    ];
    let mut sinks = Vec::new();
    for (field, read) in all.into_iter().flatten() {
        let usable = read.and_then(|(key, route)| match key.missing() {
            Some(words) => Err(words.to_owned()),
            None => Ok((key, route)),
        });
        match usable {
            Ok((key, route)) => sinks.push((key, place.target(route))),
            Err(words) => problems.push(format!("property {}: pushMethod.{field}: {words}", property.name)),
        }
    }
    (sinks, problems)
}

/// The property whose `pushMethod` is read.
struct Place<'a> {
    definition: &'a Definition,
    property: &'a PropertyDefinition,
}

type Read = Result<(SinkKey, Route), String>;

impl Place<'_> {
    fn target(&self, route: Route) -> Target {
        Target {
            namespace: self.definition.key.namespace.clone(),
            device: self.definition.key.name.clone(),
            property: self.property.name.to_string(),
            data_type: self.property.data_type.name().to_owned(),
            unit: self.property.unit.to_string(),
            route,
        }
    }

    fn otlp(&self, otel: &PushOtel) -> Read {
        if matches!(self.property.data_type, DataType::String | DataType::Bytes | DataType::Stream) {
            return Err(format!("a metric is a number, and the property is a {}", self.property.data_type.name()));
        }
        let address = Address::parse(&otel.endpoint_url, [&["http"], &["https"]], [4318, 4318])?;
        Ok((SinkKey::Otlp(address), Route::Otlp))
    }

    /// `<namespace>/<device>/<property>`, as KubeEdge's mappers name it.
    fn mysql(&self, mysql: Mysql) -> Read {
        let client = mysql.mysql_client_config.unwrap_or_default();
        let address = Address::parse(&client.addr, [&["tcp", "mysql"], &["tls", "mysqls"]], [3306, 3306])?;
        let database = name("database", &client.database)?;
        let user = name("userName", &client.user_name)?;
        let key = &self.definition.key;
        let table = [&*key.namespace, &*key.name, &*self.property.name].join("/");
        identifier(&self.property.name, &['-', '.'], MAX_MYSQL_NAME)?;
        identifier(&table, &['/', '-', '.'], MAX_MYSQL_NAME)?;
        Ok((SinkKey::Mysql { address: address.without_path()?, database, user }, Route::Mysql { table }))
    }

    /// One super-table per device, with what is not a letter or a digit as an underscore.
    fn tdengine(&self, tdengine: Tdengine) -> Read {
        let client = tdengine.client_config.unwrap_or_default();
        let address = Address::parse(&client.addr, [&["http"], &["https"]], [6041, 6041])?.without_path()?;
        identifier(&client.db_name, &[], MAX_TDENGINE_NAME).map_err(|words| format!("dbName: {words}"))?;
        let key = &self.definition.key;
        name("property", &self.property.name)?;
        let table = format!("{}_{}", key.namespace, key.name).replace(['-', '.'], "_").to_ascii_lowercase();
        identifier(&table, &[], MAX_TDENGINE_NAME)?;
        Ok((SinkKey::Tdengine { address, database: client.db_name }, Route::Tdengine { table }))
    }
}

fn http(http: &PushHttp) -> Read {
    let mut address = Address::parse(&http.host_name, [&["http"], &["https"]], [80, 443])?;
    if let Some(port) = http.port.filter(|port| *port != 0) {
        address.port = u16::try_from(port).map_err(|_| format!("port {port} is not from 1 to 65535"))?;
    }
    let path = format!("{}{}", std::mem::take(&mut address.path), http.request_path);
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let usable = path.len() <= MAX_NAME && path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    if !usable {
        return Err(format!("requestPath {path:?} is not a path that begins with a slash"));
    }
    let asked = http.timeout.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0).map(Duration::from_millis);
    let timeout = asked.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    Ok((SinkKey::Http(address), Route::Http { path, timeout_ms }))
}

fn mqtt(mqtt: &PushMqtt) -> Read {
    let schemes: [&[&str]; 2] = [&["tcp", "mqtt"], &["ssl", "tls", "mqtts"]];
    let address = Address::parse(&mqtt.address, schemes, [1883, 8883])?.without_path()?;
    let topic = mqtt.topic.clone();
    if topic.is_empty() || topic.len() > MAX_NAME || topic.contains(['+', '#', '\0']) {
        return Err(format!("topic {topic:?} is empty, too long, or has a wildcard"));
    }
    let qos = mqtt.qos.unwrap_or(0);
    let qos = u8::try_from(qos).ok().filter(|qos| *qos <= 2).ok_or(format!("qos {qos} is none of 0, 1 and 2"))?;
    Ok((SinkKey::Mqtt(address), Route::Mqtt { topic, qos, retain: mqtt.retained.unwrap_or_default() }))
}

fn influxdb2(influx: Influxdb2) -> Read {
    let client = influx.influxdb2_client_config.unwrap_or_default();
    let data = influx.influxdb2_data_config.unwrap_or_default();
    let address = Address::parse(&client.url, [&["http"], &["https"]], [8086, 8086])?;
    let org = name("org", &client.org)?;
    let bucket = name("bucket", &client.bucket)?;
    let measurement = name("measurement", &data.measurement)?;
    let field = name("fieldKey", &data.field_key)?;
    if measurement.starts_with('#') {
        return Err(format!("measurement {measurement:?} would be a comment"));
    }
    for (key, value) in &data.tag {
        name("tag", key)?;
        name("tag", value)?;
    }
    let route = Route::Influxdb2 { measurement, tags: data.tag, field };
    Ok((SinkKey::Influxdb2 { address, org, bucket }, route))
}

fn redis(redis: Redis) -> Read {
    let client = redis.redis_client_config.unwrap_or_default();
    let address = Address::parse(&client.addr, [&["tcp", "redis"], &["tls", "rediss"]], [6379, 6379])?;
    let db = client.db.unwrap_or(0);
    if !(0..=65535).contains(&db) {
        return Err(format!("db {db} is not the number of a database"));
    }
    Ok((SinkKey::Redis { address: address.without_path()?, db }, Route::Redis))
}

/// A name that is escaped where it is used: anything that a line can hold.
fn name(field: &str, text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(format!("{field} is empty"));
    }
    // Nothing can be escaped with a backslash that is the last of its name.
    if text.len() > MAX_NAME || text.chars().any(char::is_control) || text.ends_with('\\') {
        return Err(format!("{field}: a name has at most {MAX_NAME} bytes and no control character"));
    }
    Ok(text.to_owned())
}

/// A name that becomes part of a statement: letters, digits, underscores, and some more.
fn identifier(text: &str, more: &[char], longest: usize) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(&c);
    if text.is_empty() || text.len() > longest || !text.chars().all(allowed) {
        let more: String = more.iter().flat_map(|c| [' ', *c]).collect();
        return Err(format!("{text:?} is not a name of at most {longest} letters, digits and _{more}"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "route_tests.rs"]
pub(crate) mod tests;
