//! Presence, leases and fencing (cases 3 and 13).

use std::time::Duration;

use serde_json::json;
use skerry_proto::hub::v1::registry_update;
use skerry_proto::sync::v1::CloseCode;

use crate::cluster::{Cluster, eventually};
use crate::hub::{Registry, Sink, Source, committed, later};

fn registration(node: &str) -> serde_json::Value {
    json!({"metadata": {"name": node, "labels": {"site": "lab"}}})
}

#[tokio::test]
async fn the_newer_session_wins_and_the_older_can_write_nothing() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let (mut old, mut new) = (Source::connect(&controller).await, Source::connect(&controller).await);
    old.open(1, "n1", 5, "Pod", &[]).await;
    old.in_sync().await;
    let mut old_sink = Sink::connect(&controller).await;
    assert!(committed(&old_sink.report("n1", 5, "NodeRegistration", "n1", "", registration("n1")).await));

    let mut old_hub = Registry::connect(&controller, "hub-old").await;
    old_hub.joined("n1", 5).await;
    new.open(1, "n1", 6, "Pod", &[]).await;
    new.in_sync().await;
    old.until("the older is closed", |h| h.subs[&1].closed.is_some()).await;
    let closed = old.subs[&1].closed.clone().unwrap();
    assert_eq!((closed.code(), closed.newest_session), (CloseCode::StaleSession, 6));
    let fence = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Some(registry_update::Message::Fence(fence)) = old_hub.rx.message().await.unwrap().unwrap().message {
                return fence;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!((fence.node.as_str(), fence.session), ("n1", 6));

    // The older comes back from its pause.
    assert!(later(&old_sink.report("n1", 5, "NodeRegistration", "n1", "", registration("n1")).await));
    old.open(2, "n1", 5, "Pod", &[]).await;
    old.until("it is closed at once", |h| h.subs[&2].closed.is_some()).await;
    assert!(new.subs[&1].closed.is_none());
    controller.stop().await;
}

#[tokio::test]
async fn a_fence_survives_a_restart_and_holds_at_another_replica() {
    let cluster = Cluster::start().await;
    let first = cluster.controller().await;
    let second = cluster.controller().await;
    let mut sink = Sink::connect(&first).await;
    assert!(committed(&sink.report("n1", 9, "NodeRegistration", "n1", "", registration("n1")).await));
    // The other replica was started before and has not heard of session 9.
    let mut other = Sink::connect(&second).await;
    assert!(later(&other.report("n1", 8, "NodeRegistration", "n1", "", registration("n1")).await));
    first.stop().await;

    let third = cluster.controller().await;
    let mut sink = Sink::connect(&third).await;
    assert!(later(&sink.report("n1", 8, "NodeRegistration", "n1", "", registration("n1")).await));
    assert!(committed(&sink.report("n1", 9, "NodeRegistration", "n1", "", registration("n1")).await));
    third.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn connected_nodes_have_their_leases_renewed() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let registry = Registry::connect(&controller, "hub-1").await;
    registry.joined("n1", 7).await;
    let lease = || async { cluster.get("Lease", "kube-node-lease", "n1").await };
    eventually("there is a lease", || async { lease().await.is_some() }).await;
    let found = lease().await.unwrap();
    assert_eq!(found.data["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(found.metadata.annotations.unwrap()["skerry.io/session"], "7");
    let renewed = found.data["spec"]["renewTime"].clone();
    eventually("it is renewed", || async { lease().await.unwrap().data["spec"]["renewTime"] != renewed }).await;
    registry.left("n1", 0).await;
    controller.stop().await;
}
