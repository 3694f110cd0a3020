//! The event bus when the broker or the node ends.

use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;

use crate::broker::Broker;
use crate::bus::{ask, node, quality};
use crate::node::{device, twin};

#[tokio::test]
async fn the_broker_goes_with_its_state_and_comes_back() {
    let mut broker = Broker::open().await;
    let node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let update = r#"{"twin":{"temperature":{"actual":{"value":"21.5"}}}}"#;
    ask(&broker, &mut heard, "b1", "twin/update", update).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
    broker.kill().await;
    // Nobody can say any more whether it is so.
    let view = node.until("b1", |view| quality(view, "temperature") == pb::Quality::Uncertain).await;
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    let mut changed = device("b1");
    changed["spec"]["properties"][1]["desired"]["value"] = json!("70");
    node.hub.put(kinds::DEVICE, "plant", "b1", changed);
    broker.start().await;
    let mut heard = broker.until_served().await;
    let got = ask(&broker, &mut heard, "b1", "twin/get", "{}").await;
    assert_eq!(got["twin"]["setpoint"]["expected"]["value"], "70");
    ask(&broker, &mut heard, "b1", "twin/update", update).await;
    node.until("b1", |view| quality(view, "temperature") == pb::Quality::Good).await;
}

#[tokio::test]
async fn what_is_wanted_is_on_disk_before_the_result() {
    let broker = Broker::open().await;
    let mut node = node(&broker).await;
    let mut heard = broker.until_served().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let update = r#"{"twin":{"setpoint":{"expected":{"value":"55"}}}}"#;
    let done = ask(&broker, &mut heard, "b1", "twin/update", update).await;
    assert!(done["code"].is_null(), "{done}");
    node.kill().await;
    node.run().await;
    let view = node.until("b1", |view| view.twins.len() == 2).await;
    assert_eq!(twin(&view, "setpoint").desired.as_deref(), Some("55"));
}
