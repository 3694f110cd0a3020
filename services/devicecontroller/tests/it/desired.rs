//! Desired values that were set on a node.

use serde_json::{Value, json};
use skerry_common::kinds::{DEVICE_DESIRED, desired_base, desired_name};

use crate::cluster::Cluster;
use crate::hub::{Sink, committed, rejected};

fn body(property: &str, value: Value, base: Option<&str>) -> Value {
    json!({"device": "d", "property": property, "value": value, "base": desired_base(base)})
}

#[tokio::test]
async fn a_value_of_the_node_holds_unless_the_cloud_changed_it() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let other = cluster.device("other", "n2").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let key = format!("default/{}", desired_name("d", "t"));
    let desired = async || {
        let device = cluster.get("Device", "d").await.unwrap();
        device.data["spec"]["properties"][0]["desired"]["value"].clone()
    };
    let mut set = async |value: Value, base: Option<&str>| {
        sink.report("n1", 1, DEVICE_DESIRED, &key, &uid, body("t", value, base)).await
    };
    assert!(committed(&set(json!("50"), Some("20")).await));
    assert_eq!(desired().await, "50");
    assert!(committed(&set(json!("50"), Some("20")).await), "the same again, after a cut");
    // Set over a value that is no longer the cloud's.
    assert!(rejected(&set(json!("60"), Some("20")).await));
    assert_eq!(desired().await, "50");
    for (why, value) in [("out of range", json!("91")), ("of the wrong type", json!("warm"))] {
        let outcome = set(value, Some("50")).await;
        assert!(rejected(&outcome), "{why}: {outcome:?}");
    }
    assert_eq!(desired().await, "50");
    // Everything else of the device is as it was.
    let device = cluster.get("Device", "d").await.unwrap();
    assert_eq!(device.data["spec"]["protocol"]["protocolName"], "modbus");
    assert_eq!(device.data["spec"]["properties"][1]["name"], "p");
    // Whoever looks at the device reads what became of it.
    crate::cluster::eventually("Events", || async {
        let events = cluster.events().await;
        events.contains(&"DesiredSetOnNode".to_owned()) && events.contains(&"DesiredNotTaken".to_owned())
    })
    .await;

    // What a node may not do.
    for (why, node, uid, body) in [
        ("a device of another node", "n1", other.as_str(), {
            let mut body = body("t", json!("1"), Some("20"));
            body["device"] = "other".into();
            body
        }),
        ("by another node", "n2", uid.as_str(), body("t", json!("1"), Some("50"))),
        ("an earlier device", "n1", "0-0", body("t", json!("1"), Some("50"))),
        ("a property that is ReadOnly", "n1", uid.as_str(), body("p", json!("1"), None)),
        ("a property that the device does not have", "n1", uid.as_str(), body("q", json!("1"), None)),
        ("a name that is none", "n1", uid.as_str(), json!({"device": "../d", "property": "t", "base": "none"})),
        ("no base", "n1", uid.as_str(), json!({"device": "d", "property": "t", "value": "1"})),
    ] {
        let outcome = sink.report(node, 1, DEVICE_DESIRED, &key, uid, body).await;
        assert!(rejected(&outcome), "{why}: {outcome:?}");
    }
    assert_eq!(desired().await, "50");
    controller.stop().await;
}
