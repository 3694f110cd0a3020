//! The event bus with mosquitto and its clients: every topic, what is refused, what is forged, what is too much.

use serde_json::{Value, json};
use skerry_common::kinds;
use skerry_dmi::{Mqtt, MqttVersion};
use skerry_proto::dmi::v1 as pb;

use crate::broker::{Broker, Listener};
use crate::node::{Node, condition, device, twin};
use crate::stream::Mapper;

pub(crate) fn topic(name: &str, what: &str) -> String {
    format!("$hw/events/device/plant/{name}/{what}")
}

pub(crate) async fn node(broker: &Broker) -> Node {
    Node::with(|config| config.dmi.mqtt = Some(Mqtt::new(format!("tcp://127.0.0.1:{}", broker.port)))).await
}

/// Asks and hears the answer.
pub(crate) async fn ask(broker: &Broker, heard: &mut Listener, name: &str, what: &str, message: &str) -> Value {
    broker.publish(&topic(name, what), message).await;
    heard.hear(&topic(name, &format!("{what}/result"))).await
}

pub(crate) fn quality(view: &pb::DeviceView, property: &str) -> pb::Quality {
    twin(view, property).quality()
}

#[tokio::test]
async fn every_topic_over_mqtt_3() {
    every_topic(MqttVersion::V3, &["-V", "mqttv5"], "(p2,").await;
}

#[tokio::test]
async fn every_topic_over_mqtt_5() {
    every_topic(MqttVersion::V5, &["-V", "mqttv311"], "(p5,").await;
}

async fn every_topic(version: MqttVersion, clients: &[&str], said: &str) {
    let mut broker = Broker::open().await;
    broker.client = clients.iter().map(|&argument| argument.to_owned()).collect();
    let mqtt = Mqtt { version, ..Mqtt::new(format!("tcp://127.0.0.1:{}", broker.port)) };
    let node = Node::with(|config| config.dmi.mqtt = Some(mqtt)).await;
    let mut heard = broker.until_served().await;
    let log = broker.log();
    assert!(log.lines().any(|line| line.contains(" as skerry-edge-1-") && line.contains(said)), "{log}");
    node.put_boiler("b1");
    let added = heard.hear("$hw/events/node/edge-1/membership/updated").await;
    assert_eq!(
        (&added["added_devices"][0]["id"], &added["added_devices"][0]["name"]),
        (&json!("plant/b1"), &json!("b1"))
    );
    assert_eq!(added["added_devices"][0]["twin"]["setpoint"]["expected"]["value"], "40");
    assert_eq!(added["removed_devices"], json!([]));

    let got = ask(&broker, &mut heard, "b1", "twin/get", r#"{"event_id":"g1"}"#).await;
    assert_eq!(got["event_id"], "g1");
    assert!(got["timestamp"].as_i64().unwrap() > 1_600_000_000_000);
    let nothing = json!({ "optional": false, "metadata": { "type": "float" } });
    let expected = &got["twin"]["setpoint"]["expected"];
    assert!(expected["metadata"]["timestamp"].as_i64().unwrap() > 1_600_000_000_000);
    let wanted = json!({ "expected": expected, "optional": false, "metadata": { "type": "int" } });
    assert_eq!(
        (&expected["value"], &got["twin"]),
        (&json!("40"), &json!({ "temperature": nothing, "setpoint": wanted }))
    );

    // A device says what it has.
    let said = r#"{"event_id":"u1","timestamp":1700000000001,
        "twin":{"temperature":{"actual":{"value":"21.5","metadata":{"timestamp":1700000000000}},"metadata":{"type":"Updated"}}}}"#;
    let done = ask(&broker, &mut heard, "b1", "twin/update", said).await;
    let actual = json!({ "value": "21.5", "metadata": { "timestamp": 1_700_000_000_000_i64 } });
    assert_eq!((&done["event_id"], &done["twin"]["temperature"]["actual"]), (&json!("u1"), &actual));
    assert!(done["twin"]["setpoint"].is_null() && done["code"].is_null());
    let document = heard.hear(&topic("b1", "twin/update/document")).await;
    assert_eq!(document["event_id"], "u1");
    assert_eq!(document["twin"]["temperature"]["last"], nothing);
    assert_eq!(document["twin"]["temperature"]["current"]["actual"], actual);
    let delta = heard.hear(&topic("b1", "twin/update/delta")).await;
    assert_eq!(delta["delta"], json!({ "setpoint": "40" }));
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
    node.until("b1", |view| condition(view, "Ready").reason == "ReportsOverMqtt").await;

    // Somebody wants something.
    let done = ask(
        &broker,
        &mut heard,
        "b1",
        "twin/update",
        r#"{"event_id":"u2","twin":{"setpoint":{"expected":{"value":"55"}}}}"#,
    );
    assert_eq!(done.await["twin"]["setpoint"]["expected"]["value"], "55");
    let document = heard.hear(&topic("b1", "twin/update/document")).await;
    assert_eq!(document["twin"]["setpoint"]["last"]["expected"]["value"], "40");
    let delta = heard.hear(&topic("b1", "twin/update/delta")).await;
    assert_eq!(delta["delta"], json!({ "setpoint": "55" }));
    assert_eq!(delta["twin"]["setpoint"]["expected"]["value"], "55");
    let view = node.view("b1").await.unwrap();
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("55"));

    // The device has done it.
    let done = ask(
        &broker,
        &mut heard,
        "b1",
        "twin/update",
        r#"{"event_id":"u3","twin":{"setpoint":{"actual":{"value":"55"}}}}"#,
    );
    assert_eq!(done.await["twin"]["setpoint"]["actual"]["value"], "55");
    node.until("b1", |view| condition(view, "Synced").status).await;

    let state = ask(&broker, &mut heard, "b1", "state/update", r#"{"event_id":"s1","state":"online"}"#).await;
    assert_eq!(state["event_id"], "s1");
    assert_eq!((&state["device"]["name"], &state["device"]["state"]), (&json!("b1"), &json!("online")));
    assert!(state["device"]["last_online"].as_str().unwrap().len() == "2006-01-02 15:04:05".len());
    node.until("b1", |view| condition(view, "Online").status).await;

    broker.publish("$hw/events/node/edge-1/membership/get", r#"{"event_id":"m1"}"#).await;
    let members = heard.answer("$hw/events/node/edge-1/membership/get/result", "m1").await;
    assert_eq!(members["devices"][0]["id"], "plant/b1");
    assert_eq!(members["devices"][0]["state"], "online");

    // The cloud wants something else, and nobody has asked.
    let mut changed = device("b1");
    changed["metadata"]["generation"] = json!(2);
    changed["spec"]["properties"][1]["desired"]["value"] = json!("70");
    node.hub.put(kinds::DEVICE, "plant", "b1", changed);
    let delta = heard.hear(&topic("b1", "twin/update/delta")).await;
    assert_eq!(delta["delta"], json!({ "setpoint": "70" }));

    node.hub.delete(kinds::DEVICE, "plant", "b1");
    let gone = heard.hear("$hw/events/node/edge-1/membership/updated").await;
    assert_eq!(gone["removed_devices"], json!([{ "id": "plant/b1", "name": "b1" }]));
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_kubeedges_codes() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let big = format!(r#"{{"event_id":"{}"}}"#, "x".repeat(64 * 1024));
    for (name, what, message, code) in [
        ("nobody", "twin/get", "{}", 404),
        ("nobody", "twin/update", r#"{"twin":{"t":{"actual":{"value":"1"}}}}"#, 404),
        ("nobody", "state/update", r#"{"state":"online"}"#, 404),
        ("b1", "twin/get", "no json", 400),
        ("b1", "twin/get", &big, 400),
        ("b1", "twin/update", "{}", 400),
        ("b1", "twin/update", r#"{"twin":{"other":{"actual":{"value":"1"}}}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"setpoint":null}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"setpoint":{"expected":{"value":"91"}}}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"setpoint":{"expected":{"value":"x"}}}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"temperature":{"expected":{"value":"5"}}}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"temperature":{"actual":{"value":"warm"}}}}"#, 400),
        ("b1", "twin/update", r#"{"twin":{"temperature":{"actual":{"value":5}}}}"#, 400),
        // All or nothing.
        (
            "b1",
            "twin/update",
            r#"{"twin":{"setpoint":{"expected":{"value":"50"}},"other":{"actual":{"value":"1"}}}}"#,
            400,
        ),
        ("b1", "state/update", r#"{"state":"sleepy"}"#, 400),
        ("b1", "state/update", "{}", 400),
    ] {
        let answer = ask(&broker, &mut heard, name, what, message).await;
        assert_eq!(answer["code"], code, "{name} {what} {message:.80}: {answer}");
        assert!(!answer["reason"].as_str().unwrap().is_empty());
    }
    let view = node.view("b1").await.unwrap();
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("40"));
    assert!(twin(&view, "temperature").reported.is_none());
}

#[tokio::test]
async fn a_device_with_a_mapper_is_reported_by_it_alone() {
    let broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    let mut mapper = Mapper::connect(&node, "m").await;
    mapper.take_device().await;
    let values = vec![crate::stream::value("temperature", pb::value::Value::Number(21.5))];
    mapper.report("b1", values).await;
    // Whoever listens hears what the mapper reports.
    let document = heard.hear(&topic("b1", "twin/update/document")).await;
    assert_eq!(document["twin"]["temperature"]["current"]["actual"]["value"], "21.5");
    for (what, message) in [
        ("twin/update", r#"{"twin":{"temperature":{"actual":{"value":"99"}}}}"#),
        ("state/update", r#"{"state":"offline"}"#),
    ] {
        let answer = ask(&broker, &mut heard, "b1", what, message).await;
        assert_eq!(answer["code"], 409, "{answer}");
    }
    let view = node.view("b1").await.unwrap();
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    // What is wanted anybody may say whom the broker lets.
    let done =
        ask(&broker, &mut heard, "b1", "twin/update", r#"{"twin":{"setpoint":{"expected":{"value":"55"}}}}"#).await;
    assert_eq!(done["twin"]["setpoint"]["expected"]["value"], "55");
}

#[tokio::test]
async fn what_only_the_node_or_the_cloud_may_say_is_not_heard() {
    let broker = Broker::open().await;
    let mut node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let update = r#"{"event_id":"forged","twin":{"setpoint":{"expected":{"value":"1"}}}}"#;
    for forged in [
        "$hw/events/device/plant/b1/twin/get/result",
        "$hw/events/device/plant/b1/twin/updated",
        "$hw/events/device//b1/twin/update",
        "$hw/events/device/plant/../twin/update",
        "$hw/events/node/edge-2/membership/get",
        "$hw/events/node/edge-1/membership/detail",
        "$hw/events/node/edge-1/membership/updated",
    ] {
        broker.publish(forged, update).await;
    }
    let live = ask(&broker, &mut heard, "b1", "twin/get", r#"{"event_id":"after"}"#);
    assert_eq!(live.await["event_id"], "forged", "our own forgery is heard by ourselves");
    let after = heard.answer(&topic("b1", "twin/get/result"), "after").await;
    assert_eq!(after["twin"]["setpoint"]["expected"]["value"], "40");

    // What KubeEdge would believe of anybody.
    broker.publish(&topic("b1", "twin/cloud_updated"), update).await;
    let refused = heard.hear(&topic("b1", "twin/update/result")).await;
    assert_eq!((&refused["event_id"], &refused["code"]), (&json!("forged"), &json!(400)));
    assert_eq!(twin(&node.view("b1").await.unwrap(), "setpoint").desired.as_deref(), Some("40"));

    // Somebody said it once, to whoever comes.
    node.kill().await;
    broker.send(&["-q", "1", "-r", "-t", &topic("b1", "twin/update"), "-s"], update).await;
    node.run().await;
    broker.until_served().await;
    let live = ask(&broker, &mut heard, "b1", "twin/update", r#"{"event_id":"live","twin":{}}"#).await;
    assert_eq!(live["event_id"], "live");
    assert_eq!(twin(&node.view("b1").await.unwrap(), "setpoint").desired.as_deref(), Some("40"));
}

#[tokio::test]
async fn what_applications_say_to_each_other_goes_past_the_node() {
    let mut broker = Broker::open().await;
    broker.client = vec!["-V".into(), "mqttv5".into()];
    let node = node(&broker).await;
    node.put_boiler("b1");
    broker.until_served().await;
    // Nobody takes it, and the broker says so to whoever asks it over MQTT 5; KubeEdge takes it, and without a Rule
    // its cloud throws it away.
    for nobodys in ["default/user/orders", "$hw/events/upload/all", "SYS/dis/upload_records"] {
        assert!(broker.is_nobodys(nobodys).await, "{nobodys}");
    }
    assert!(!broker.is_nobodys(&topic("b1", "twin/get")).await);
    // As in KubeEdge, where a mapper says it to applications and not to the node.
    let data = "$ke/events/device/b1/data/update";
    let mut heard = broker.listen_as(&["-t", data]).await;
    broker.publish(data, r#"{"event_id":"d1","timestamp":1,"data":{"temperature":"21.5"}}"#).await;
    assert_eq!(heard.hear(data).await["data"]["temperature"], "21.5");
}
