//! Reports up: what reaches the API, and what a node may not write.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::cluster::{Cluster, eventually};
use crate::hub::{Registry, Sink, Source, committed, later, rejected};

fn ready(status: &str) -> serde_json::Value {
    json!({"status": {
        "conditions": [{"type": "Ready", "status": status, "reason": "EdgeReady", "message": "m",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "capacity": {"cpu": "2"},
    }})
}

async fn register(sink: &mut Sink, node: &str, session: u64) {
    let body = json!({
        "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node, "node-role.kubernetes.io/edge": "",
            "node-role.kubernetes.io/control-plane": "", "site": "lab"}},
        "spec": {"taints": [{"key": "edge", "effect": "NoSchedule"}]},
    });
    assert!(committed(&sink.report(node, session, "NodeRegistration", node, "", body).await));
}

#[tokio::test]
async fn a_node_registers_and_reports() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    assert!(later(&sink.report("n1", 1, "NodeStatus", "n1", "", ready("True")).await), "not registered yet");
    register(&mut sink, "n1", 1).await;
    let node = cluster.get("Node", "", "n1").await.unwrap();
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels.get("site").unwrap(), "lab");
    assert!(labels.contains_key("node-role.kubernetes.io/edge"));
    assert!(!labels.contains_key("node-role.kubernetes.io/control-plane"), "not a node's to set");
    assert!(node.data["spec"]["taints"].to_string().contains("\"edge\""));

    // Again, with a label that somebody else set meanwhile: it stays.
    cluster.patch("Node", "", "n1", json!({"metadata": {"labels": {"team": "x"}}})).await;
    register(&mut sink, "n1", 1).await;
    assert_eq!(cluster.get("Node", "", "n1").await.unwrap().metadata.labels.unwrap().get("team").unwrap(), "x");

    // The conditions of others stay as well.
    let others = json!({"conditions": [{"type": "NetworkUnavailable", "status": "False"}]});
    cluster.patch_status("Node", "", "n1", others).await;
    assert!(committed(&sink.report("n1", 1, "NodeStatus", "n1", "", ready("True")).await));
    let status = cluster.get("Node", "", "n1").await.unwrap().data["status"].clone();
    let text = status["conditions"].to_string();
    assert!(text.contains("NetworkUnavailable") && text.contains("EdgeReady"), "{text}");

    let uid = cluster.pod("web", "n1").await;
    let running = json!({"metadata": {"uid": uid}, "status": {"phase": "Running", "podIP": "10.1.0.2",
        "podIPs": [{"ip": "10.1.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}});
    assert!(committed(&sink.report("n1", 1, "PodStatus", "default/web", &uid, running.clone()).await));
    let status = cluster.get("Pod", "default", "web").await.unwrap().data["status"].clone();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.1.0.2"}]));

    // The same report again costs no write.
    let mut quiet = false;
    for _ in 0..50 {
        let patches = cluster.faults.calls("PATCH pods");
        assert!(committed(&sink.report("n1", 1, "PodStatus", "default/web", &uid, running.clone()).await));
        quiet = cluster.faults.calls("PATCH pods") == patches;
        if quiet {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(quiet, "an unchanged status is written again and again");

    let event = json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid},
        "reason": "Started", "message": "started c", "type": "Normal", "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"});
    for _ in 0..2 {
        assert!(committed(&sink.report("n1", 1, "Event", "default/web.1", "", event.clone()).await));
    }
    let event = cluster.get("Event", "default", "web.1").await.unwrap();
    assert_eq!(event.data["reason"], "Started");
    assert_eq!(event.data["source"]["host"], "n1");
    assert_eq!(event.data["count"], 1, "the same report twice counts once");

    assert!(committed(&sink.report("n1", 1, "PodDeletion", "default/web", &uid, json!(null)).await));
    assert!(cluster.get("Pod", "default", "web").await.is_none());
    assert!(committed(&sink.report("n1", 1, "PodDeletion", "default/web", &uid, json!(null)).await), "idempotent");
    controller.stop().await;
}

/// A3: a node writes only what is its own (case 20).
#[tokio::test]
async fn a_node_cannot_write_for_another() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    register(&mut sink, "n1", 1).await;
    register(&mut sink, "n2", 1).await;
    let uid = cluster.pod("web", "n1").await;
    let status = json!({"metadata": {"uid": uid}, "status": {"phase": "Failed"}});
    let event = |kind: &str, name: &str| {
        json!({"involvedObject": {"kind": kind, "namespace": if kind == "Node" { "" } else { "default" }, "name": name},
            "reason": "x", "message": "y"})
    };
    for (kind, key, uid, body) in [
        ("NodeRegistration", "n1", "", json!({"metadata": {"labels": {"site": "stolen"}}})),
        ("NodeStatus", "n1", "", ready("False")),
        ("PodStatus", "default/web", uid.as_str(), status),
        ("PodDeletion", "default/web", uid.as_str(), json!(null)),
        ("Event", "default/web.9", "", event("Pod", "web")),
        ("Event", "n1.9", "", event("Node", "n1")),
        ("Event", "x.9", "", event("Deployment", "x")),
        ("Event", "kube-system/web.9", "", event("Pod", "web")),
    ] {
        let result = sink.report("n2", 1, kind, key, uid, body).await;
        assert!(rejected(&result), "{kind} {key}: {result:?}");
    }
    // An Event of its own, under the name of another's.
    assert!(committed(&sink.report("n1", 1, "Event", "default/n1.1", "", event("Node", "n1")).await));
    assert!(rejected(&sink.report("n2", 1, "Event", "default/n1.1", "", event("Node", "n2")).await));
    assert!(cluster.get("Pod", "default", "web").await.is_some());
    let node = cluster.get("Node", "", "n1").await.unwrap();
    assert_eq!(node.metadata.labels.unwrap().get("site").unwrap(), "lab");
    // It is told.
    eventually("an Event says so", || async {
        cluster.list("Event", "default").await.iter().any(|e| e.data["reason"] == "ReportRejected")
    })
    .await;
    controller.stop().await;
}

#[tokio::test]
async fn a_report_about_a_pod_that_was_replaced_changes_nothing_and_the_node_is_told() {
    let cluster = Cluster::start().await;
    cluster.config_map("cm", "1").await;
    let old = cluster.pod("web", "n1").await;
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.in_sync().await;
    cluster.delete("Pod", "default", "web").await;
    let new = cluster.pod("web", "n1").await;
    let mut sink = Sink::connect(&controller).await;
    let status = json!({"metadata": {"uid": old}, "status": {"phase": "Failed"}});
    assert!(committed(&sink.report("n1", 1, "PodStatus", "default/web", &old, status).await));
    assert!(committed(&sink.report("n1", 1, "PodDeletion", "default/web", &old, json!(null)).await));
    let pod = cluster.get("Pod", "default", "web").await.unwrap();
    assert_eq!(pod.metadata.uid.as_deref(), Some(new.as_str()));
    assert_ne!(pod.data["status"]["phase"], "Failed");
    hub.until("the new pod arrives", |h| {
        h.subs[&1].objects.get("default/web").is_some_and(|(_, body)| body["metadata"]["uid"] == json!(new))
    })
    .await;
    controller.stop().await;
}

/// N7: nothing is committed that the API does not have.
#[tokio::test]
async fn while_the_api_is_down_reports_are_postponed() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    register(&mut sink, "n1", 1).await;
    cluster.faults.down.store(true, Ordering::SeqCst);
    assert!(later(&sink.report("n1", 1, "NodeStatus", "n1", "", ready("True")).await));
    cluster.faults.down.store(false, Ordering::SeqCst);
    assert!(committed(&sink.report("n1", 1, "NodeStatus", "n1", "", ready("True")).await));
    controller.stop().await;
}

/// The link was away for long, and comes back.
#[tokio::test]
async fn a_node_that_was_given_up_is_ready_again_when_it_is_back() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    register(&mut sink, "n1", 1).await;
    assert!(committed(&sink.report("n1", 1, "NodeStatus", "n1", "", ready("True")).await));
    let unknown = json!({"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]});
    cluster.patch_status("Node", "", "n1", unknown).await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 2, "Node", &[]).await;
    hub.until("the node learns it", |h| {
        h.subs[&1].objects.get("n1").is_some_and(|(_, body)| body["status"]["conditions"][0]["status"] == "Unknown")
    })
    .await;
    let registry = Registry::connect(&controller, "hub-1").await;
    registry.joined("n1", 2).await;
    eventually("the node is ready", || async {
        let node = cluster.get("Node", "", "n1").await.unwrap();
        let conditions = node.data["status"]["conditions"].as_array().unwrap().clone();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
    .await;
    controller.stop().await;
}
