//! Mirror pods, and the conditions of a pod that others set or that its node takes back.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hub::{Sink, Source, committed, later, rejected};

fn mirror(node: &str, patch: Value) -> Value {
    let mut body = json!({
        "metadata": {"name": "web-n1", "namespace": "default", "annotations": {"kubernetes.io/config.mirror": "u1"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    });
    for (key, value) in patch.as_object().unwrap() {
        body["spec"][key] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_node_shows_its_own_static_pods_and_nothing_else() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let mut sink = Sink::connect(&controller).await;
    let report = |body: Value| ("MirrorPod", "default/web-n1", "u1", body);
    let (kind, key, uid, body) = report(mirror("n1", json!({})));
    assert!(later(&sink.report("n1", 1, kind, key, uid, body.clone()).await), "not registered yet");
    for node in ["n1", "n2"] {
        let registration = json!({"metadata": {"name": node}});
        assert!(committed(&sink.report(node, 1, "NodeRegistration", node, "", registration).await));
    }
    let secret = json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    let mut plain = mirror("n1", json!({}));
    plain["metadata"]["annotations"] = json!({});
    for (node, body) in [
        ("n2", mirror("n1", json!({}))),
        ("n1", mirror("n2", json!({}))),
        ("n1", mirror("n1", secret)),
        ("n1", mirror("n1", json!({"serviceAccountName": "default"}))),
        ("n1", plain),
    ] {
        assert!(rejected(&sink.report(node, 1, kind, key, uid, body.clone()).await), "{node} {body}");
        assert!(cluster.get("Pod", "default", "web-n1").await.is_none());
    }
    for _ in 0..2 {
        assert!(committed(&sink.report("n1", 1, kind, key, uid, body.clone()).await), "also again");
    }
    let pod = cluster.get("Pod", "default", "web-n1").await.unwrap();
    let owner = pod.metadata.owner_references.unwrap().pop().unwrap();
    let node = cluster.get("Node", "", "n1").await.unwrap();
    assert_eq!((owner.kind.as_str(), Some(owner.uid)), ("Node", node.metadata.uid));
    assert!(pod.data["spec"].get("serviceAccountName").is_none() && pod.data["spec"].get("volumes").is_none());
    // Another node cannot take the name.
    assert!(rejected(&sink.report("n2", 1, kind, key, uid, mirror("n2", json!({}))).await));
    // It comes down to its node, which knows it by its annotation.
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.until("the mirror", |h| h.names(1) == ["default/web-n1"]).await;
    assert_eq!(hub.body(1, "default/web-n1")["metadata"]["annotations"]["kubernetes.io/config.mirror"], "u1");
    controller.stop().await;
}

#[tokio::test]
async fn conditions_of_readiness_gates_go_down_and_stay_in_the_api() {
    let cluster = Cluster::start().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gated"},
        "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "example.com/lb"}],
            "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}]},
    });
    let uid = cluster.create("Pod", "default", pod).await.metadata.uid.unwrap();
    let controller = cluster.controller().await;
    let mut hub = Source::connect(&controller).await;
    hub.open(1, "n1", 1, "Pod", &[]).await;
    hub.in_sync().await;
    let gate = json!({"type": "example.com/lb", "status": "True"});
    cluster.patch_status("Pod", "default", "gated", json!({"conditions": [gate]})).await;
    hub.until("the gate", |h| h.body(1, "default/gated")["status"] == json!({"conditions": [gate]})).await;
    let mut sink = Sink::connect(&controller).await;
    let conditions = async || {
        let pod = cluster.get("Pod", "default", "gated").await.unwrap();
        let all = pod.data["status"]["conditions"].as_array().unwrap().clone();
        all.iter().map(|c| c["type"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    for (report, want) in [
        (json!([{"type": "Ready", "status": "True"}, {"type": "PodResizePending", "status": "True"}]), 3),
        (json!([{"type": "Ready", "status": "True"}]), 2),
    ] {
        let body = json!({"metadata": {"uid": uid}, "status": {"phase": "Running", "conditions": report}});
        assert!(committed(&sink.report("n1", 1, "PodStatus", "default/gated", &uid, body).await));
        let found = conditions().await;
        assert!(found.contains("example.com/lb"), "{found:?}");
        assert_eq!(found.iter().filter(|c| *c != "PodScheduled").count(), want, "{found:?}");
    }
    controller.stop().await;
}
