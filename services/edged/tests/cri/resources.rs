//! Requests and limits as the kernel sees them, in either version of control groups.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::node::{IMAGE, Node, POD_PIDS, find_paths, wait};

fn sleeper(name: &str, resources: &Value) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["/bin/sleep", "3600"], "resources": resources})
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The directory of a group below the node's root, in the hierarchy of a controller.
fn group(node: &Node, controller: &str, below: &str) -> PathBuf {
    let top = Path::new("/sys/fs/cgroup");
    let top = if is_unified() { top.to_owned() } else { top.join(controller) };
    top.join(node.containerd.cgroup_root()).join(below)
}

/// A file of a group. Files are named `controller/name` of version 1 and of version 2.
fn value(node: &Node, below: &str, v1: &str, v2: &str) -> String {
    let name = if is_unified() { v2 } else { v1 };
    let controller = name.split('.').next().unwrap();
    let path = group(node, controller, below).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// Memory that means "no limit" is a huge number in version 1.
fn memory(node: &Node, below: &str) -> Option<u64> {
    let text = value(node, below, "memory.limit_in_bytes", "memory.max");
    text.parse().ok().filter(|v| *v < 1 << 60)
}

fn quota(node: &Node, below: &str) -> Option<u64> {
    let text = value(node, below, "cpu.cfs_quota_us", "cpu.max");
    text.split(' ').next().unwrap().parse().ok()
}

fn shares(node: &Node, below: &str) -> u64 {
    let got: u64 = value(node, below, "cpu.shares", "cpu.weight").parse().unwrap();
    // The weight of version 2 is coarse; back to the nearest shares that give it.
    if is_unified() { 2 + (got - 1) * 262_142 / 9_999 } else { got }
}

fn near(got: u64, want: u64) -> bool {
    got == want || (is_unified() && got.abs_diff(want) <= 27)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_kernel_and_nothing_is_left_of_them() {
    let mut node = Node::start().await;
    let spec = |containers: Value| json!({"terminationGracePeriodSeconds": 0, "containers": containers});
    let guaranteed = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
    let request = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "16Mi"}, "limits": {"memory": "32Mi"}});
    node.put_pod("guaranteed", "uid-g", spec(json!([sleeper("a", &guaranteed), sleeper("b", &guaranteed)])));
    node.put_pod("burstable", "uid-b", spec(json!([sleeper("a", &request("250m")), sleeper("b", &request("250m"))])));
    // A container without a limit may use what the machine has.
    node.put_pod("half", "uid-h", spec(json!([sleeper("a", &request("100m")), sleeper("b", &json!({}))])));
    node.put_pod("none", "uid-n", spec(json!([sleeper("a", &json!({}))])));
    let mut with_overhead = spec(json!([sleeper("a", &request("100m"))]));
    with_overhead["overhead"] = json!({"cpu": "100m", "memory": "8Mi"});
    node.put_pod("overhead", "uid-o", with_overhead);
    let mut whole = spec(json!([sleeper("a", &json!({}))]));
    whole["resources"] = json!({"limits": {"cpu": "500m", "memory": "128Mi"}});
    node.put_pod("whole", "uid-w", whole);

    let pods = [
        ("uid-g", "Guaranteed", "poduid-g", 204, Some(20_000), Some(128 << 20)),
        ("uid-b", "Burstable", "burstable/poduid-b", 512, None, Some(64 << 20)),
        ("uid-h", "Burstable", "burstable/poduid-h", 102, None, None),
        ("uid-n", "BestEffort", "besteffort/poduid-n", 2, None, None),
        ("uid-o", "Burstable", "burstable/poduid-o", 204, None, Some(40 << 20)),
        ("uid-w", "Guaranteed", "poduid-w", 512, Some(50_000), Some(128 << 20)),
    ];
    for (uid, class, group, cpu, limit, bytes) in pods {
        let status = node.until_running(uid).await;
        assert_eq!(status["qosClass"], class, "{uid}");
        assert!(near(shares(&node, group), cpu), "{uid}: {}", shares(&node, group));
        assert_eq!((quota(&node, group), memory(&node, group)), (limit, bytes), "{uid}");
        assert_eq!(value(&node, group, "pids.max", "pids.max"), POD_PIDS.to_string(), "{uid}");
    }
    // Classes: best effort gets what is left, burstable pods what they ask for together.
    assert_eq!(shares(&node, "besteffort"), 2);
    assert!(near(shares(&node, "burstable"), 819), "{}", shares(&node, "burstable"));

    // A container in its pod.
    let status = node.status("uid-b");
    let id = |name: &str| -> String {
        let all = status["containerStatuses"].as_array().unwrap();
        let of = all.iter().find(|c| c["name"] == name).unwrap();
        of["containerID"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let a = format!("burstable/poduid-b/{}", id("a"));
    assert!(near(shares(&node, &a), 256), "{}", shares(&node, &a));
    assert_eq!((quota(&node, &a), memory(&node, &a)), (None, Some(32 << 20)));
    // Without swap.
    let swap = value(&node, &a, "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert_eq!(swap, if is_unified() { "0".to_owned() } else { (32 << 20).to_string() });

    // The next agent gives the class the same, and a pod that goes takes its part with it.
    node.kill_agent().await;
    node.start_agent().await;
    node.hub.delete(skerry_common::kinds::POD, "test", "half");
    let alone = || near(shares(&node, "burstable"), 716);
    wait("the class's share", alone, || shares(&node, "burstable").to_string()).await;

    for name in ["guaranteed", "burstable", "none", "overhead", "whole"] {
        node.delete_gracefully(name, 0);
    }
    for (uid, ..) in pods.iter().filter(|p| p.0 != "uid-h") {
        node.until_deleted(uid).await;
    }
    let top = Path::new("/sys/fs/cgroup");
    let left = || -> Vec<PathBuf> {
        let mut left = find_paths(top, "poduid-", 4);
        left.retain(|p| p.display().to_string().contains(&format!("/{}/", node.containerd.cgroup_root())));
        left
    };
    // Of a pod whose object is gone nothing is reported: it is not known when it has ended.
    wait("the groups to go", || left().is_empty(), || format!("{:#?}", left())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_above_its_memory_is_killed_and_says_so() {
    let node = Node::start().await;
    let eater = json!({"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", "tail /dev/zero"],
                       "resources": {"limits": {"memory": "16Mi"}}});
    node.put_pod("eater", "uid-e", json!({"restartPolicy": "Never", "containers": [eater]}));
    let status = node.until("uid-e", "the end", |s| s["phase"] == "Failed").await;
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{ended}");
    // The pod stays to be looked at; its group in the kernel does not.
    let left = group(&node, "memory", "burstable/poduid-e");
    wait("the group's end", || !left.exists(), || left.display().to_string()).await;
    assert_eq!(node.status("uid-e")["phase"], "Failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_found_by_the_next_agent() {
    let mut node = Node::start().await;
    node.kill_agent().await;
    // As after a crash between the group and the sandbox of a pod that was deleted meanwhile.
    let left = group(&node, "cpu", "burstable/podleft-over");
    fs::create_dir_all(&left).unwrap();
    fs::create_dir_all(node.root().join("pods/left-over")).unwrap();
    node.start_agent().await;
    let gone = || !left.exists() && !node.root().join("pods/left-over").exists();
    wait("the sweep", gone, || left.display().to_string()).await;
}
