//! What a stop of the agent does to pods: nothing, unless the machine goes down.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::SignedDuration;
use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, condition, wait};

/// A systemctl that says what a test wants.
fn says(dir: &Path, state: &str) {
    let path = dir.join("systemctl");
    fs::write(&path, format!("#!/bin/busybox sh\necho {state}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn pod(priority: i32) -> Value {
    json!({
        "terminationGracePeriodSeconds": 5, "priority": priority,
        "containers": [{"name": "c", "image": IMAGE, "command":
            ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2 & wait $!; done"]}]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_end_by_priority_when_the_machine_goes_down_and_not_before() {
    let mut node = Node::without_agent(|config| {
        config.shutdown_grace_period = SignedDuration::from_secs(20);
        config.shutdown_grace_period_critical_pods = SignedDuration::from_secs(8);
    })
    .await;
    node.systemctl = Some(node.containerd.dir().join("systemctl"));
    let dir = node.containerd.dir().to_owned();
    says(&dir, "running");
    node.start_agent().await;
    node.put_pod("plain", "uid-plain", pod(0));
    node.put_pod("critical", "uid-critical", pod(2_000_000_000));
    let started = node.until_running("uid-plain").await["containerStatuses"][0]["containerID"].clone();
    node.until_running("uid-critical").await;

    node.stop_agent().await;
    let before = node.hub.received(kinds::POD_STATUS).len();
    node.start_agent().await;
    // Each agent tells the status of every pod once at its start.
    let told = |uid: &str| node.hub.received(kinds::POD_STATUS).iter().skip(before).any(|r| r.uid == uid);
    wait("both statuses", || told("uid-plain") && told("uid-critical"), String::new).await;
    let status = node.until_running("uid-plain").await;
    assert_eq!(status["containerStatuses"][0]["containerID"], started, "a restart of the agent touches no pod");

    says(&dir, "stopping");
    node.stop_agent().await;
    for uid in ["uid-plain", "uid-critical"] {
        let status = node.status(uid);
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Terminated")), "{status:#}");
        assert_eq!(status["message"], "Pod was terminated in response to imminent node shutdown.");
        assert_eq!(condition(&status, "DisruptionTarget"), "True");
    }
    let end = |uid: &str| {
        let status = node.status(uid);
        status["containerStatuses"][0]["state"]["terminated"]["finishedAt"].as_str().unwrap().to_owned()
    };
    assert!(end("uid-plain") <= end("uid-critical"));
    let (status, message) = node.node_condition("Ready").unwrap();
    assert_eq!((status.as_str(), message.as_str()), ("False", "node is shutting down"));
}
