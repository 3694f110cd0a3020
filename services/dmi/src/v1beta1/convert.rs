//! Devices and models as v1beta1 has them.
//!
//! Field for field what KubeEdge sends: numbers of a `configData` become FloatValue, text StringValue, yes and
//! no BoolValue. A list or an object has no form there and is refused by name, so that the user reads it.

use std::collections::HashMap;

use prost_types::Any;
use serde_json::Value;
use skerry_common::{Key, fnv1a};
use skerry_k8s_types as api;
use skerry_proto::dmi::v1beta1 as pb;

use crate::fleet::Device;

/// What goes before the name of a type.
const TYPE_URL: &str = "type.googleapis.com/";

/// Version of what a mapper of v1beta1 is told of a device: it changes when UpdateDevice is due.
pub(super) fn version(device: &Device) -> String {
    let mut parts = vec![device.spec.bare_version.as_str()];
    for (name, twin) in &device.twins {
        if let Some(desired) = twin.state.desired() {
            parts.extend([&**name, desired]);
        }
    }
    format!("{:016x}", fnv1a(&parts))
}

/// Version of what a mapper is told of a model.
pub(super) fn model_version(model: &api::DeviceModel) -> String {
    format!("{:016x}", fnv1a(&[&serde_json::to_string(&model.spec).unwrap_or_default()]))
}

/// The device with the model's defaults and what is wanted now.
///
/// # Errors
/// Which field a mapper of v1beta1 cannot be sent.
pub(super) fn device(device: &Device) -> Result<pb::Device, String> {
    let merged = device.spec.merged();
    let state = merged.state_report();
    let mut properties = Vec::with_capacity(merged.spec.properties.len());
    for property in &merged.spec.properties {
        let wanted = device.twins.get(property.name.as_str()).and_then(|twin| twin.state.desired());
        let metadata = property.desired.as_ref().map(|desired| &desired.metadata);
        let desired = wanted.map(|value| pb::TwinProperty {
            value: value.to_owned(),
            metadata: metadata.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        });
        let visitors = match &property.visitors {
            Some(visitors) => Some(pb::VisitorConfig {
                protocol_name: visitors.protocol_name.clone(),
                config_data: config(visitors.config_data.as_ref(), &format!("the visitors of {:?}", property.name))?,
            }),
            None => None,
        };
        properties.push(pb::DeviceProperty {
            name: property.name.clone(),
            desired,
            visitors,
            report_cycle: property.report_cycle.unwrap_or_default(),
            collect_cycle: property.collect_cycle.unwrap_or_default(),
            report_to_cloud: property.report_to_cloud.unwrap_or_default(),
            push_method: property.push_method.as_ref().map(|push| push_method(push, &property.name)).transpose()?,
        });
    }
    let protocol = match &merged.spec.protocol {
        Some(protocol) => Some(pb::ProtocolConfig {
            protocol_name: protocol.protocol_name.clone(),
            config_data: config(protocol.config_data.as_ref(), "spec.protocol.configData")?,
        }),
        None => None,
    };
    let methods = merged.spec.methods.iter().map(|method| pb::DeviceMethod {
        name: method.name.clone(),
        description: method.description.clone(),
        property_names: method.property_names.clone(),
    });
    let key = device.key();
    Ok(pb::Device {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        spec: Some(pb::DeviceSpec {
            device_model_reference: merged.model_name().to_owned(),
            protocol,
            properties,
            methods: methods.collect(),
        }),
        status: Some(pb::DeviceStatus {
            twins: Vec::new(),
            report_to_cloud: state.report_to_cloud.unwrap_or_default(),
            report_cycle: state.report_cycle.unwrap_or_default(),
        }),
    })
}

/// The model.
pub(super) fn model(key: &Key, model: &api::DeviceModel) -> pb::DeviceModel {
    let property = |property: &api::ModelProperty| pb::ModelProperty {
        name: property.name.clone(),
        description: property.description.clone(),
        r#type: property.r#type.map_or_else(String::new, |kind| kind.as_str().to_owned()),
        access_mode: property.access_mode.map_or_else(String::new, |mode| mode.as_str().to_owned()),
        minimum: property.minimum.clone(),
        maximum: property.maximum.clone(),
        unit: property.unit.clone(),
    };
    pb::DeviceModel {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        spec: Some(pb::DeviceModelSpec {
            properties: model.spec.properties.iter().map(property).collect(),
            commands: Vec::new(),
        }),
    }
}

fn config(data: Option<&api::Free>, of: &str) -> Result<Option<pb::CustomizedValue>, String> {
    data.map(|data| anys(data, of).map(|data| pb::CustomizedValue { data })).transpose()
}

fn anys(data: &api::Free, of: &str) -> Result<HashMap<String, Any>, String> {
    let mut all = HashMap::with_capacity(data.len());
    for (key, value) in data {
        let any = match value {
            Value::String(text) => pack::<String>("StringValue", text.clone()),
            #[expect(clippy::cast_possible_truncation, reason = "what KubeEdge sends, and mappers read")]
            Value::Number(number) => pack::<f32>("FloatValue", number.as_f64().unwrap_or_default() as f32),
            Value::Bool(yes) => pack::<bool>("BoolValue", *yes),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                let what = if value.is_array() { "a list" } else { "an object" };
                return Err(format!(
                    "{key:?} in {of} is {what}; mappers of DMI v1beta1 can be sent text, numbers, true and false"
                ));
            }
        };
        all.insert(key.clone(), any);
    }
    Ok(all)
}

/// A wrapper of `google.protobuf`.
fn pack<T: prost::Message>(name: &str, value: T) -> Any {
    Any { type_url: format!("{TYPE_URL}google.protobuf.{name}"), value: value.encode_to_vec() }
}

fn push_method(push: &api::PushMethod, property: &str) -> Result<pb::PushMethod, String> {
    let anomalies = push.anomaly_detection.as_ref();
    let anomalies = anomalies.map(|data| anys(data, &format!("the anomalyDetection of {property:?}")));
    Ok(pb::PushMethod {
        http: push.http.as_ref().map(|http| pb::PushMethodHttp {
            hostname: http.host_name.clone(),
            port: http.port.unwrap_or_default(),
            requestpath: http.request_path.clone(),
            timeout: http.timeout.unwrap_or_default(),
        }),
        mqtt: push.mqtt.as_ref().map(|mqtt| pb::PushMethodMqtt {
            address: mqtt.address.clone(),
            topic: mqtt.topic.clone(),
            qos: mqtt.qos.unwrap_or_default(),
            retained: mqtt.retained.unwrap_or_default(),
        }),
        db_method: push.db_method.as_ref().map(database),
        otel: push.otel.as_ref().map(|otel| pb::PushMethodOtel { endpoint_url: otel.endpoint_url.clone() }),
        anomaly_detection: anomalies.transpose()?.map(|data| pb::AnomalyDetection { data }),
    })
}

fn database(db: &api::DbMethod) -> pb::DbMethod {
    let small = |number: Option<i64>| number.and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
    pb::DbMethod {
        influxdb2: db.influxdb2.as_ref().map(|influx| pb::DbMethodInfluxdb2 {
            influxdb2_client_config: influx.influxdb2_client_config.as_ref().map(|c| pb::Influxdb2ClientConfig {
                url: c.url.clone(),
                org: c.org.clone(),
                bucket: c.bucket.clone(),
            }),
            influxdb2_data_config: influx.influxdb2_data_config.as_ref().map(|c| pb::Influxdb2DataConfig {
                measurement: c.measurement.clone(),
                tag: c.tag.clone().into_iter().collect(),
                field_key: c.field_key.clone(),
            }),
        }),
        redis: db.redis.as_ref().map(|redis| pb::DbMethodRedis {
            redis_client_config: redis.redis_client_config.as_ref().map(|c| pb::RedisClientConfig {
                addr: c.addr.clone(),
                db: small(c.db),
                poolsize: small(c.poolsize),
                min_idle_conns: small(c.min_idle_conns),
            }),
        }),
        tdengine: db.tdengine.as_ref().map(|td| pb::DbMethodTdEngine {
            td_engine_client_config: td
                .client_config
                .as_ref()
                .map(|c| pb::TdEngineClientConfig { addr: c.addr.clone(), dbname: c.db_name.clone() }),
        }),
        mysql: db.mysql.as_ref().map(|mysql| pb::DbMethodMySql {
            mysql_client_config: mysql.mysql_client_config.as_ref().map(|c| pb::MySqlClientConfig {
                addr: c.addr.clone(),
                database: c.database.clone(),
                user_name: c.user_name.clone(),
            }),
        }),
    }
}
