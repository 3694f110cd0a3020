//! Conditions of a device, as tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn seen(spec: Value, model: Option<Value>, node: NodeState) -> Snapshot {
    let device = serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": spec})).unwrap();
    let model = model.map(|spec| Arc::new(serde_json::from_value(json!({ "spec": spec })).unwrap()));
    Snapshot { device: Arc::new(device), model, node }
}

fn told(node: &str, verdicts: &[(&str, &str, &str)]) -> Told {
    let conditions = verdicts.iter().map(|(r#type, status, reason)| Condition {
        r#type: (*r#type).to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        ..Condition::default()
    });
    Told { node: node.to_owned(), conditions: conditions.collect() }
}

fn fine(node: &str) -> Told {
    told(node, &[(READY, "True", "MapperServes"), (ONLINE, "True", "DeviceOnline"), (SYNCED, "True", "AllSynced")])
}

fn brief(snapshot: &Snapshot, told: Option<&Told>, twins: &[Twin]) -> [String; 3] {
    let judged = judge(&Key::new("ns", "d"), snapshot, told, twins);
    judged.map(|(_, (status, reason, message))| {
        assert!(status == "True" || !message.is_empty() || told.is_some(), "{reason} tells what to do");
        format!("{status} {reason}")
    })
}

#[test]
fn the_cloud_knows_when_the_word_of_a_node_is_old() {
    let spec = json!({"nodeName": "n1", "deviceModelRef": {"name": "m"}});
    let model = || Some(json!({}));
    let ready = || NodeState::Ready;
    let away = || NodeState::NotReady("NodeStatusUnknown".to_owned());
    let fine = fine("n1");
    let other = told("n0", &[(READY, "True", "MapperServes"), (ONLINE, "True", "DeviceOnline")]);
    let unmapped = told("n1", &[(READY, "False", "MapperNotConnected"), (ONLINE, "Unknown", "MapperNotConnected")]);
    let cases: [(Snapshot, Option<&Told>, [&str; 2]); 10] = [
        (seen(spec.clone(), model(), ready()), Some(&fine), ["True MapperServes", "True DeviceOnline"]),
        (seen(spec.clone(), model(), ready()), None, ["Unknown NotReported", "Unknown NotReported"]),
        (seen(spec.clone(), model(), ready()), Some(&other), ["Unknown NotReported", "Unknown NotReported"]),
        (
            seen(spec.clone(), model(), ready()),
            Some(&unmapped),
            ["False MapperNotConnected", "Unknown MapperNotConnected"],
        ),
        (seen(spec.clone(), model(), away()), Some(&fine), ["False NodeNotReady", "Unknown NodeNotReady"]),
        (seen(spec.clone(), model(), NodeState::Missing), Some(&fine), ["False NodeNotFound", "Unknown NodeNotFound"]),
        (seen(spec.clone(), None, ready()), Some(&fine), ["False ModelNotFound", "True DeviceOnline"]),
        (seen(spec, None, away()), None, ["False ModelNotFound", "Unknown NodeNotReady"]),
        (seen(json!({"nodeName": "n1"}), None, ready()), None, ["False ModelNotFound", "Unknown NotReported"]),
        (
            seen(json!({"deviceModelRef": {"name": "m"}}), model(), NodeState::Missing),
            None,
            ["False NodeNotSet", "Unknown NodeNotSet"],
        ),
    ];
    for (snapshot, told, want) in cases {
        let [ready, online, _] = brief(&snapshot, told, &[]);
        assert_eq!([ready.as_str(), online.as_str()], want, "{snapshot:?}");
    }
}

#[test]
fn synced_follows_what_is_desired_now() {
    let spec = |desired: Value| {
        json!({"nodeName": "n1", "deviceModelRef": {"name": "m"}, "properties": [
            {"name": "w", "desired": desired}, {"name": "r", "desired": {"value": "9"}}]})
    };
    let model =
        json!({"properties": [{"name": "w", "accessMode": "ReadWrite"}, {"name": "r", "accessMode": "ReadOnly"}]});
    let twin = |value: &str| -> Vec<Twin> {
        vec![serde_json::from_value(json!({"propertyName": "w", "observedDesired": {"value": value}})).unwrap()]
    };
    let away = || NodeState::NotReady(String::new());
    let refused = told("n1", &[(SYNCED, "False", "DesiredRefused")]);
    let fine = fine("n1");
    let five = json!({"value": "5"});
    type Case<'a> = (Value, NodeState, Option<&'a Told>, Vec<Twin>, &'a str);
    let cases: [Case<'_>; 9] = [
        (Value::Null, NodeState::Ready, None, vec![], "True NothingDesired"),
        (five.clone(), NodeState::Ready, Some(&fine), twin("5"), "True AllSynced"),
        (five.clone(), NodeState::Ready, Some(&refused), twin("5"), "False DesiredRefused"),
        (five.clone(), NodeState::Ready, Some(&fine), twin("4"), "False DesiredPending"),
        (five.clone(), NodeState::Ready, None, vec![], "False DesiredPending"),
        (five.clone(), NodeState::Ready, None, twin("5"), "Unknown NotReported"),
        (five.clone(), away(), Some(&fine), twin("5"), "True AllSynced"),
        (five.clone(), away(), Some(&fine), twin("4"), "False NodeNotReady"),
        (five, NodeState::Missing, None, vec![], "False NodeNotFound"),
    ];
    for (desired, node, told, twins, want) in cases {
        let snapshot = seen(spec(desired), Some(model.clone()), node);
        assert_eq!(brief(&snapshot, told, &twins)[2], want, "{snapshot:?} {twins:?}");
    }
}
