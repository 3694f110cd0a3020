//! The broker is killed with its state, and the node with it: what was answered is not lost.

use serde_json::json;
use skerry_dmi::Mqtt;

use crate::broker::Broker;
use crate::bus::{ask, node, topic};
use crate::node::{Node, twin};

fn wants(event: &str, value: usize) -> String {
    json!({ "event_id": event, "twin": { "setpoint": { "expected": { "value": value.to_string() } } } }).to_string()
}

#[tokio::test]
async fn what_was_answered_is_not_lost_with_the_broker_and_the_node() {
    /// Values of one round; all of them are below the limit of the property.
    const EACH: usize = 15;
    let mut broker = Broker::open().await;
    let mut node = node(&broker).await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    for round in 0..6 {
        let mut heard = broker.until_served().await;
        let values = round * EACH..(round + 1) * EACH;
        let lines: String = values.clone().map(|value| wants(&value.to_string(), value) + "\n").collect();
        broker.send(&["-q", "1", "-l", "-t", &topic("b1", "twin/update")], &lines).await;
        // The broker has acknowledged all of them, and the node some.
        let mut answered = 0;
        for _ in 0..=round {
            let answer = heard.hear(&topic("b1", "twin/update/result")).await;
            assert!(answer["code"].is_null(), "{answer}");
            answered = answer["event_id"].as_str().unwrap().parse().unwrap();
        }
        broker.kill().await;
        node.kill().await;
        broker.start().await;
        // What is wanted is said again, by the node: the broker knows nothing any more.
        let mut heard = broker.listen().await;
        node.run().await;
        let delta = heard.hear(&topic("b1", "twin/update/delta")).await;
        let wanted: usize = delta["delta"]["setpoint"].as_str().unwrap().parse().unwrap();
        assert!(wanted >= answered && values.contains(&wanted), "{wanted} after {answered} was answered");
        let view = node.until("b1", |view| twin(view, "setpoint").desired.is_some()).await;
        assert_eq!(twin(&view, "setpoint").desired, Some(wanted.to_string()));
        // Whoever got no answer asks again, with the same name, and it is the same.
        for _ in 0..2 {
            let again = ask_served(&broker, &wants("again", wanted)).await;
            assert_eq!((again["event_id"].as_str(), &again["code"]), (Some("again"), &json!(null)));
        }
        let view = node.view("b1").await.unwrap();
        assert_eq!(twin(&view, "setpoint").desired, Some(wanted.to_string()));
    }
}

async fn ask_served(broker: &Broker, message: &str) -> serde_json::Value {
    let mut heard = broker.until_served().await;
    ask(broker, &mut heard, "b1", "twin/update", message).await
}

#[tokio::test]
async fn control_what_only_the_broker_has_acknowledged_is_lost_with_it() {
    let mut broker = Broker::open().await;
    let port = broker.port;
    let mqtt = Mqtt::new(format!("tcp://127.0.0.1:{port}"));
    let mut node = Node::with(|config| config.dmi.mqtt = Some(mqtt)).await;
    node.put_boiler("b1");
    drop(broker.until_served().await);
    node.kill().await;
    // QoS 1: the client has its acknowledgement.
    broker.publish(&topic("b1", "twin/update"), &wants("lost", 55)).await;
    broker.kill().await;
    broker.start().await;
    node.run().await;
    drop(broker.until_served().await);
    let view = node.until("b1", |view| view.twins.len() == 2).await;
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("40"));
}
