//! N5: an empty, truncated or failed list never deletes (case 11).

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{Cluster, eventually};
use crate::hub::Source;

#[tokio::test]
async fn an_empty_relist_deletes_nothing() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    cluster.pod("web", "n1").await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.open(2, "n1", 1, "ConfigMap", &[]).await;
    hub.in_sync().await;

    for round in 0..3 {
        let before = cluster.faults.calls("GET pods");
        {
            let mut empty = cluster.faults.empty.lock().unwrap();
            let mut expired = cluster.faults.expired.lock().unwrap();
            for resource in ["pods", "configmaps"] {
                empty.insert(resource.to_owned());
                expired.insert(resource.to_owned());
            }
        }
        cluster.faults.cut_watches();
        eventually("the pods were listed and asked for", || async { cluster.faults.calls("GET pods") >= before + 4 })
            .await;
        assert_eq!(hub.quiet().await, 0, "round {round}");
    }
    cluster.faults.empty.lock().unwrap().clear();
    assert_eq!(hub.names(1), ["default/web"]);
    assert_eq!(hub.names(2), ["default/cm"]);

    // The control: what is really gone goes.
    cluster.delete("Pod", "default", "web").await;
    hub.until("the pod is gone", |h| h.names(1).is_empty() && h.names(2).is_empty()).await;
    controller.stop().await;
}

#[tokio::test]
async fn an_empty_first_list_after_a_restart_deletes_nothing() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    cluster.pod("web", "n1").await;
    cluster.pod("gone", "n1").await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.open(2, "n1", 1, "ConfigMap", &[]).await;
    hub.in_sync().await;
    let (pods, maps) = (hub.held(1), hub.held(2));
    drop(hub);
    controller.stop().await;
    cluster.delete("Pod", "default", "gone").await;

    for resource in ["pods", "configmaps"] {
        cluster.faults.empty.lock().unwrap().insert(resource.to_owned());
    }
    let controller = cluster.controller().await;
    controller.ready().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 2, "Pod", &pods).await;
    hub.open(2, "n1", 2, "ConfigMap", &maps).await;
    hub.in_sync().await;
    hub.quiet().await;
    assert_eq!(hub.names(1), ["default/web"]);
    assert_eq!(hub.names(2), ["default/cm"]);
    assert_eq!(hub.subs[&1].tombstones, ["default/gone"]);
    assert!(hub.subs[&2].tombstones.is_empty());
    controller.stop().await;
}

/// A node that lost its store opens its pods with nothing in its hands, while the API's first answer after a
/// restart of the controller is an empty list: it must not hear that this is all.
#[tokio::test]
async fn an_empty_list_is_not_complete_without_a_second_proof() {
    for emptied in [false, true] {
        let cluster = Cluster::start().await;
        cluster.config_map("cm", "1").await;
        cluster.pod("web", "n1").await;
        if emptied {
            cluster.faults.emptied.store(true, Ordering::SeqCst);
        } else {
            cluster.faults.stale.lock().unwrap().insert("pods".to_owned());
        }
        let before = cluster.faults.calls("GET pods");
        let controller = cluster.controller().await;
        let mut hub = Source::connect(&controller).await;
        hub.open(1, "n1", 1, "Pod", &[]).await;
        hub.open(2, "n1", 1, "ConfigMap", &[]).await;
        eventually("the pods were listed again", || async { cluster.faults.calls("GET pods") >= before + 2 }).await;
        assert_eq!(hub.quiet().await, 0, "emptied: {emptied}");
        cluster.faults.emptied.store(false, Ordering::SeqCst);
        cluster.faults.stale.lock().unwrap().clear();
        hub.in_sync().await;
        assert_eq!((hub.names(1), hub.names(2)), (vec!["default/web"], vec!["default/cm"]));
        controller.stop().await;
    }
}

/// The control: where the second answer says the same, the node is told that there is nothing.
#[tokio::test]
async fn control_without_a_second_proof_an_empty_list_is_complete() {
    let cluster = Cluster::start().await;
    cluster.pod("web", "n1").await;
    cluster.faults.empty.lock().unwrap().insert("pods".to_owned());
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.in_sync().await;
    assert!(hub.names(1).is_empty());
    controller.stop().await;
}

#[tokio::test]
async fn an_api_that_is_down_deletes_nothing() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    cluster.pod("web", "n1").await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.in_sync().await;
    let pods = hub.held(1);
    cluster.faults.down.store(true, Ordering::SeqCst);
    cluster.faults.cut_watches();
    drop(hub);
    let mut hub = Source::connect(&controller).await;
    let mut ghost = pods.clone();
    ghost.push(("default/ghost".to_owned(), pods[0].1.clone()));
    hub.open(1, "n1", 2, "Pod", &ghost).await;
    assert_eq!(hub.quiet().await, 0, "neither a tombstone nor in-sync while the API cannot be asked");
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.faults.down.store(false, Ordering::SeqCst);
    hub.in_sync().await;
    assert_eq!(hub.subs[&1].tombstones, ["default/ghost"]);
    cluster.patch("Pod", "default", "web", json!({"metadata": {"labels": {"a": "b"}}})).await;
    hub.until("changes flow again", |h| h.subs[&1].upserts == 1).await;
    controller.stop().await;
}
