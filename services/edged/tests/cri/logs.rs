//! Rotation of logs and the links to them.

use std::collections::BTreeSet;
use std::fs;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use crate::node::{IMAGE, Node, wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_rotated_compressed_linked_and_removed_with_its_pod() {
    let node = Node::start_with(|config| {
        config.container_log_max_size = Quantity("8Ki".into());
        config.container_log_max_files = 3;
    })
    .await;
    let script = "n=0; while true; do n=$((n+1)); echo line-$n-$(printf '%0200d' 0); sleep 0.05; done";
    node.put_pod(
        "p",
        "uid-1",
        json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script]}]
        }),
    );
    let status = node.until_running("uid-1").await;
    let id =
        status["containerStatuses"][0]["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned();
    let link = node.links().join(format!("p_test_c-{id}.log"));
    let dir = node.logs().join("test_p_uid-1/c");
    assert_eq!(fs::read_link(&link).unwrap(), dir.join("0.log"));
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let state = || format!("{:?}", names());
    wait("compression", || names().iter().any(|n| n.ends_with(".gz")), state).await;
    assert!(names().len() <= 4, "three, and one that is being compressed: {:?}", names());
    // The runtime writes on, into the new file that the link shows.
    let last = || fs::read_to_string(&link).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
    let before = last();
    wait("more lines", || !last().is_empty() && last() != before, last).await;
    node.delete_gracefully("p", 0);
    node.until_deleted("uid-1").await;
    assert!(!dir.exists() && fs::symlink_metadata(&link).is_err());
}
