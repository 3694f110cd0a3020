//! The event bus when the broker hangs, comes and goes, or takes only some connections.

use skerry_common::NodeName;
use skerry_dmi::Mqtt;
use skerry_proto::dmi::v1 as pb;

use crate::broker::Broker;
use crate::bus::{ask, quality, topic};
use crate::gate::{Gate, Way};
use crate::node::{Node, eventually, twin};

const REPORT: &str = r#"{"twin":{"temperature":{"actual":{"value":"21.5"}}}}"#;

async fn behind(gate: &Gate) -> Node {
    let mqtt = Mqtt { keep_alive_seconds: 1, ..Mqtt::new(format!("tcp://127.0.0.1:{}", gate.port)) };
    Node::with(|config| config.dmi.mqtt = Some(mqtt)).await
}

#[tokio::test]
async fn a_broker_that_never_says_a_word_is_tried_again_and_disturbs_nobody() {
    let broker = Broker::open().await;
    let gate = Gate::before(broker.port, Way::Mute).await;
    let node = behind(&gate).await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let again = eventually(async || (gate.taken() > 1).then_some(()));
    again.await.expect("the node waits for a broker that is mute");
    gate.set(Way::Open);
    broker.until_served().await;
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_gone() {
    let broker = Broker::open().await;
    let gate = Gate::before(broker.port, Way::Open).await;
    let node = behind(&gate).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    ask(&broker, &mut heard, "b1", "twin/update", REPORT).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
    gate.set(Way::Mute);
    let view = node.until("b1", |view| quality(view, "temperature") == pb::Quality::Uncertain).await;
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    gate.set(Way::Open);
    let mut heard = broker.until_served().await;
    ask(&broker, &mut heard, "b1", "twin/update", REPORT).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
}

#[tokio::test]
async fn every_second_connection_is_enough() {
    let broker = Broker::open().await;
    let gate = Gate::before(broker.port, Way::EverySecond).await;
    let node = behind(&gate).await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let mut heard = broker.until_served().await;
    for round in 0..2 {
        gate.cut();
        let said = format!(r#"{{"event_id":"{round}"}}"#);
        // What is said while nobody listens is lost, as in KubeEdge.
        let answered = eventually(async || {
            broker.publish(&topic("b1", "twin/get"), &said).await;
            let soon = std::time::Duration::from_millis(200);
            tokio::time::timeout(soon, heard.answer(&topic("b1", "twin/get/result"), &round.to_string())).await.ok()
        });
        answered.await.expect("no answer after a cut");
    }
    assert!(gate.taken() >= 5, "{} connections", gate.taken());
}

#[tokio::test]
async fn who_listens_to_a_new_broker_hears_what_is_wanted() {
    let mut broker = Broker::open().await;
    let gate = Gate::before(broker.port, Way::Open).await;
    let node = behind(&gate).await;
    node.put_boiler("b1");
    let mut heard = broker.until_served().await;
    ask(&broker, &mut heard, "b1", "twin/update", r#"{"twin":{"setpoint":{"expected":{"value":"55"}}}}"#).await;
    // Everything that the broker knew is gone: who is there, what they listen to, what they have not heard.
    broker.kill().await;
    gate.set(Way::Mute);
    broker.start().await;
    let mut heard = broker.listen().await;
    gate.set(Way::Open);
    let delta = heard.hear(&topic("b1", "twin/update/delta")).await;
    assert_eq!(delta["delta"]["setpoint"], "55");
    let got = ask(&broker, &mut heard, "b1", "twin/get", "{}").await;
    assert_eq!(got["twin"]["setpoint"]["expected"]["value"], "55");
}

#[tokio::test]
async fn nodes_that_share_a_broker_answer_for_their_own() {
    let broker = Broker::open().await;
    let sharing = async |name: &str| {
        let mqtt = Mqtt { shared: true, ..Mqtt::new(format!("tcp://127.0.0.1:{}", broker.port)) };
        let node = Node::with(|config| {
            config.node_name = NodeName::parse(name).unwrap();
            config.dmi.mqtt = Some(mqtt);
        });
        node.await
    };
    let (one, two) = (sharing("edge-1").await, sharing("edge-2").await);
    one.put_boiler("b1");
    two.put_boiler("b2");
    one.until("b1", |_| true).await;
    two.until("b2", |_| true).await;
    let mut heard = broker.until_served().await;
    broker.until_served_by("edge-2", &mut heard).await;
    let mut answers = Vec::new();
    for name in ["b1", "b2", "nobody"] {
        broker.publish(&topic(name, "twin/get"), &format!(r#"{{"event_id":"{name}"}}"#)).await;
    }
    for node in ["edge-1", "edge-2"] {
        broker.publish(&format!("$hw/events/node/{node}/membership/get"), r#"{"event_id":"end"}"#).await;
    }
    let mut ended = 0;
    while ended < 2 {
        let (topic, message) = heard.next().await;
        if topic.ends_with("/twin/get/result") {
            assert!(message["code"].is_null(), "{message}");
            answers.push(message["event_id"].as_str().unwrap().to_owned());
        }
        ended += i32::from(topic.ends_with("/membership/get/result") && message["event_id"] == "end");
    }
    answers.sort();
    assert_eq!(answers, ["b1", "b2"]);
}
