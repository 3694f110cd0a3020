//! `k8s/crds` is what the generator makes; `SKERRY_REGENERATE=1` writes it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::Value;
use std::path::Path;

const HEAD: &str = "# Generated from k8s/types by k8s/crdgen: SKERRY_REGENERATE=1 cargo test -p skerry-crdgen\n";

fn all() -> [(&'static str, Value); 3] {
    [
        ("devices.yaml", skerry_crdgen::device()),
        ("devicemodels.yaml", skerry_crdgen::device_model()),
        ("devicestatuses.yaml", skerry_crdgen::device_status()),
    ]
}

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for (name, definition) in all() {
        let text = format!("{HEAD}{}", serde_saphyr::to_string(&definition).unwrap());
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, definition, "{name} does not survive YAML");
        if std::env::var_os("SKERRY_REGENERATE").is_some() {
            std::fs::write(dir.join(name), &text).unwrap();
        }
        let committed = std::fs::read_to_string(dir.join(name)).unwrap();
        assert!(committed == text, "k8s/crds/{name} is old: SKERRY_REGENERATE=1 cargo test -p skerry-crdgen");
    }
}

#[test]
fn every_field_is_described_and_has_a_type() {
    fn walk(schema: &Value, path: &str) {
        let Value::Object(map) = schema else { panic!("{path} is not a schema") };
        assert!(map.get("type").is_some_and(Value::is_string), "{path} has no type: {schema}");
        let described = path.ends_with("metadata") || path.ends_with("[]") || path.ends_with("{}");
        assert!(described || map.contains_key("description"), "{path} is not described");
        for word in ["$ref", "anyOf", "oneOf", "allOf", "not", "nullable", "title", "$schema", "definitions"] {
            assert!(!map.contains_key(word), "{path} has {word}");
        }
        for (name, field) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(field, &format!("{path}.{name}"));
        }
        if let Some(items) = map.get("items") {
            walk(items, &format!("{path}[]"));
        }
        if let Some(values) = map.get("additionalProperties") {
            walk(values, &format!("{path}{{}}"));
        }
    }
    for (name, definition) in all() {
        for version in definition.pointer("/spec/versions").unwrap().as_array().unwrap() {
            walk(version.pointer("/schema/openAPIV3Schema").unwrap(), name);
        }
    }
}

#[test]
fn the_fields_are_those_of_kubeedge_by_their_literal_names() {
    let device = skerry_crdgen::device();
    let field = |path: &str| {
        let steps = path.replace("[]", "/items").replace('.', "/properties/");
        let pointer = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{steps}");
        device.pointer(&pointer).unwrap_or_else(|| panic!("no {path}")).clone()
    };
    let database = "spec.properties[].pushMethod.dbMethod";
    for (path, kind) in [
        ("spec.deviceModelRef.name", "string"),
        ("spec.nodeName", "string"),
        ("spec.properties[].collectCycle", "integer"),
        ("spec.properties[].reportToCloud", "boolean"),
        ("spec.properties[].desired.metadata", "object"),
        ("spec.properties[].visitors.configData", "object"),
        ("spec.properties[].pushMethod.http.hostName", "string"),
        ("spec.properties[].pushMethod.http.requestPath", "string"),
        ("spec.properties[].pushMethod.mqtt.qos", "integer"),
        ("spec.properties[].pushMethod.otel.endpointURL", "string"),
        ("spec.properties[].pushMethod.anomalyDetection", "object"),
        ("spec.methods[].propertyNames", "array"),
        ("spec.protocol.configData", "object"),
        ("spec.stateReport.reportCycle", "integer"),
        ("status.reportToCloud", "boolean"),
        (&format!("{database}.influxdb2.influxdb2ClientConfig.bucket"), "string"),
        (&format!("{database}.influxdb2.influxdb2DataConfig.fieldKey"), "string"),
        (&format!("{database}.redis.redisClientConfig.minIdleConns"), "integer"),
        (&format!("{database}.TDEngine.TDEngineClientConfig.dbName"), "string"),
        (&format!("{database}.mysql.mysqlClientConfig.userName"), "string"),
    ] {
        assert_eq!(field(path).get("type").unwrap(), kind, "{path}");
    }
    let free = field("spec.protocol.configData");
    assert_eq!(free.get("x-kubernetes-preserve-unknown-fields"), Some(&Value::Bool(true)));
    assert_eq!(field("spec.properties[].desired").get("required").unwrap(), &serde_json::json!(["value"]));
}
