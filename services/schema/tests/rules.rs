//! Rules in CEL: what they see, what people read, and their bounds.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use skerry_schema::Schema;
use std::time::{Duration, Instant};

fn schema(rules: &Value) -> Schema {
    let spec = json!({"type": "object", "x-kubernetes-validations": rules, "properties": {
        "replicas": {"type": "integer"}, "ratio": {"type": "number"}, "name": {"type": "string"},
        "namespace": {"type": "string"}, "max-size": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties":
                {"name": {"type": "string"}, "port": {"type": "integer", "x-kubernetes-validations":
                    [{"rule": "self >= oldSelf", "message": "may only grow"}]}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    }});
    let root = json!({"type": "object", "properties": {"spec": spec}});
    Schema::compile(&root, "schema").unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn errors(rule: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let old = old.map(|old| json!({"spec": old}));
    let found = schema(&json!([{"rule": rule}])).validate(&json!({"spec": new}), old.as_ref());
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_see_values_with_the_types_of_the_schema() {
    for (rule, value) in [
        ("self.replicas + 1 == 4", json!({"replicas": 3})),
        ("self.ratio == 2.0", json!({"ratio": 2})),
        ("self.name.startsWith('a') && self.name.matches('^a.$')", json!({"name": "ab"})),
        ("!has(self.name) || self.name == 'x'", json!({})),
        ("self.tags.all(t, size(t) < 4) && self.tags.exists_one(t, t == 'a')", json!({"tags": ["a", "bb"]})),
        ("self.labels.all(key, self.labels[key] != '')", json!({"labels": {"a": "b"}})),
        (
            "self.ports.map(p, p.port).filter(p, p > 1) == [2]",
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}),
        ),
        ("self.__namespace__ == 'n' && self.max__dash__size == 1", json!({"namespace": "n", "max-size": 1})),
        ("'x' in self.tags", json!({"tags": ["x"]})),
        ("self.name.split('-')[0].upperAscii() == 'A'", json!({"name": "a-b"})),
    ] {
        assert_eq!(errors(rule, &value, None), [""; 0], "{rule}");
    }
}

#[test]
fn a_broken_rule_says_its_message_its_field_and_its_reason() {
    let rules = json!([
        {"rule": "self.replicas < 3", "message": "at most two"},
        {"rule": "self.replicas < 4", "messageExpression": "'have ' + string(self.replicas)"},
        {"rule": "self.replicas < 5", "reason": "FieldValueForbidden", "fieldPath": ".replicas", "message": "no"},
        {"rule": "self.replicas < 6"},
        {"rule": "self.nothing > 1"},
        {"rule": "self.replicas"},
    ]);
    let found = schema(&rules).validate(&json!({"spec": {"replicas": 7}}), None);
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "spec: Invalid value: \"object\": at most two",
            "spec: Invalid value: \"object\": have 7",
            "spec.replicas: Forbidden: no",
            "spec: Invalid value: \"object\": failed rule: self.replicas < 6",
            "spec: Invalid value: \"object\": rule evaluation error: No such key: nothing: self.nothing > 1",
            "spec: Invalid value: \"object\": rule compile error: \"self.replicas\" must evaluate to a bool",
        ]
    );
}

#[test]
fn rules_over_a_change_run_only_over_a_change() {
    let rule = "self.name == oldSelf.name";
    assert!(errors(rule, &json!({"name": "a"}), None).is_empty());
    assert!(errors(rule, &json!({"name": "a"}), Some(&json!({"name": "a"}))).is_empty());
    assert_eq!(errors(rule, &json!({"name": "a"}), Some(&json!({"name": "b"}))).len(), 1);
    // Items of a list map are compared with those of the same key, wherever they stand.
    let old = json!({"ports": [{"name": "a", "port": 5}, {"name": "b", "port": 1}]});
    let new = json!({"ports": [{"name": "b", "port": 2}, {"name": "a", "port": 4}, {"name": "c", "port": 0}]});
    assert_eq!(errors("true", &new, Some(&old)), ["spec.ports[1].port: Invalid value: 4: may only grow"]);
}

#[test]
fn a_rule_is_refused_before_it_takes_long() {
    let tags: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let start = Instant::now();
    let found = errors("self.tags.all(a, self.tags.exists_one(b, a == b))", &json!({"tags": tags}), None);
    assert!(
        found.len() == 1 && found[0].contains("would take too long over a value with lists of 20000 items"),
        "{found:?}"
    );
    // What is allowed at most.
    let tags: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    let found = errors("self.tags.all(a, self.tags.exists_one(b, a == b))", &json!({"tags": tags}), None);
    assert!(found.is_empty(), "{found:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let long = format!("self.name == '{}'", "x".repeat(20 << 10));
    let root = json!({"type": "object", "x-kubernetes-validations": [{"rule": long}]});
    assert!(format!("{:?}", Schema::compile(&root, "schema").unwrap_err()).contains("may not be longer than 16384"));
    let many = vec![json!({"rule": "true"}); 513];
    let root = json!({"type": "object", "x-kubernetes-validations": many});
    assert!(format!("{:?}", Schema::compile(&root, "schema").unwrap_err()).contains("more than 512 rules"));
}

#[test]
fn a_rule_with_a_function_that_is_not_served_refuses_nothing() {
    assert!(errors("isURL(self.name)", &json!({"name": "x"}), None).is_empty());
    assert!(errors("quantity(self.name).isLessThan(quantity('1Gi'))", &json!({"name": "x"}), None).is_empty());
}
