//! `pushMethod`s as they are in Devices, and the words for those that cannot be used.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use skerry_mapper_sdk::{DataType, Definition, Value};

use super::*;
use crate::record::Record;

/// A value on its way to nowhere in particular.
pub(crate) fn record(value: Value, unix_ms: i64) -> Record {
    record_of("DOUBLE", Route::Redis, value, unix_ms)
}

/// A value of `default/boiler`, property `temperature`.
pub(crate) fn record_of(data_type: &str, route: Route, value: Value, unix_ms: i64) -> Record {
    let target = Target {
        namespace: "default".into(),
        device: "boiler".into(),
        property: "temperature".into(),
        data_type: data_type.into(),
        unit: "Cel".into(),
        route,
    };
    Record { target: Arc::new(target), value, unix_ms }
}

fn read_one(data_type: DataType, push: Json) -> (Vec<(SinkKey, Target)>, Vec<String>) {
    let mut definition = Definition::new("plant-1", "boiler", json!({})).property("temp", data_type, json!({}));
    Arc::make_mut(&mut definition.properties[0]).push_method = push.as_object().unwrap().clone().into();
    read(&definition, &definition.properties[0])
}

#[test]
fn every_push_method_of_kubeedge_is_read() {
    let push = json!({
        "http": {"hostName": "http://10.0.0.1", "port": 8080, "requestPath": "/data", "timeout": 3000},
        "mqtt": {"address": "tcp://10.0.0.2:1884", "topic": "plant/temp", "qos": 1, "retained": true},
        "otel": {"endpointURL": "http://10.0.0.3:4318/v1/metrics"},
        "dbMethod": {
            "influxdb2": {
                "influxdb2ClientConfig": {"url": "http://10.0.0.4:8086", "org": "o", "bucket": "b"},
                "influxdb2DataConfig": {"measurement": "m", "tag": {"unit": "C"}, "fieldKey": "v"},
            },
            "redis": {"redisClientConfig": {"addr": "10.0.0.5:6379", "db": 2, "poolsize": 30, "minIdleConns": 30}},
            "TDEngine": {"TDEngineClientConfig": {"addr": "10.0.0.6:6041", "dbName": "plant"}},
            "mysql": {"mysqlClientConfig": {"addr": "10.0.0.7:3306", "database": "plant", "userName": "root"}},
        },
    });
    let (sinks, problems) = read_one(DataType::Double, push);
    assert!(problems.is_empty(), "{problems:?}");
    let shown: Vec<_> = sinks.iter().map(|(key, target)| (key.to_string(), target.route.clone())).collect();
    let expected = [
        ("http://10.0.0.1:8080", Route::Http { path: "/data".into(), timeout_ms: 3000 }),
        ("mqtt://10.0.0.2:1884", Route::Mqtt { topic: "plant/temp".into(), qos: 1, retain: true }),
        ("otlp://10.0.0.3:4318/v1/metrics", Route::Otlp),
        (
            "influxdb2://10.0.0.4:8086 org o bucket b",
            Route::Influxdb2 {
                measurement: "m".into(),
                tags: [("unit".to_owned(), "C".to_owned())].into(),
                field: "v".into(),
            },
        ),
        ("redis://10.0.0.5:6379/2", Route::Redis),
        ("tdengine://10.0.0.6:6041/plant", Route::Tdengine { table: "plant_1_boiler".into() }),
        ("mysql://10.0.0.7:3306/plant as root", Route::Mysql { table: "plant-1/boiler/temp".into() }),
    ];
    assert_eq!(shown, expected.map(|(name, route)| (name.to_owned(), route)));
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_is() {
    let mysql = |user: &str, database: &str| {
        let client = json!({"addr": "db", "database": database, "userName": user});
        json!({"dbMethod": {"mysql": {"mysqlClientConfig": client}}})
    };
    let tdengine =
        |name: &str| json!({"dbMethod": {"TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": name}}}});
    let influx = |data: Json| {
        let client = json!({"url": "http://a", "org": "o", "bucket": "b"});
        json!({"dbMethod": {"influxdb2": {"influxdb2ClientConfig": client, "influxdb2DataConfig": data}}})
    };
    let table = [
        (json!({"http": {"hostName": ""}}), "pushMethod.http: "),
        (json!({"http": {"hostName": "a", "port": 70000}}), "port 70000 is not"),
        (json!({"http": {"hostName": "a", "requestPath": "x"}}), "requestPath \"x\""),
        (json!({"http": {"hostName": "a", "requestPath": "/a b"}}), "requestPath \"/a b\""),
        (json!({"http": {"hostName": "u:hidden@a"}}), "set them in the environment"),
        (json!({"mqtt": {"address": "a", "topic": "a/#"}}), "topic \"a/#\""),
        (json!({"mqtt": {"address": "a", "topic": "t", "qos": 3}}), "qos 3"),
        (json!({"mqtt": {"address": "ws://a", "topic": "t"}}), "\"ws\" is none of tcp, mqtt, ssl, tls, mqtts"),
        (mysql("u", ""), "database is empty"),
        (tdengine("a; drop database a"), "dbName: "),
        (influx(json!({"measurement": "", "fieldKey": "f"})), "measurement is empty"),
        (influx(json!({"measurement": "#m", "fieldKey": "f"})), "would be a comment"),
        (influx(json!({"measurement": "m\nx v=1", "fieldKey": "f"})), "measurement: a name has"),
        (influx(json!({"measurement": "m", "fieldKey": "f", "tag": {"a": "b\\"}})), "tag: a name has"),
        (json!({"dbMethod": {"redis": {"redisClientConfig": {"addr": "a", "db": -1}}}}), "db -1"),
        (json!({"http": {"port": "x"}}), "property temp: pushMethod: invalid type"),
    ];
    for (push, words) in table {
        let (sinks, problems) = read_one(DataType::Int, push.clone());
        assert!(sinks.is_empty(), "{push}");
        assert!(problems.len() == 1 && problems[0].contains(words), "{push}: {problems:?}");
        assert!(!problems[0].contains("hidden"), "{problems:?}");
    }
    let both = json!({"http": {"hostName": ""}, "mqtt": {"address": "a", "topic": "t"}});
    let (sinks, problems) = read_one(DataType::Int, both);
    assert_eq!((sinks.len(), problems.len()), (1, 1));
    let (_, problems) = read_one(DataType::String, json!({"otel": {"endpointURL": "http://a"}}));
    assert!(problems[0].contains("a metric is a number"), "{problems:?}");
}

#[test]
fn a_name_cannot_leave_its_statement() {
    for property in ["a`; DROP TABLE x; --", "a b", "é", "", &"x".repeat(64)] {
        let mut definition = Definition::new("n", "d", json!({})).property(property, DataType::Int, json!({}));
        let client = json!({"addr": "db", "database": "d", "userName": "u"});
        let push = json!({"dbMethod": {"mysql": {"mysqlClientConfig": client}}});
        Arc::make_mut(&mut definition.properties[0]).push_method = push.as_object().unwrap().clone().into();
        let (sinks, problems) = read(&definition, &definition.properties[0]);
        assert_eq!((sinks.len(), problems.len()), (0, 1), "{property}");
    }
}
