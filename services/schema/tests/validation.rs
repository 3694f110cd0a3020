//! What people read when an object does not match its schema, and what is dropped and filled in.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use skerry_schema::Schema;

fn compile(schema: &Value) -> Schema {
    Schema::compile(schema, "schema").unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn texts(errors: &[skerry_apimachinery::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The errors of `spec`, whose schema is given.
fn errors(spec: &Value, value: &Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    texts(&compile(&schema).validate(&json!({"spec": value}), None))
}

#[test]
fn every_kind_of_mistake_is_told_as_kubernetes_tells_it() {
    let int = json!({"type": "integer", "minimum": 0, "maximum": 10});
    let text = json!({"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 3});
    for (schema, value, expected) in [
        (&int, json!("x"), "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\""),
        (&int, json!(1.5), "spec: Invalid value: \"number\": spec in body must be of type integer: \"number\""),
        (&int, json!(null), "spec: Invalid value: \"null\": spec in body must be of type integer: \"null\""),
        (&int, json!(-1), "spec: Invalid value: -1: spec in body should be greater than or equal to 0"),
        (&int, json!(11), "spec: Invalid value: 11: spec in body should be less than or equal to 10"),
        (&text, json!("bb"), "spec: Invalid value: \"bb\": spec in body should match '^a+$'"),
        (&text, json!("a"), "spec: Invalid value: \"a\": spec in body should be at least 2 chars long"),
        (&text, json!("aaaa"), "spec: Invalid value: \"aaaa\": spec in body should be at most 3 chars long"),
        (
            &json!({"type": "string", "enum": ["INT", "FLOAT"]}),
            json!("TEXT"),
            "spec: Unsupported value: \"TEXT\": supported values: \"INT\", \"FLOAT\"",
        ),
        (&json!({"type": "object", "required": ["name"]}), json!({}), "spec.name: Required value"),
        (
            &json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "b", "a"]),
            "spec[2]: Duplicate value: \"a\"",
        ),
        (
            &json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}),
            json!([{"name": "a"}, {"name": "b"}, {"name": "a"}]),
            "spec[2]: Duplicate value: {\"name\":\"a\"}",
        ),
        (
            &json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec: Invalid value: 2: spec in body should have at most 1 items",
        ),
        (
            &json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"a": "b", "c": 1}),
            "spec.c: Invalid value: \"integer\": spec.c in body must be of type string: \"integer\"",
        ),
        (
            &json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec: Invalid value: \"boolean\": spec in body must be of type integer or string: \"boolean\"",
        ),
        (
            &json!({"type": "string", "format": "date-time"}),
            json!("yesterday"),
            "spec: Invalid value: \"yesterday\": spec in body must be of type date-time: \"yesterday\"",
        ),
        (
            &json!({"type": "integer", "format": "int32"}),
            json!(3_000_000_000_i64),
            "spec: Invalid value: 3000000000: spec in body must be of type int32: \"3000000000\"",
        ),
        (
            &json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"a": "x", "b": "y"}),
            "spec: Invalid value: \"object\": spec in body must validate one and only one schema (oneOf)",
        ),
    ] {
        assert_eq!(errors(schema, &value), [expected]);
    }
    for (schema, value) in [
        (&int, json!(7.0)),
        (&json!({"type": "string", "nullable": true}), json!(null)),
        (&json!({"x-kubernetes-int-or-string": true}), json!("50%")),
        (&json!({"type": "number"}), json!(1)),
        (&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), json!({"x": [1, null]})),
    ] {
        assert!(errors(schema, &value).is_empty(), "{schema} {value}");
    }
}

#[test]
fn unknown_fields_are_dropped_and_named_and_defaults_filled_in() {
    let schema = compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "known": {"type": "string", "default": "yes"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"inner": {"type": "object", "properties": {}}}},
        "list": {"type": "array", "items": {"type": "object", "properties":
            {"size": {"type": "integer", "default": 3}}}},
    }}}}));
    let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"anything": 1}, "stray": 1, "spec": {
        "known": null, "unknown": 1, "free": {"kept": {"deep": 1}, "inner": {"gone": 1}}, "list": [{}, {"x": 1, "size": 9}]}});
    let unknown = schema.prune(&mut object);
    assert_eq!(unknown, ["stray", "spec.unknown", "spec.free.inner.gone", "spec.list[1].x"]);
    schema.fill(&mut object);
    let expected = json!({"apiVersion": "v1", "kind": "K", "metadata": {"anything": 1}, "spec": {
        "known": "yes", "free": {"kept": {"deep": 1}, "inner": {}}, "list": [{"size": 3}, {"size": 9}]}});
    assert_eq!(object, expected);
    assert!(schema.prune(&mut object).is_empty());
    schema.fill(&mut object);
    assert_eq!(object, expected);
}

#[test]
fn schemas_that_are_not_structural_are_refused_with_the_place() {
    let mut deep = json!({"type": "string"});
    for _ in 0..70 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    for (schema, expected) in [
        (json!({"type": "string"}), "schema.type: Invalid value: \"string\": must be object at the root"),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            "schema.properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            "schema.properties[a].items: Required value",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
            "schema.properties[a].type: Unsupported value",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}}),
            "schema.properties[a].default: Invalid value: \"integer\"",
        ),
        (json!({"type": "object", "$ref": "#/x"}), "schema.$ref: Forbidden: must not be used"),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a >"}]}),
            "schema.x-kubernetes-validations[0].rule: Invalid value: \"self.a >\": compilation failed",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}}}),
            "x-kubernetes-list-map-keys: Invalid value: \"name\"",
        ),
        (deep, "schemas may not be deeper than 64"),
    ] {
        let errors = texts(&Schema::compile(&schema, "schema").unwrap_err());
        assert!(errors.iter().any(|error| error.contains(expected)), "{expected}: {errors:?}");
    }
}

#[test]
fn an_object_with_countless_mistakes_gives_a_bounded_number_of_errors() {
    let list: Vec<u32> = (0..10_000).collect();
    let found = errors(&json!({"type": "array", "items": {"type": "string"}}), &json!(list));
    assert_eq!(found.len(), 64);
}

fn definition(plural: &str) -> Schema {
    let all = skerry_k8s_types::DEFINITIONS.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    let found = all.iter().find(|d| d.pointer("/spec/names/plural") == Some(&plural.into())).unwrap();
    compile(found.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap())
}

#[test]
fn mistakes_in_devices_and_models_are_told() {
    let device = definition("devices");
    let bad = json!({"spec": {
        "nodeName": 7,
        "properties": [
            {"name": "t", "collectCycle": -1, "pushMethod": {"mqtt": {"qos": 3}, "http": {"port": 70000}}},
            {"name": "t", "desired": {"metadata": {"a": 1}}},
            {"collectCycle": "often"},
        ],
    }});
    assert_eq!(
        texts(&device.validate(&bad, None)),
        [
            "spec.nodeName: Invalid value: \"integer\": spec.nodeName in body must be of type string: \"integer\"",
            "spec.properties[0].collectCycle: Invalid value: -1: spec.properties[0].collectCycle in body should be greater than or equal to 0",
            "spec.properties[0].pushMethod.http.port: Invalid value: 70000: spec.properties[0].pushMethod.http.port in body should be less than or equal to 65535",
            "spec.properties[0].pushMethod.mqtt.qos: Invalid value: 3: spec.properties[0].pushMethod.mqtt.qos in body should be less than or equal to 2",
            "spec.properties[1]: Duplicate value: {\"name\":\"t\"}",
            "spec.properties[1].desired.value: Required value",
            "spec.properties[1].desired.metadata.a: Invalid value: \"integer\": spec.properties[1].desired.metadata.a in body must be of type string: \"integer\"",
            "spec.properties[2].name: Required value",
            "spec.properties[2].collectCycle: Invalid value: \"string\": spec.properties[2].collectCycle in body must be of type integer: \"string\"",
        ]
    );
    let model = definition("devicemodels");
    let limits = |minimum: &str, maximum: &str| {
        let object = json!({"spec": {"properties": [
            {"name": "t", "type": "FLOAT", "accessMode": "ReadOnly", "minimum": minimum, "maximum": maximum}]}});
        texts(&model.validate(&object, None))
    };
    assert_eq!(
        limits("10", "-2.5"),
        ["spec.properties[0]: Invalid value: \"object\": minimum must not be greater than maximum"]
    );
    for (minimum, maximum) in [("-10", "1e3"), ("", "5"), ("low", "high"), ("100", "")] {
        assert!(limits(minimum, maximum).is_empty(), "{minimum} {maximum}");
    }
    let wrong = json!({"spec": {"properties": [{"name": "t", "type": "TEXT", "accessMode": "Write"}]}});
    assert_eq!(
        texts(&model.validate(&wrong, None)),
        [
            "spec.properties[0].accessMode: Unsupported value: \"Write\": supported values: \"ReadWrite\", \"ReadOnly\"",
            "spec.properties[0].type: Unsupported value: \"TEXT\": supported values: \"INT\", \"FLOAT\", \"DOUBLE\", \"STRING\", \"BOOLEAN\", \"BYTES\", \"STREAM\"",
        ]
    );
}

#[test]
fn what_kubeedge_accepts_is_accepted_and_kept() {
    let device = definition("devices");
    for mut object in [
        json!({"spec": {}}),
        json!({}),
        json!({"spec": {"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus", "configData": {
            "Register": "CoilRegister", "Offset": "2", "IsSwap": true, "nested": {"list": [1, null, {"x": 1.5}]}}}},
            "status": {"reportToCloud": true, "reportCycle": 10, "twins": [{"propertyName": "t", "any": 1}], "more": {}}}),
    ] {
        let before = object.clone();
        assert!(device.prune(&mut object).is_empty());
        assert!(device.validate(&object, None).is_empty());
        assert_eq!(object, before);
    }
}

#[test]
fn lists_are_known_by_their_keys_unless_a_name_means_two_things() {
    let lists = definition("devices").lists();
    assert_eq!(lists.get("properties"), Some(&vec!["name".to_owned()]));
    assert_eq!(lists.get("conditions"), Some(&vec!["type".to_owned()]));
    assert_eq!((lists.get("methods"), lists.get("propertyNames")), (None, None));
    let set = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"});
    let atomic = json!({"type": "array", "items": {"type": "string"}});
    let schema = json!({"type": "object", "properties": {"both": set, "one": set,
        "inner": {"type": "object", "properties": {"both": atomic}}}});
    assert_eq!(compile(&schema).lists().into_iter().collect::<Vec<_>>(), [("one".to_owned(), Vec::new())]);
}

#[test]
fn the_examples_of_this_repository_are_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut checked = 0;
    for folder in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for mut object in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
                let schema = match kind.as_str() {
                    "Device" => definition("devices"),
                    "DeviceModel" => definition("devicemodels"),
                    _ => continue,
                };
                assert_eq!(schema.prune(&mut object), Vec::<String>::new(), "{}", path.display());
                assert_eq!(texts(&schema.validate(&object, None)), Vec::<String>::new(), "{}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "there are no devices in the examples");
}
