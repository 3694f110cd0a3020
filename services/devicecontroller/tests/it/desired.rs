//! Desired values that were set on a node.

use serde_json::{Value, json};
use skerry_common::desired::{ANSWERS, Answers};
use skerry_common::kinds::{DEVICE_DESIRED, desired_base, desired_name};

use crate::cluster::Cluster;
use crate::hub::{Sink, Source, committed, rejected};

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

/// With the id of a write, and earlier values of the node.
fn named(value: &str, base: Option<&str>, id: &str, earlier: &[&str]) -> Value {
    let mut body = body("t", value.into(), base);
    body["id"] = id.into();
    body["earlier"] = earlier.iter().map(|value| desired_base(Some(value))).collect();
    body
}

#[tokio::test]
async fn the_answer_is_in_the_device_and_nothing_is_taken_twice() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let (a, b) = (cluster.controller().await, cluster.controller().await);
    let (mut to_a, mut to_b) = (Sink::connect(&a).await, Sink::connect(&b).await);
    let mut source = Source::connect(&b).await;
    source.open(1, "n1", 1, "Device", &[]).await;
    source.in_sync().await;
    cluster.until("d", "Synced", "False DesiredPending").await;
    let key = format!("default/{}", desired_name("d", "t"));
    let set = async |sink: &mut Sink, body: Value| sink.report("n1", 1, DEVICE_DESIRED, &key, &uid, body).await;
    let now = async || {
        let device = cluster.get("Device", "d").await.unwrap();
        let answers = device.metadata.annotations.unwrap_or_default().remove(ANSWERS).unwrap_or_default();
        let answer = Answers::parse(&answers).get("t").cloned().unwrap_or_default();
        (device.data["spec"]["properties"][0]["desired"]["value"].clone(), answer.id, answer.refused)
    };

    assert!(committed(&set(&mut to_a, named("50", Some("20"), "w1", &[])).await));
    assert_eq!(now().await, (json!("50"), "w1".to_owned(), None));
    // Somebody who sees it puts it back. The node was cut off before it heard, and reports again, to another replica.
    cluster
        .patch(
            "Device",
            "d",
            json!({"spec": {"properties": [{"name": "t", "desired": {"value": "20"}}, {"name": "p"}]}}),
        )
        .await;
    assert!(committed(&set(&mut to_b, named("50", Some("20"), "w1", &[])).await));
    assert_eq!(now().await, (json!("20"), "w1".to_owned(), None), "it was taken once");
    // The node hears of it although the value is what it was.
    source.until("the answer", |s| s.body(1, "default/d")["metadata"]["annotations"][ANSWERS].is_string()).await;

    // The later of two, when the earlier one was taken meanwhile.
    assert!(committed(&set(&mut to_a, named("51", Some("20"), "w2", &[])).await));
    assert!(committed(&set(&mut to_b, named("52", Some("20"), "w3", &["51"])).await));
    assert_eq!(now().await, (json!("52"), "w3".to_owned(), None));
    // What the cloud wants anyway is answered too.
    assert!(committed(&set(&mut to_a, named("52", Some("51"), "w4", &[])).await));
    assert_eq!(now().await, (json!("52"), "w4".to_owned(), None));

    // Refused, in ignorance of the cloud's value and for the value itself: the node reads why.
    let versions = async || cluster.get("Device", "d").await.unwrap().metadata;
    for (id, body, why) in [
        ("w5", named("60", Some("20"), "w5", &["50"]), "changed in the cloud meanwhile"),
        ("w6", named("91", Some("52"), "w6", &[]), "0 to 90"),
    ] {
        let before = versions().await;
        assert!(rejected(&set(&mut to_a, body.clone()).await), "{id}");
        let (value, answered, refused) = now().await;
        assert_eq!((value, answered.as_str()), (json!("52"), id));
        assert!(refused.unwrap().contains(why));
        let after = versions().await;
        assert_eq!(after.generation, before.generation, "nothing is wanted that was not");
        assert!(rejected(&set(&mut to_b, body).await), "{id}, again");
        assert_eq!(versions().await.resource_version, after.resource_version, "it is written once");
    }
    let long = set(&mut to_a, named("1", Some("52"), &"x".repeat(65), &[])).await;
    assert!(rejected(&long), "an id without bounds: {long:?}");
    a.stop().await;
    b.stop().await;
}
