//! What a node reports of devices.

use serde_json::{Value, json};
use skerry_common::kinds::DEVICE_STATUS;

use crate::cluster::{Cluster, twin, works};
use crate::hub::{Sink, committed, later, rejected};

#[tokio::test]
async fn a_report_becomes_a_status_and_conditions() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let twins = json!([{"propertyName": "t", "reported": {"value": "21"}, "observedDesired": {"value": "20"}},
        {"propertyName": "forged", "reported": {"value": "1"}}]);
    let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/d", "", works(&uid, twins)).await;
    assert!(committed(&outcome), "{outcome:?}");

    let status = cluster.get("DeviceStatus", "d").await.unwrap();
    let owner = &status.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Device", uid.as_str(), Some(true)));
    let fields = &status.data["status"];
    assert_eq!(fields["state"], "online");
    assert_eq!(fields["twins"].as_array().unwrap().len(), 1, "only what the Device names");
    assert_eq!(fields["twins"][0]["reported"]["value"], "21");

    // `kubectl wait device/d --for=condition=Synced` returns: the generation is the one that was seen.
    for (condition, want) in
        [("Ready", "True MapperServes"), ("Online", "True DeviceOnline"), ("Synced", "True AllSynced")]
    {
        assert_eq!(cluster.condition("d", condition).await, want);
    }
    let device = cluster.get("Device", "d").await.unwrap();
    let generation = json!(device.metadata.generation.unwrap());
    assert_eq!(device.data["status"]["observedGeneration"], generation);
    assert_eq!(device.data["status"]["conditions"][0]["observedGeneration"], generation);
    assert_eq!(device.data["status"]["state"], "online");
    assert_eq!(device.data["status"]["lastOnlineTime"], "2026-01-01T00:00:00Z");
    crate::cluster::eventually("an Event", || async { cluster.events().await.contains(&"DeviceOnline".to_owned()) })
        .await;

    // A new desired value: what the node said is about the old one.
    cluster.patch("Device", "d", json!({"spec": {"properties": [{"name": "t", "desired": {"value": "30"}}]}})).await;
    cluster.until("d", "Synced", "False DesiredPending").await;
    let outcome = sink.report("n1", 1, DEVICE_STATUS, "default/d", "", works(&uid, twin("30", "30"))).await;
    assert!(committed(&outcome), "{outcome:?}");
    assert_eq!(cluster.condition("d", "Synced").await, "True AllSynced");
    controller.stop().await;
}

#[tokio::test]
async fn values_wait_for_their_turn_and_states_do_not() {
    let cluster = Cluster::start().await;
    let uid = cluster.device("d", "n1").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let mut report = async |body: Value| sink.report("n1", 1, DEVICE_STATUS, "default/d", "", body).await;
    assert!(committed(&report(works(&uid, twin("1", "20"))).await), "the first value is written at once");
    assert!(committed(&report(works(&uid, twin("1", "20"))).await), "the same again needs no write");
    let before = cluster.get("DeviceStatus", "d").await.unwrap().metadata.resource_version;
    for value in 2..100 {
        let outcome = report(works(&uid, twin(&value.to_string(), "20"))).await;
        assert!(later(&outcome), "{value}: {outcome:?}");
    }
    let after = cluster.get("DeviceStatus", "d").await.unwrap().metadata.resource_version;
    assert_eq!(before, after, "nothing was written");
    let mut offline = works(&uid, twin("100", "20"));
    offline["status"]["state"] = "offline".into();
    offline["status"]["conditions"][1] = json!({"type": "Online", "status": "False", "reason": "DeviceOffline"});
    assert!(committed(&report(offline).await), "a state is written at once");
    let status = cluster.get("DeviceStatus", "d").await.unwrap();
    assert_eq!(status.data["status"]["twins"][0]["reported"]["value"], "100", "with the newest value");
    assert_eq!(cluster.condition("d", "Online").await, "False DeviceOffline");
    assert!(controller.metrics.encode().contains("skerry_devicecontroller_coalesced_total 98"));
    controller.stop().await;
}

#[tokio::test]
async fn a_node_reports_only_its_own_devices() {
    let cluster = Cluster::start().await;
    let mine = cluster.device("mine", "n1").await;
    let other = cluster.device("other", "n2").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let value = twin("1", "20");
    for (what, node, key, uid) in [
        ("a device of another node", "n1", "default/other", other.as_str()),
        ("its own device, by another node", "n2", "default/mine", mine.as_str()),
        ("a device that does not exist", "n1", "default/none", mine.as_str()),
        ("an earlier device of the name", "n1", "default/mine", "0-0"),
        ("no uid", "n1", "default/mine", ""),
        ("another namespace", "n1", "kube-system/mine", mine.as_str()),
    ] {
        let outcome = sink.report(node, 1, DEVICE_STATUS, key, "", works(uid, value.clone())).await;
        assert!(rejected(&outcome), "{what}: {outcome:?}");
    }
    let two = sink.report("n1", 1, DEVICE_STATUS, "default/mine", "0-0", works(&mine, value.clone())).await;
    assert!(rejected(&two), "two uids: {two:?}");
    let kind = sink.report("n1", 1, "PodStatus", "default/mine", "", works(&mine, value.clone())).await;
    assert!(rejected(&kind), "a kind of another sink: {kind:?}");
    let garbage = json!({"metadata": {"uid": mine}, "status": {"twins": 7}});
    assert!(rejected(&sink.report("n1", 1, DEVICE_STATUS, "default/mine", "", garbage).await));
    assert!(
        cluster.get("DeviceStatus", "mine").await.is_none() && cluster.get("DeviceStatus", "other").await.is_none()
    );

    // Reassigned: the old node is too late.
    assert!(committed(&sink.report("n1", 1, DEVICE_STATUS, "default/mine", "", works(&mine, value.clone())).await));
    cluster.patch("Device", "mine", json!({"spec": {"nodeName": "n2"}})).await;
    cluster.until("mine", "Online", "Unknown NodeNotFound").await;
    assert!(rejected(&sink.report("n1", 1, DEVICE_STATUS, "default/mine", "", works(&mine, value.clone())).await));

    // A session that is not the newest.
    assert!(rejected(&sink.report("n1", 7, DEVICE_STATUS, "default/none", "", works(&mine, value.clone())).await));
    assert!(later(&sink.report("n1", 6, DEVICE_STATUS, "default/none", "", works(&mine, value)).await));
    controller.stop().await;
}
