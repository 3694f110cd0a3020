//! What a node is sent of devices.

use serde_json::json;

use crate::cluster::Cluster;
use crate::hub::Source;

#[tokio::test]
async fn a_node_gets_its_devices_and_their_models_only() {
    let cluster = Cluster::start().await;
    cluster.model("unused").await;
    cluster.device("mine", "n1").await;
    cluster.device("other", "n2").await;
    let controller = cluster.controller().await;
    let mut source = Source::connect(&controller).await;
    source.open(1, "n1", 1, "Device", &[]).await;
    source.open(2, "n1", 1, "DeviceModel", &[]).await;
    source.open(3, "n3", 1, "Device", &[]).await;
    source.open(4, "n3", 1, "DeviceModel", &[]).await;
    source.in_sync().await;
    assert_eq!(source.names(1), ["default/mine"]);
    assert_eq!(source.names(2), ["default/m"]);
    assert!(source.names(3).is_empty() && source.names(4).is_empty());
    let body = source.body(1, "default/mine");
    assert_eq!(body["spec"]["protocol"]["protocolName"], "modbus");
    assert_eq!(body["kind"], "Device");
    assert!(body["metadata"].get("generation").is_none(), "it would change with each write of the status");

    // The conditions that are written are no news for the node.
    cluster.until("mine", "Online", "Unknown NotReported").await;
    assert_eq!(source.quiet().await, 0);

    // Nothing else is served here.
    source.open(5, "n1", 1, "Pod", &[]).await;
    source.until("it is refused", |s| s.subs[&5].closed.is_some()).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_device_moves_from_node_to_node() {
    let cluster = Cluster::start().await;
    cluster.device("d", "n1").await;
    let controller = cluster.controller().await;
    let mut source = Source::connect(&controller).await;
    for (id, node, kind) in
        [(1, "n1", "Device"), (2, "n1", "DeviceModel"), (3, "n2", "Device"), (4, "n2", "DeviceModel")]
    {
        source.open(id, node, 1, kind, &[]).await;
    }
    source.in_sync().await;
    assert_eq!((source.names(1).len(), source.names(2).len(), source.names(3).len()), (1, 1, 0));
    cluster.patch("Device", "d", json!({"spec": {"nodeName": "n2"}})).await;
    source
        .until("n2 has it, and n1 has not", |s| {
            s.names(1).is_empty() && s.names(2).is_empty() && s.names(3).len() == 1 && s.names(4).len() == 1
        })
        .await;
    // Assigned to nobody, then deleted.
    cluster.patch("Device", "d", json!({"spec": {"nodeName": ""}})).await;
    source.until("n2 has it no more", |s| s.names(3).is_empty() && s.names(4).is_empty()).await;
    cluster.delete("Device", "d").await;
    controller.stop().await;
}

#[tokio::test]
async fn what_went_while_nobody_watched_is_a_tombstone() {
    let cluster = Cluster::start().await;
    cluster.device("d", "n1").await;
    let controller = cluster.controller().await;
    let mut source = Source::connect(&controller).await;
    source.open(1, "n1", 1, "Device", &[]).await;
    source.in_sync().await;
    let held = source.held(1);
    controller.stop().await;
    cluster.delete("Device", "d").await;
    let controller = cluster.controller().await;
    let mut source = Source::connect(&controller).await;
    source.open(1, "n1", 2, "Device", &held).await;
    source.until("the tombstone", |s| s.subs[&1].tombstones == ["default/d"]).await;
    controller.stop().await;
}
