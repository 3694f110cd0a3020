//! The fields by their names in KubeEdge's API: what is read is written again, value for value.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use skerry_k8s_types::{
    API_VERSION, Condition, Device, DeviceModel, DeviceStatus, SYNCED, condition, merge_defaults, set_condition,
};

/// Every field that KubeEdge's v1beta1 has.
fn device() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "Device",
        "metadata": {"name": "sensor", "namespace": "plant", "uid": "u", "resourceVersion": "7", "generation": 3,
            "labels": {"description": "x"}, "managedFields": [{"manager": "kubectl"}]},
        "spec": {
            "deviceModelRef": {"name": "model"}, "nodeName": "edge-1",
            "properties": [{
                "name": "temperature", "collectCycle": 1000, "reportCycle": 2000, "reportToCloud": true,
                "desired": {"value": "20", "metadata": {"type": "int"}},
                "visitors": {"protocolName": "modbus", "configData":
                    {"register": "CoilRegister", "offset": 2, "big": 9_007_199_254_740_993_i64, "scale": 0.1,
                     "huge": 18_446_744_073_709_551_615_u64, "nested": {"a": [1, null]}}},
                "pushMethod": {
                    "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 5},
                    "mqtt": {"address": "tcp://b:1883", "topic": "t", "qos": 1, "retained": true},
                    "otel": {"endpointURL": "http://o"},
                    "dbMethod": {
                        "influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                            "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"}},
                        "redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                        "TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
                        "mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}},
                    },
                    "anomalyDetection": {"threshold": 1.5},
                },
            }],
            "methods": [{"name": "m", "description": "d", "propertyNames": ["temperature"]}],
            "protocol": {"protocolName": "modbus", "configData": {"serialPort": "/dev/ttyS0"}},
            "stateReport": {"reportToCloud": true, "reportCycle": 500},
        },
        "status": {"reportToCloud": true, "reportCycle": 60, "twins": [{"propertyName": "old"}], "state": "ok",
            "conditions": [{"type": "Synced", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "observedGeneration": 3},
    })
}

#[test]
fn a_device_is_written_as_it_was_read() {
    let read: Device = serde_json::from_value(device()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), device());
    assert_eq!((read.id().as_str(), read.model_name(), read.protocol_name()), ("plant/sensor", "model", "modbus"));
    let text = device().to_string();
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Device>(&text).unwrap()).unwrap().len(), text.len());
}

#[test]
fn models_and_statuses_are_written_as_they_were_read() {
    let model = json!({
        "apiVersion": API_VERSION, "kind": "DeviceModel", "metadata": {"name": "model"},
        "spec": {"protocol": "modbus", "protocolConfigData": {"baudRate": 9600}, "properties": [
            {"name": "t", "description": "d", "type": "INT", "accessMode": "ReadWrite", "minimum": "0",
             "maximum": "100", "unit": "C", "visitors": {"protocolName": "modbus", "configData": {"limit": 1}}},
            {"name": "saveFrame", "type": "STREAM", "accessMode": "ReadOnly"},
        ]},
    });
    let read: DeviceModel = serde_json::from_value(model.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), model);
    let status = json!({
        "apiVersion": API_VERSION, "kind": "DeviceStatus", "metadata": {"name": "sensor"}, "spec": {},
        "status": {"twins": [{"propertyName": "t", "reported": {"value": "12", "metadata": {"timestamp": "1"}},
                "observedDesired": {"value": "20"}}],
            "state": "online", "lastOnlineTime": "2026-01-01T00:00:00Z", "deviceGeneration": 4,
            "extensions": {"anything": [1, 2.5, {}]}},
    });
    let read: DeviceStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), status);
}

#[test]
fn what_go_sends_for_nothing_reads_as_nothing() {
    let read: Device = serde_json::from_value(json!({"metadata": {"name": "d", "labels": null},
        "spec": {"properties": null, "nodeName": null, "protocol": {"protocolName": "p", "configData": null}}}))
    .unwrap();
    assert!(read.spec.properties.is_empty() && read.status.is_none());
    assert_eq!(serde_json::from_value::<Device>(json!({"spec": null})).unwrap(), Device::default());
    // A twin without a value, a wrong enum and a wrong type are the mistakes that KubeEdge knows.
    for wrong in [
        json!({"spec": {"properties": [{"name": "p", "desired": {"metadata": {}}}]}}),
        json!({"spec": {"properties": [{"name": "p", "collectCycle": "often"}]}}),
    ] {
        assert!(serde_json::from_value::<Device>(wrong).is_err());
    }
    assert!(serde_json::from_value::<DeviceModel>(json!({"spec": {"properties": [{"type": "TEXT"}]}})).is_err());
}

#[test]
fn the_state_report_of_the_spec_wins_over_the_older_one() {
    let mut read: Device = serde_json::from_value(device()).unwrap();
    assert_eq!(read.state_report().report_cycle, Some(500));
    read.spec.state_report = None;
    assert_eq!(read.state_report().report_cycle, Some(60));
}

#[test]
fn defaults_of_the_model_fill_what_the_device_leaves_out() {
    let model: DeviceModel = serde_json::from_value(json!({"spec": {
    "protocolConfigData": {"ip": "10.0.0.1", "tcp": {"port": 502, "keep": true}},
    "properties": [
        {"name": "a", "visitors": {"protocolName": "modbus", "configData": {"offset": 1, "limit": 2}}},
        {"name": "only-in-the-model", "visitors": {"configData": {"x": 1}}},
    ]}}))
    .unwrap();
    let mut device: Device = serde_json::from_value(json!({"spec": {
        "protocol": {"protocolName": "modbus", "configData": {"tcp": {"port": 1502}}},
        "properties": [{"name": "a", "visitors": {"configData": {"offset": 9}}}, {"name": "b"}]}}))
    .unwrap();
    merge_defaults(&mut device, &model);
    let expected = json!({
    "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.1", "tcp": {"port": 1502}}},
    "properties": [
        {"name": "a", "visitors": {"protocolName": "modbus", "configData": {"offset": 9, "limit": 2}}},
        {"name": "b"},
    ]});
    assert_eq!(serde_json::to_value(&device.spec).unwrap(), expected);
    let once = device.clone();
    merge_defaults(&mut device, &model);
    assert_eq!(device, once);
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let new = |status: &str, reason: &str, time: &str| Condition {
        r#type: SYNCED.into(),
        status: status.into(),
        reason: reason.into(),
        last_transition_time: time.into(),
        ..Condition::default()
    };
    let mut list = Vec::new();
    assert!(set_condition(&mut list, new("False", "Waiting", "t1")));
    assert!(!set_condition(&mut list, new("False", "Waiting", "t2")));
    assert!(set_condition(&mut list, new("False", "Refused", "t3")));
    assert_eq!(condition(&list, SYNCED).unwrap().last_transition_time, "t1");
    assert!(set_condition(&mut list, new("True", "", "t4")));
    assert_eq!((list.len(), condition(&list, SYNCED).unwrap().last_transition_time.as_str()), (1, "t4"));
}
