//! Reservations, and evictions: limits of a pod's own, a full disk, too little memory.

use std::fs;
use std::path::Path;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, condition, wait};

fn pod(script: &str, extra: Value) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", format!("{script}; exec sleep 1000")],
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]
    });
    for (key, value) in extra.as_object().unwrap() {
        *spec.pointer_mut(&format!("/{key}")).unwrap() = value.clone();
    }
    spec
}

fn is_evicted(status: &Value) -> bool {
    status["phase"] == "Failed" && status["reason"] == "Evicted"
}

#[tokio::test(flavor = "multi_thread")]
async fn who_exceeds_a_limit_of_its_own_is_evicted() {
    let node = Node::start().await;
    let limit = |size: &str| json!({"volumes/0/emptyDir": {"sizeLimit": size}});
    let fill = "dd if=/dev/zero of=/v/x bs=1M count=3";
    node.put_pod("large", "uid-large", pod(fill, limit("1Mi")));
    node.put_pod("fits", "uid-fits", pod(fill, limit("10Mi")));
    let mut logs = pod("yes 'a long line of text that fills the log' | head -n 50000", limit("10Mi"));
    logs["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "1Mi"}});
    node.put_pod("logs", "uid-logs", logs);
    node.until_running("uid-fits").await;
    let status = node.until("uid-large", "eviction", is_evicted).await;
    assert_eq!(status["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    assert!(status["containerStatuses"][0]["state"]["terminated"].is_object(), "{status:#}");
    node.until_event("uid-large", "Evicted", "exceeds the limit").await;
    let status = node.until("uid-logs", "eviction", is_evicted).await;
    assert!(status["message"].as_str().unwrap().contains("ephemeral"), "{status:#}");
    assert_eq!(condition(&node.status("uid-fits"), "Ready"), "True");
    // An evicted pod goes as any other.
    node.delete_gracefully("large", 1);
    node.until_deleted("uid-large").await;
}

/// A small disk for the agent's directory.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(dir: &'a Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_who_fills_it_and_is_well_again() {
    let mut node = Node::without_agent(|config| {
        config.eviction_hard.insert("nodefs.available".into(), "32Mi".into());
        config.eviction_pressure_transition_period = SignedDuration::from_secs(2);
    })
    .await;
    let root = node.root();
    let _disk = SmallDisk::mount(&root);
    node.start_agent().await;
    node.put_pod("small", "uid-small", pod("echo small > /v/x", json!({})));
    node.until_running("uid-small").await;
    node.put_pod("hog", "uid-hog", pod("dd if=/dev/zero of=/v/x bs=1M count=40", json!({})));
    let status = node.until("uid-hog", "eviction", is_evicted).await;
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, available: "),
        "{message}"
    );
    assert_eq!(condition(&status, "DisruptionTarget"), "True");
    let has = |kind: &str, wanted: &str| node.node_condition(kind).is_some_and(|(status, _)| status == wanted);
    wait("no pressure", || has("DiskPressure", "False"), || format!("{:?}", node.node_condition("DiskPressure"))).await;
    let told = |reason: &str| !node.hub.events(&node.name, reason).is_empty();
    for reason in ["NodeHasDiskPressure", "EvictionThresholdMet", "NodeHasNoDiskPressure"] {
        wait(reason, || told(reason), || format!("{:#?}", node.all_events())).await;
    }
    assert_eq!(condition(&node.status("uid-small"), "Ready"), "True");
    node.put_pod("next", "uid-next", pod("echo next > /v/x", json!({})));
    node.until_running("uid-next").await;
    for (name, uid) in [("small", "uid-small"), ("hog", "uid-hog"), ("next", "uid-next")] {
        node.delete_gracefully(name, 0);
        node.until_deleted(uid).await;
    }
    node.kill_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_the_least_important_pod_goes_and_critical_ones_stay() {
    let mut node = Node::without_agent(|config| {
        // More than any machine has free.
        config.eviction_hard.insert("memory.available".into(), "100%".into());
    })
    .await;
    node.put_pod("plain", "uid-plain", pod("true", json!({})));
    let mut critical = pod("true", json!({}));
    critical["priority"] = 2_000_000_000.into();
    node.put_pod("critical", "uid-critical", critical);
    node.start_agent().await;
    let status = node.until("uid-plain", "eviction", is_evicted).await;
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("low on resource: memory") || message.contains("MemoryPressure"), "{message}");
    let pressed = || node.node_condition("MemoryPressure").is_some_and(|(status, _)| status == "True");
    wait("pressure", pressed, || format!("{:?}", node.node_condition("MemoryPressure"))).await;
    node.until_running("uid-critical").await;
    // The pressure stays, and so does the pod.
    let again = "EvictionThresholdMet";
    wait(again, || node.hub.events(&node.name, again).len() > 1, || format!("{:#?}", node.all_events())).await;
    assert_eq!(condition(&node.status("uid-critical"), "Ready"), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_is_not_for_pods() {
    const RESERVED: i64 = 1 << 30;
    let node = Node::start_with(|config| {
        config.kube_reserved.insert("memory".into(), Quantity("1Gi".into()));
    })
    .await;
    node.put_pod("p", "uid-p", pod("true", json!({})));
    node.until_running("uid-p").await;
    let amount = |list: &str| {
        let status = node.hub.newest(kinds::NODE_STATUS, "").unwrap();
        let text = status["status"][list]["memory"].as_str().unwrap().to_owned();
        text.trim_end_matches("Ki").parse::<i64>().unwrap() * 1024
    };
    assert_eq!(amount("capacity") - amount("allocatable"), RESERVED);
    // All pods together have no more either.
    let root = node.containerd.cgroup_root();
    let limit = || {
        let files = [format!("memory/{root}/memory.limit_in_bytes"), format!("{root}/memory.max")];
        let read = |file: &String| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok();
        files.iter().find_map(read).and_then(|text| text.trim().parse::<i64>().ok())
    };
    wait("the limit", || limit() == Some(amount("allocatable")), || format!("{:?}", limit())).await;
}
