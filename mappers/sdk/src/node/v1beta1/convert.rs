//! Between KubeEdge's messages and the SDK's types.
//!
//! There are no versions: a device's is made of its message, a desired value's of the value. Configuration comes
//! as wrapped values; whole numbers that KubeEdge sends as floats become whole numbers again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as JsonValue;
use skerry_proto::dmi::v1beta1 as pb;

use crate::definition::{Definition, Desired, Json, MethodDefinition, PropertyDefinition, Wishes, take_deadband};
use crate::engine::Incoming;
use crate::report::Report;
use crate::{DataType, DeviceKey, Sample};

/// Wrapped values that KubeEdge sends.
const WRAPPERS: &str = "google.protobuf.";
/// The largest whole number that 32-bit floats tell apart from its neighbours.
const EXACT_FLOAT: f32 = 16_777_216.0;

pub(super) fn key(namespace: &str, name: &str) -> DeviceKey {
    // Before 1.15 nothing had a namespace.
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    DeviceKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

pub(super) fn model_key(device: &pb::Device) -> DeviceKey {
    let model = device.spec.as_ref().map(|spec| spec.device_model_reference.as_str());
    key(&device.namespace, model.unwrap_or_default())
}

/// A device with the model that it names, if that is there.
pub(super) fn device(device: &pb::Device, model: Option<&pb::DeviceModel>) -> Incoming {
    let spec = device.spec.clone().unwrap_or_default();
    let mut problem = None;
    let mut trouble = |words: String| {
        problem.get_or_insert(words);
    };
    if model.is_none() {
        trouble(format!("the model {} is not here", model_key(device)));
    }
    let protocol = spec.protocol.unwrap_or_default();
    let protocol_config = config(protocol.config_data).unwrap_or_else(|error| {
        trouble(format!("protocol.configData: {error}"));
        Json::new()
    });
    let known = model.and_then(|model| model.spec.as_ref()).map(|spec| spec.properties.as_slice()).unwrap_or_default();
    let mut desired = Wishes::new();
    let mut properties = Vec::with_capacity(spec.properties.len());
    for (index, property) in spec.properties.into_iter().enumerate() {
        let wanted = property.desired.clone().filter(|desired| !desired.value.is_empty());
        let wanted = wanted.map(|d| Desired { version: format!("v1beta1:{}", d.value), value: d.value });
        desired.extend(wanted.map(|wanted| (index, wanted)));
        let name = property.name.clone();
        let of_model = known.iter().find(|known| known.name == name);
        let mut named = |words| trouble(format!("property {name}: {words}"));
        properties.push(Arc::new(self::property(property, of_model, &mut named)));
    }
    let methods = spec.methods.into_iter().map(|method| MethodDefinition {
        name: method.name,
        description: method.description,
        properties: method.property_names,
    });
    let definition = Definition {
        key: key(&device.namespace, &device.name),
        model: spec.device_model_reference,
        protocol_config: protocol_config.into(),
        properties,
        methods: methods.collect(),
        state_cycle: milliseconds(device.status.as_ref().map_or(0, |status| status.report_cycle)),
    };
    let mut hasher = DefaultHasher::new();
    format!("{definition:?} {desired:?} {problem:?}").hash(&mut hasher);
    Incoming { version: format!("{:016x}", hasher.finish()), definition, desired, problem }
}

fn property(
    property: pb::DeviceProperty,
    model: Option<&pb::ModelProperty>,
    trouble: &mut dyn FnMut(String),
) -> PropertyDefinition {
    let visitors = property.visitors.unwrap_or_default();
    let mut visitor_config = config(visitors.config_data).unwrap_or_else(|error| {
        trouble(format!("visitors.configData: {error}"));
        Json::new()
    });
    let deadband = take_deadband(&mut visitor_config).unwrap_or_else(|error| {
        trouble(error);
        0.0
    });
    if model.is_none() {
        trouble("the model has no such property".to_owned());
    }
    let model = model.cloned().unwrap_or_default();
    let data_type = DataType::named(&model.r#type).unwrap_or(DataType::String);
    PropertyDefinition {
        name: property.name.into(),
        description: model.description.into(),
        data_type,
        writable: model.access_mode.eq_ignore_ascii_case("ReadWrite"),
        minimum: model.minimum.into(),
        maximum: model.maximum.into(),
        unit: model.unit.into(),
        visitor_config: visitor_config.into(),
        deadband,
        collect_cycle: milliseconds(property.collect_cycle),
        report_cycle: milliseconds(property.report_cycle),
        report_to_cloud: property.report_to_cloud,
        push_method: property.push_method.map(push_method).unwrap_or_default().into(),
    }
}

/// As it is in a Device.
fn push_method(method: pb::PushMethod) -> Json {
    let mut json = Json::new();
    if let Some(http) = method.http {
        json.insert(
            "http".to_owned(),
            serde_json::json!({
                "hostName": http.hostname, "port": http.port, "requestPath": http.requestpath, "timeout": http.timeout,
            }),
        );
    }
    if let Some(mqtt) = method.mqtt {
        json.insert(
            "mqtt".to_owned(),
            serde_json::json!({
                "address": mqtt.address, "topic": mqtt.topic, "qos": mqtt.qos, "retained": mqtt.retained,
            }),
        );
    }
    if let Some(otel) = method.otel {
        json.insert("otel".to_owned(), serde_json::json!({ "endpointURL": otel.endpoint_url }));
    }
    if let Some(db) = method.db_method {
        json.insert("dbMethod".to_owned(), JsonValue::Object(db_method(db)));
    }
    json
}

fn db_method(method: pb::DbMethod) -> Json {
    let mut json = Json::new();
    if let Some(influx) = method.influxdb2 {
        let client = influx.influxdb2_client_config.unwrap_or_default();
        let data = influx.influxdb2_data_config.unwrap_or_default();
        json.insert(
            "influxdb2".to_owned(),
            serde_json::json!({
                "influxdb2ClientConfig": { "url": client.url, "org": client.org, "bucket": client.bucket },
                "influxdb2DataConfig": { "measurement": data.measurement, "tag": data.tag, "fieldKey": data.field_key },
            }),
        );
    }
    if let Some(redis) = method.redis.and_then(|redis| redis.redis_client_config) {
        let config = serde_json::json!({
            "addr": redis.addr, "db": redis.db, "poolsize": redis.poolsize, "minIdleConns": redis.min_idle_conns,
        });
        json.insert("redis".to_owned(), serde_json::json!({ "redisClientConfig": config }));
    }
    if let Some(tdengine) = method.tdengine.and_then(|tdengine| tdengine.td_engine_client_config) {
        let config = serde_json::json!({ "addr": tdengine.addr, "dbName": tdengine.dbname });
        json.insert("TDEngine".to_owned(), serde_json::json!({ "TDEngineClientConfig": config }));
    }
    if let Some(mysql) = method.mysql.and_then(|mysql| mysql.mysql_client_config) {
        let config = serde_json::json!({
            "addr": mysql.addr, "database": mysql.database, "userName": mysql.user_name,
        });
        json.insert("mysql".to_owned(), serde_json::json!({ "mysqlClientConfig": config }));
    }
    json
}

fn config(config: Option<pb::CustomizedValue>) -> Result<Json, String> {
    let mut json = Json::new();
    for (name, any) in config.unwrap_or_default().data {
        let value = unwrap(&any).map_err(|error| format!("{name}: {error}"))?;
        json.insert(name, value);
    }
    Ok(json)
}

/// A wrapped value, by the name of its wrapper.
fn unwrap(any: &prost_types::Any) -> Result<JsonValue, String> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let kind = name.strip_prefix(WRAPPERS).unwrap_or(name);
    let wrong = |_| format!("not a {kind}");
    let bytes = any.value.as_slice();
    Ok(match kind {
        "StringValue" => JsonValue::from(<String as prost::Message>::decode(bytes).map_err(wrong)?),
        "BoolValue" => JsonValue::from(<bool as prost::Message>::decode(bytes).map_err(wrong)?),
        "Int32Value" => JsonValue::from(<i32 as prost::Message>::decode(bytes).map_err(wrong)?),
        "Int64Value" => JsonValue::from(<i64 as prost::Message>::decode(bytes).map_err(wrong)?),
        "UInt32Value" => JsonValue::from(<u32 as prost::Message>::decode(bytes).map_err(wrong)?),
        "UInt64Value" => JsonValue::from(<u64 as prost::Message>::decode(bytes).map_err(wrong)?),
        "FloatValue" => {
            let number = <f32 as prost::Message>::decode(bytes).map_err(wrong)?;
            if number.fract() == 0.0 && number.abs() <= EXACT_FLOAT {
                #[allow(clippy::cast_possible_truncation)]
                JsonValue::from(number as i64)
            } else {
                // The shortest number that is this one, not its 64-bit expansion.
                number.to_string().parse::<f64>().map_or(JsonValue::Null, JsonValue::from)
            }
        }
        "DoubleValue" => JsonValue::from(<f64 as prost::Message>::decode(bytes).map_err(wrong)?),
        other => return Err(format!("values of the type {other:?} are not known")),
    })
}

/// The values of a device, as the node takes them; nothing when there is nothing to tell.
pub(in crate::node) fn report(
    definition: &Arc<Definition>,
    values: &[(usize, Arc<Report>)],
) -> Option<pb::ReportDeviceStatusRequest> {
    let twins: Vec<_> = values
        .iter()
        .filter_map(|(index, report)| {
            let property = definition.properties.get(*index).filter(|property| property.report_to_cloud)?;
            // There is no quality: what is not good is not told, and the device's state says why.
            (report.quality == crate::Quality::Good).then(|| twin(property, report))?
        })
        .collect();
    (!twins.is_empty()).then(|| pb::ReportDeviceStatusRequest {
        device_name: definition.key.name.clone(),
        device_namespace: definition.key.namespace.clone(),
        reported_device: Some(pb::DeviceStatus { twins, ..Default::default() }),
    })
}

fn twin(property: &PropertyDefinition, report: &Report) -> Option<pb::Twin> {
    let metadata: HashMap<String, String> = HashMap::from([
        ("timestamp".to_owned(), report.source_unix_ms.to_string()),
        ("type".to_owned(), property.data_type.name().to_ascii_lowercase()),
    ]);
    let reported = pb::TwinProperty { value: report.value.as_ref()?.to_text(), metadata: metadata.clone() };
    // Always there: KubeEdge's node fails without it.
    let wanted = report.outcome.as_ref().and_then(|outcome| outcome.version.strip_prefix("v1beta1:"));
    let observed = pb::TwinProperty { value: wanted.unwrap_or_default().to_owned(), metadata };
    Some(pb::Twin {
        property_name: property.name.to_string(),
        observed_desired: Some(observed),
        reported: Some(reported),
    })
}

/// A device with what was read of it now.
pub(super) fn show(device: &mut pb::Device, definition: &Arc<Definition>, samples: Vec<(usize, Sample)>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let mut reports = vec![None; definition.properties.len()];
    for (index, sample) in samples {
        if let (Some(slot), Some(property)) = (reports.get_mut(index), definition.properties.get(index)) {
            *slot = Some(Arc::new(Report::of(sample, property.data_type, now)));
        }
    }
    show_last(device, definition, &reports);
}

/// A device with what was read of it last.
pub(super) fn show_last(device: &mut pb::Device, definition: &Arc<Definition>, reports: &[Option<Arc<Report>>]) {
    let twins = definition.properties.iter().zip(reports);
    let twins = twins.filter_map(|(property, report)| twin(property, report.as_ref()?)).collect();
    let status = device.status.get_or_insert_default();
    status.twins = twins;
}

fn milliseconds(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(kind: &str, value: impl prost::Message) -> prost_types::Any {
        prost_types::Any {
            type_url: format!("type.googleapis.com/google.protobuf.{kind}"),
            value: value.encode_to_vec(),
        }
    }

    #[test]
    fn wrapped_values_become_what_was_written() {
        let table = [
            (any("StringValue", "a".to_owned()), serde_json::json!("a")),
            (any("FloatValue", 502.0_f32), serde_json::json!(502)),
            (any("FloatValue", 0.1_f32), serde_json::json!(0.1)),
            (any("BoolValue", true), serde_json::json!(true)),
            (any("Int64Value", 9_007_199_254_740_993_i64), serde_json::json!(9_007_199_254_740_993_i64)),
            (any("Int32Value", -1_i32), serde_json::json!(-1)),
        ];
        for (any, json) in table {
            assert_eq!(unwrap(&any), Ok(json));
        }
        assert!(unwrap(&any("Struct", String::new())).is_err());
        let broken = prost_types::Any { type_url: "x/google.protobuf.StringValue".into(), value: vec![0xff] };
        assert!(unwrap(&broken).is_err());
    }

    #[test]
    fn a_device_without_its_model_says_so_and_changes_when_it_comes() {
        let spec = pb::DeviceSpec {
            device_model_reference: "m".into(),
            properties: vec![pb::DeviceProperty { name: "t".into(), ..Default::default() }],
            ..Default::default()
        };
        let sent = pb::Device { name: "d".into(), namespace: "n".into(), spec: Some(spec), ..Default::default() };
        let without = device(&sent, None);
        assert_eq!(without.problem.as_deref(), Some("the model n/m is not here"));
        let property = pb::ModelProperty { name: "t".into(), r#type: "INT".into(), ..Default::default() };
        let model = pb::DeviceModel {
            name: "m".into(),
            namespace: "n".into(),
            spec: Some(pb::DeviceModelSpec { properties: vec![property], commands: Vec::new() }),
        };
        let with = device(&sent, Some(&model));
        assert_eq!((with.problem.as_deref(), with.definition.properties[0].data_type), (None, DataType::Int));
        assert_ne!(with.version, without.version);
        assert_eq!(device(&sent, Some(&model)).version, with.version);
    }
}
