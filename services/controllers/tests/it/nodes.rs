//! Nodes that go silent, come back, and go for good.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use skerry_controllers::Options;

use crate::cluster::{Cluster, condition, fast, start_with, until};

fn pod(name: &str, node: &str, toleration: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "nodeName": node, "containers": [{"name": "c", "image": "v1"}], "tolerations": toleration}})
}

fn tolerate(seconds: Option<i64>) -> Value {
    json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}])
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut out: Vec<_> =
        taints.iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect)).collect();
    out.sort();
    out
}

fn ready(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status).unwrap_or_default()
}

async fn becomes(c: &Cluster, name: &str, status: &str, wanted: &[&str]) {
    until(&format!("{name} is {status} with {wanted:?}"), async || {
        let node = c.nodes().get(name).await.unwrap();
        (ready(&node) == status && taints(&node) == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_only_what_does_not_tolerate_it() {
    let c = start_with(fast()).await;
    c.node("n1").await;
    c.node("n2").await;
    c.create::<Pod>(pod("short", "n1", tolerate(Some(1)))).await;
    c.create::<Pod>(pod("long", "n1", tolerate(Some(3600)))).await;
    c.create::<Pod>(pod("ever", "n1", tolerate(None))).await;
    c.create::<Pod>(pod("other", "n2", tolerate(Some(0)))).await;
    for name in ["short", "long", "ever", "other"] {
        c.running(&format!("app={name}"), 1).await;
    }
    c.cut("n1");
    becomes(&c, "n1", "Unknown", &["unreachable:NoExecute", "unreachable:NoSchedule"]).await;
    until("the impatient pod is evicted", async || {
        c.pod("short").await.metadata.deletion_timestamp.is_some().then_some(())
    })
    .await;
    assert_eq!(condition(&c.pod("short").await, "DisruptionTarget").1, "DeletionByTaintManager");
    until("the others are not ready", async || {
        let (a, b) = (c.pod("long").await, c.pod("ever").await);
        (condition(&a, "Ready").0 == "False" && condition(&b, "Ready").0 == "False").then_some(())
    })
    .await;
    for name in ["long", "ever", "other"] {
        assert!(c.pod(name).await.metadata.deletion_timestamp.is_none(), "{name} stays");
    }
    c.mend("n1").await;
    becomes(&c, "n1", "True", &[]).await;
    becomes(&c, "n2", "True", &[]).await;
    for name in ["long", "ever", "other"] {
        until(&format!("{name} is ready"), async || {
            let pod = c.pod(name).await;
            assert!(pod.metadata.deletion_timestamp.is_none(), "{name} stays");
            (condition(&pod, "Ready").0 == "True").then_some(())
        })
        .await;
    }
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_returns_in_time_keeps_its_pods() {
    let c = start_with(fast()).await;
    c.node("n1").await;
    c.node("n2").await;
    c.create::<Pod>(pod("p", "n1", tolerate(Some(5)))).await;
    c.running("app=p", 1).await;
    c.cut("n1");
    becomes(&c, "n1", "Unknown", &["unreachable:NoExecute", "unreachable:NoSchedule"]).await;
    c.mend("n1").await;
    becomes(&c, "n1", "True", &[]).await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert!(c.pod("p").await.metadata.deletion_timestamp.is_none());
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_silent_nothing_is_evicted() {
    let c = start_with(fast()).await;
    c.node("n1").await;
    c.node("n2").await;
    c.create::<Pod>(pod("p", "n1", tolerate(Some(2)))).await;
    c.running("app=p", 1).await;
    c.cut("n1");
    c.cut("n2");
    becomes(&c, "n1", "Unknown", &["unreachable:NoSchedule"]).await;
    becomes(&c, "n2", "Unknown", &["unreachable:NoSchedule"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(c.pod("p").await.metadata.deletion_timestamp.is_none());
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_deleted_node_are_deleted() {
    let c = start_with(Options { node_monitor_grace: std::time::Duration::from_secs(60), ..fast() }).await;
    c.node("n1").await;
    c.node("n2").await;
    c.create::<Pod>(pod("p", "n1", tolerate(None))).await;
    c.create::<Pod>(pod("q", "n2", tolerate(None))).await;
    c.running("app=p", 1).await;
    c.running("app=q", 1).await;
    c.cut("n1");
    c.nodes().delete("n1", &DeleteParams::default()).await.unwrap();
    until("its pod is gone", async || c.api::<Pod>().get_opt("p").await.unwrap().is_none().then_some(())).await;
    c.running("app=q", 1).await;
    c.stop().await;
}

/// Two pods on a node that tolerate its coming taint for so long.
async fn tolerant_pods(c: &Cluster, seconds: [i64; 2]) {
    c.node("n1").await;
    c.node("n2").await;
    for (name, seconds) in ["short", "long"].into_iter().zip(seconds) {
        let toleration = json!([{"key": "maintenance", "operator": "Equal", "value": "now", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        c.create::<Pod>(pod(name, "n1", toleration)).await;
        c.running(&format!("app={name}"), 1).await;
    }
}

async fn taint(c: &Cluster, node: &str, taints: Value) {
    let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
    c.nodes().patch(node, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taint_evicts_each_pod_when_its_time_is_up() {
    let c = start_with(fast()).await;
    tolerant_pods(&c, [1, 3600]).await;
    taint(&c, "n1", json!([{"key": "maintenance", "value": "now", "effect": "NoExecute"}])).await;
    until("the impatient pod is gone", async || c.api::<Pod>().get_opt("short").await.unwrap().is_none().then_some(()))
        .await;
    assert!(c.pod("long").await.metadata.deletion_timestamp.is_none());
    // Another value is not tolerated at all.
    taint(&c, "n1", json!([{"key": "maintenance", "value": "later", "effect": "NoExecute"}])).await;
    until("the other pod is gone", async || c.api::<Pod>().get_opt("long").await.unwrap().is_none().then_some(()))
        .await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taint_that_goes_in_time_evicts_nothing() {
    let c = start_with(fast()).await;
    tolerant_pods(&c, [2, 5]).await;
    taint(&c, "n1", json!([{"key": "maintenance", "value": "now", "effect": "NoExecute"}])).await;
    until("the impatient pod is gone", async || c.api::<Pod>().get_opt("short").await.unwrap().is_none().then_some(()))
        .await;
    taint(&c, "n1", json!([])).await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert!(c.pod("long").await.metadata.deletion_timestamp.is_none(), "the taint was gone before its time was up");
    c.stop().await;
}
