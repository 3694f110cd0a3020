//! Resources of several containers of one pod, changed at once and in place.

use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, condition};

/// Requests and limits of one container.
type Amounts = (Value, Value);

fn guaranteed(cpu: &str, memory: &str) -> Amounts {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    (amounts.clone(), amounts)
}

fn burstable(requests: Value, limits: Value) -> Amounts {
    (requests, limits)
}

fn resources((requests, limits): &Amounts) -> Value {
    let mut out = json!({});
    for (field, map) in [("requests", requests), ("limits", limits)] {
        if map.as_object().is_some_and(|m| !m.is_empty()) {
            out[field] = map.clone();
        }
    }
    out
}

fn spec(all: &[Amounts]) -> Value {
    let one = |(index, amounts): (usize, &Amounts)| json!({ "name": format!("c{index}"), "image": IMAGE, "command": ["/bin/sleep", "1000"], "resources": resources(amounts) });
    let containers: Vec<Value> = all.iter().enumerate().map(one).collect();
    json!({ "terminationGracePeriodSeconds": 0, "containers": containers })
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_many_containers_change_at_once() {
    let node = Node::start().await;
    let three = |all: [(&str, &str); 3]| all.map(|(cpu, memory)| guaranteed(cpu, memory)).to_vec();
    let start = || three([("40m", "32Mi"), ("40m", "32Mi"), ("40m", "32Mi")]);
    let small = || json!({ "cpu": "10m", "memory": "16Mi" });
    let large = || json!({ "cpu": "80m", "memory": "64Mi" });
    let none = || json!({});
    let six = vec![
        burstable(small(), none()),
        burstable(small(), large()),
        burstable(json!({ "cpu": "10m" }), none()),
        burstable(json!({ "memory": "16Mi" }), none()),
        burstable(none(), none()),
        burstable(small(), large()),
    ];
    let changed = vec![
        burstable(json!({ "cpu": "20m", "memory": "24Mi" }), none()),
        burstable(small(), json!({ "cpu": "60m", "memory": "96Mi" })),
        burstable(json!({ "cpu": "10m" }), json!({ "cpu": "50m" })),
        burstable(json!({ "memory": "16Mi" }), json!({ "memory": "48Mi" })),
        burstable(json!({ "cpu": "10m" }), none()),
        burstable(json!({ "cpu": "15m", "memory": "24Mi" }), large()),
    ];
    let cases = [
        ("up", start(), three([("80m", "64Mi"), ("60m", "48Mi"), ("20m", "24Mi")])),
        ("down", start(), three([("50m", "40Mi"), ("20m", "24Mi"), ("20m", "24Mi")])),
        ("mixed", start(), three([("80m", "32Mi"), ("20m", "48Mi"), ("80m", "48Mi")])),
        ("six", six, changed),
        (
            "equal",
            three([("0.04", "32Mi"), ("40m", "32Mi"), ("40m", "32Mi")]),
            three([("40m", "33554432"), ("0.04", "32Mi"), ("40m", "32Mi")]),
        ),
    ];
    for (name, before, _) in &cases {
        node.put_pod(name, name, spec(before));
    }
    for (name, _, after) in &cases {
        let first = node.until_running(name).await;
        let mut pod = node.hub.get(kinds::POD, "test", name).unwrap();
        for (index, amounts) in after.iter().enumerate() {
            pod["spec"]["containers"][index]["resources"] = resources(amounts);
        }
        pod["metadata"]["generation"] = 2.into();
        node.hub.put(kinds::POD, "test", name, pod);
        // The containers' statuses are in the order of their names.
        let ids = |s: &Value| -> Vec<Value> {
            s["containerStatuses"].as_array().unwrap().iter().map(|c| c["containerID"].clone()).collect()
        };
        let given = |s: &Value| {
            let all = s["containerStatuses"].as_array().unwrap();
            all.iter().zip(after).all(|(c, amounts)| *name == "equal" || c["resources"] == resources(amounts))
        };
        let done =
            |s: &Value| s["observedGeneration"] == 2 && given(s) && condition(s, "PodResizeInProgress").is_empty();
        let second = node.until(name, "the change", done).await;
        assert_eq!(ids(&second), ids(&first), "{name}: in place");
        assert_eq!(condition(&second, "PodResizePending"), "", "{name}");
        if *name == "up" {
            let id = second["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
            let info = node.ctr(&["containers", "info", id.trim_start_matches("containerd://")]);
            assert!(info.contains("\"quota\": 8000") && info.contains(&format!("\"limit\": {}", 64 << 20)), "{info}");
        }
    }
}
