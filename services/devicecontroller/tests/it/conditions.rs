//! Conditions without a report: what the cloud itself knows.

use skerry_common::kinds::DEVICE_STATUS;

use crate::cluster::{Cluster, eventually, twin, works};
use crate::hub::{Sink, committed};

#[tokio::test]
async fn what_is_missing_is_named_until_it_is_there() {
    let cluster = Cluster::start().await;
    cluster.delete("DeviceModel", "m").await;
    let controller = cluster.controller().await;
    cluster.device("d", "n9").await;
    cluster.until("d", "Ready", "False ModelNotFound").await;
    assert_eq!(cluster.condition("d", "Online").await, "Unknown NodeNotFound");
    cluster.model("m").await;
    cluster.until("d", "Ready", "False NodeNotFound").await;
    cluster.node("n9").await;
    cluster.until("d", "Ready", "False NodeNotReady").await;
    cluster.ready("n9", "True").await;
    cluster.until("d", "Ready", "Unknown NotReported").await;
    assert!(cluster.get("DeviceStatus", "d").await.is_none(), "nothing was reported");
    // In use, and gone.
    cluster.delete("DeviceModel", "m").await;
    cluster.until("d", "Ready", "False ModelNotFound").await;
    controller.stop().await;
}

#[tokio::test]
async fn the_word_of_a_node_comes_back_with_it() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/d", "", works(&uid, twin("20", "20"))).await;
    assert!(committed(&outcome), "{outcome:?}");

    cluster.ready("n1", "Unknown").await;
    cluster.until("d", "Online", "Unknown NodeNotReady").await;
    let device = cluster.get("Device", "d").await.unwrap();
    assert_eq!(device.data["status"]["state"], "unknown", "nobody knows it now");
    let status = cluster.get("DeviceStatus", "d").await.unwrap();
    let online = status.data["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Online");
    assert_eq!(online.unwrap()["status"], "Unknown");

    // The controller was started anew meanwhile; the node does not say again what it has said.
    controller.stop().await;
    let controller = cluster.controller().await;
    cluster.ready("n1", "True").await;
    cluster.until("d", "Online", "True DeviceOnline").await;
    cluster.until("d", "Ready", "True MapperServes").await;

    // A device that was deleted and made again begins anew.
    cluster.delete("Device", "d").await;
    let uid = cluster.device("d", "n1").await;
    cluster.until("d", "Online", "Unknown NotReported").await;
    let mut sink = Sink::connect(&controller).await;
    let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/d", "", works(&uid, twin("1", "20"))).await;
    assert!(committed(&outcome), "{outcome:?}");
    eventually("its status is its own", || async {
        let status = cluster.get("DeviceStatus", "d").await.unwrap();
        status.metadata.owner_references.unwrap_or_default()[0].uid == uid
    })
    .await;
    controller.stop().await;
}
