//! Many pods through one agent leave the agent and the machine as they were.
//!
//! The short form compares exactly; `make bench-wear` measures memory over thousands of pods.

use std::fs;
use std::time::Duration;

use serde_json::json;
use skerry_common::kinds;

use crate::left::Places;
use crate::node::{IMAGE, Node, wait};

/// Pods in all, so many at a time.
const PODS: usize = 60;
const AT_A_TIME: usize = 10;

/// What this process holds when no pod is on the node.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    tasks: usize,
}

fn held() -> Held {
    Held {
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    }
}

/// Uids begin with this; another process may run the same test.
fn uids() -> String {
    format!("wear{}", std::process::id())
}

async fn through(node: &Node, from: usize, to: usize) {
    let uid = |i: usize| format!("{}-{i}", uids());
    for i in from..to {
        let container = json!({
            "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait $!"],
            "volumeMounts": [{ "name": "s", "mountPath": "/s" }, { "name": "m", "mountPath": "/m" }],
        });
        let volumes = json!([
            { "name": "s", "secret": { "secretName": "s" } },
            { "name": "m", "emptyDir": { "medium": "Memory" } },
        ]);
        let spec = json!({ "terminationGracePeriodSeconds": 5, "containers": [container], "volumes": volumes });
        node.put_pod(&format!("p{i}"), &uid(i), spec);
    }
    for i in from..to {
        node.until_running(&uid(i)).await;
    }
    for i in from..to {
        node.delete_gracefully(&format!("p{i}"), 5);
    }
    for i in from..to {
        node.until_deleted(&uid(i)).await;
        node.hub.delete(kinds::POD, "test", &format!("p{i}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_leave_no_file_mount_group_task_or_descriptor() {
    let mut node = Node::start().await;
    let places = Places::of(&mut node.containerd);
    node.hub.put(kinds::SECRET, "test", "s", json!({ "data": { "key": "c2VjcmV0" } }));
    through(&node, 0, AT_A_TIME).await;
    // Threads for files end when they had nothing to do for a while; they are no tasks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = held();
    for from in (AT_A_TIME..PODS).step_by(AT_A_TIME) {
        through(&node, from, from + AT_A_TIME).await;
    }
    wait("nothing to be left", || places.left(&uids()).is_empty(), || format!("{:#?}", places.left(&uids()))).await;
    wait("tasks and descriptors to end", || held() == before, || format!("{:?}, before {before:?}", held())).await;
}
