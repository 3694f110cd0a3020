//! Between the messages of `skerry.dmi.v1` and the SDK's types.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skerry_proto::dmi::v1 as pb;

use crate::definition::{Definition, Desired, Json, MethodDefinition, PropertyDefinition, Wishes, take_deadband};
use crate::engine::Incoming;
use crate::report::{DeviceState, Report, Reports, clipped};
use crate::{DataType, DeviceKey, Quality, Sample, Value};

pub(super) fn key(key: &DeviceKey) -> pb::DeviceKey {
    pb::DeviceKey { namespace: key.namespace.clone(), name: key.name.clone() }
}

pub(super) fn own_key(key: pb::DeviceKey) -> DeviceKey {
    DeviceKey { namespace: key.namespace, name: key.name }
}

/// A device; one without a name is nobody's.
pub(super) fn device(device: pb::Device) -> Option<Incoming> {
    let key = own_key(device.key?);
    let mut problem = None;
    let mut trouble = |words: String| {
        problem.get_or_insert(words);
    };
    let protocol_config = json(&device.protocol_config).unwrap_or_else(|error| {
        trouble(format!("protocol.configData: {error}"));
        Json::new()
    });
    let mut desired = Wishes::new();
    let mut properties = Vec::with_capacity(device.properties.len());
    for (index, mut property) in device.properties.into_iter().enumerate() {
        let wanted = property.desired.take().map(|d| (index, Desired { value: d.value, version: d.version }));
        desired.extend(wanted);
        let name = property.name.clone();
        let property = self::property(property, &mut |words| trouble(format!("property {name}: {words}")));
        properties.push(Arc::new(property));
    }
    let methods = device.methods.into_iter().map(|method| MethodDefinition {
        name: method.name,
        description: method.description,
        properties: method.properties,
    });
    let definition = Definition {
        key,
        model: device.model.map(|model| model.name).unwrap_or_default(),
        protocol_config: protocol_config.into(),
        properties,
        methods: methods.collect(),
        state_cycle: milliseconds(device.state_report_cycle_ms),
    };
    Some(Incoming { version: device.version, definition, desired, problem })
}

fn property(property: pb::Property, trouble: &mut dyn FnMut(String)) -> PropertyDefinition {
    let mut visitor_config = json(&property.visitor_config).unwrap_or_else(|error| {
        trouble(format!("visitors.configData: {error}"));
        Json::new()
    });
    let deadband = take_deadband(&mut visitor_config).unwrap_or_else(|error| {
        trouble(error);
        0.0
    });
    let push_method = json(&property.push_method).unwrap_or_else(|error| {
        trouble(format!("pushMethod: {error}"));
        Json::new()
    });
    let model = property.model.unwrap_or_default();
    let data_type = DataType::named(&model.r#type).unwrap_or_else(|| {
        trouble(match model.r#type.as_str() {
            "" => "the model has no such property".to_owned(),
            other => format!("the model has an unknown type {other:?}"),
        });
        DataType::String
    });
    PropertyDefinition {
        name: property.name.into(),
        description: model.description.into(),
        data_type,
        writable: model.writable,
        minimum: model.minimum.into(),
        maximum: model.maximum.into(),
        unit: model.unit.into(),
        visitor_config: visitor_config.into(),
        deadband,
        collect_cycle: milliseconds(property.collect_cycle_ms),
        report_cycle: milliseconds(property.report_cycle_ms),
        report_to_cloud: property.report_to_cloud,
        push_method: push_method.into(),
    }
}

fn state((device, state, reason): &(DeviceKey, DeviceState, String)) -> pb::StateReport {
    let state = match state {
        DeviceState::Online => pb::DeviceState::Online,
        DeviceState::Offline => pb::DeviceState::Offline,
        DeviceState::Unhealthy => pb::DeviceState::Unhealthy,
    };
    pb::StateReport { device: Some(key(device)), state: state.into(), reason: clipped(reason).to_owned() }
}

fn values((definition, reports): &(Arc<Definition>, Reports), longest: usize) -> pb::DeviceValues {
    let values = reports.iter().filter_map(|(index, report)| Some((&definition.properties.get(*index)?.name, report)));
    let values = values.map(|(name, report)| value_within(name, report, longest));
    pb::DeviceValues { device: Some(key(&definition.key)), values: values.collect() }
}

/// A value. One that is longer than the node takes is none, and says why: it would be refused each time, and the last
/// one seem to be it.
fn value_within(property: &str, report: &Report, longest: usize) -> pb::Value {
    let length = report.value.as_ref().map_or(0, Value::text_len);
    if length <= longest {
        return value(property, report);
    }
    let problem = format!("the value has {length} bytes, and the node takes at most {longest}").into();
    value(property, &Report { value: None, quality: Quality::Bad, problem, ..report.clone() })
}

/// A batch of values, as a message.
pub(super) fn reports(sequence: u64, values: &[(Arc<Definition>, Reports)], longest: usize) -> pb::Reports {
    pb::Reports { sequence, devices: values.iter().map(|device| self::values(device, longest)).collect() }
}

/// A batch of states, as a message.
pub(super) fn states(states: &[(DeviceKey, DeviceState, String)]) -> pb::StateReports {
    pb::StateReports { states: states.iter().map(state).collect() }
}

/// Answers to a question; they are not reports, so they have no outcome.
pub(super) fn samples(definition: &Definition, samples: Vec<(usize, Sample)>, longest: usize) -> Vec<pb::Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let values = samples.into_iter().filter_map(|(index, sample)| {
        let property = definition.properties.get(index)?;
        Some(value_within(&property.name, &Report::of(sample, property.data_type, now), longest))
    });
    values.collect()
}

fn value(property: &str, report: &Report) -> pb::Value {
    let (desired_version, refused) = match report.outcome.as_deref() {
        Some(outcome) => (outcome.version.clone(), outcome.refused.as_deref()),
        None => (String::new(), None),
    };
    let quality = match report.quality {
        Quality::Good => pb::Quality::Good,
        Quality::Uncertain => pb::Quality::Uncertain,
        Quality::Bad => pb::Quality::Bad,
    };
    pb::Value {
        property: property.to_owned(),
        value: report.value.as_ref().map(|value| match value {
            Value::Int(value) => pb::value::Value::Integer(*value),
            Value::Uint(value) => pb::value::Value::Unsigned(*value),
            Value::Float(value) => pb::value::Value::Number(*value),
            Value::Bool(value) => pb::value::Value::Boolean(*value),
            Value::Text(value) => pb::value::Value::Text(value.clone()),
            Value::Bytes(value) => pb::value::Value::Data(value.clone()),
        }),
        quality: quality.into(),
        source_unix_ms: report.source_unix_ms,
        desired_refused: refused.is_some(),
        problem: report.words().to_owned(),
        desired_version,
    }
}

fn json(bytes: &[u8]) -> Result<Json, serde_json::Error> {
    if bytes.is_empty() { Ok(Json::new()) } else { serde_json::from_slice(bytes) }
}

fn milliseconds(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(visitor: &str, r#type: &str) -> Incoming {
        let model = pb::ModelProperty { r#type: r#type.into(), writable: true, ..Default::default() };
        let property = pb::Property {
            name: "t".into(),
            model: Some(model),
            visitor_config: visitor.as_bytes().to_vec(),
            collect_cycle_ms: -5,
            report_cycle_ms: 2000,
            ..Default::default()
        };
        let key = pb::DeviceKey { namespace: "n".into(), name: "d".into() };
        device(pb::Device { key: Some(key), properties: vec![property], ..Default::default() }).unwrap()
    }

    #[test]
    fn a_device_is_read_and_its_mistakes_are_named() {
        let good = sent(r#"{"register": 18446744073709551615, "deadband": "0.5"}"#, "INT");
        assert_eq!(good.problem, None);
        let property = &good.definition.properties[0];
        assert_eq!((property.deadband, property.collect_cycle), (0.5, Duration::ZERO));
        assert_eq!(property.visitor_config.object().get("register").and_then(|v| v.as_u64()), Some(u64::MAX));
        assert!(!property.visitor_config.object().contains_key("deadband"));
        let table = [
            ("[1]", "INT", "property t: visitors.configData: invalid type"),
            ("{", "INT", "property t: visitors.configData: EOF"),
            (r#"{"deadband": -1}"#, "INT", "property t: visitors.configData: deadband must be"),
            ("{}", "COMPLEX", "property t: the model has an unknown type \"COMPLEX\""),
            ("{}", "", "property t: the model has no such property"),
        ];
        for (visitor, kind, words) in table {
            let problem = sent(visitor, kind).problem.unwrap_or_default();
            assert!(problem.starts_with(words), "{visitor} {kind}: {problem}");
        }
        // Nesting without an end is an error, not a crash.
        assert!(sent(&format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)), "INT").problem.is_some());
        assert!(device(pb::Device::default()).is_none());
    }

    #[test]
    fn a_value_longer_than_the_node_takes_has_none_and_says_why() {
        let definition = Definition::new("n", "d", serde_json::Value::Null);
        let definition = Arc::new(definition.property("t", DataType::String, serde_json::Value::Null));
        let report = |length| Arc::new(Report::of(Sample::good("x".repeat(length)), DataType::String, 5));
        let said = |length| values(&(Arc::clone(&definition), vec![(0, report(length))]), 4096).values.remove(0);
        assert_eq!(said(4096).quality(), pb::Quality::Good);
        let long = said(4097);
        assert_eq!((long.value, long.quality), (None, pb::Quality::Bad.into()));
        assert_eq!(long.problem, "the value has 4097 bytes, and the node takes at most 4096");
    }
}
