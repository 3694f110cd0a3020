//! The scheduler's decisions and its loop, without an API server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::context::testing;
use serde_json::json;

#[test]
fn enough_nodes_grows_slowly() {
    for (nodes, enough) in [(0, 1), (1, 1), (100, 100), (200, 100), (1000, 420), (10_000, 500)] {
        assert_eq!(enough_nodes(nodes), enough, "{nodes}");
    }
}

#[test]
fn decisions_are_quick_and_even_among_a_thousand_nodes() {
    const PODS: usize = 5000;
    let mut model = Model::default();
    for i in 0..1000 {
        let name = format!("n{i}");
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "200"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        model.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
    }
    let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}}]}}))
    .unwrap();
    let (mut start, began) = (0, std::time::Instant::now());
    for i in 0..PODS {
        let need = Need::of(&pod);
        let Decision::Node(node) = decide(&model, &mut start, &pod, &need, None) else { panic!("it fits") };
        model.place(&Key::new("ns", format!("p{i}")), &node, need);
    }
    let rate = PODS as f64 / began.elapsed().as_secs_f64();
    // Without optimization and on a busy machine; the figure of a release is several times this.
    assert!(rate > 300.0, "only {rate:.0} decisions a second");
    assert!(model.nodes().iter().all(|n| n.pods >= 4 && n.pods <= 6), "evenly");
}

#[test]
fn only_our_pods() {
    for (spec, ours) in [
        (json!({"containers": []}), true),
        (json!({"containers": [], "schedulerName": "default-scheduler"}), true),
        (json!({"containers": [], "schedulerName": "other"}), false),
        (json!({"containers": [], "schedulingGates": [{"name": "g"}]}), false),
    ] {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(is_ours(&pod), ours, "{spec}");
    }
}

fn node(name: &str) -> Node {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "200"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    serde_json::from_value(node).unwrap()
}

fn small_pod(name: &str) -> Pod {
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}}]}});
    serde_json::from_value(pod).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_binds_every_pod_once_and_quickly() {
    const PODS: usize = 5000;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let ctx = testing::context(move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            // One call in a thousand fails; its pod is tried again.
            let status = if n % 1000 == 999 { 500 } else { 201 };
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Success","message":"","reason":"","code":500}"#;
            let body = kube::client::Body::from(body.as_bytes().to_vec());
            Ok(http::Response::builder().status(status).body(body).unwrap())
        }
    });
    let mut tasks = Tasks::default();
    install(&ctx, &mut tasks);
    testing::sync(&ctx);
    for i in 0..100 {
        ctx.nodes.upsert(node(&format!("n{i}")));
    }
    let began = std::time::Instant::now();
    for i in 0..PODS {
        ctx.pods.upsert(small_pod(&format!("p{i}")));
    }
    let failures = PODS / 1000;
    while calls.load(Ordering::Relaxed) < PODS + failures {
        assert!(began.elapsed() < Duration::from_secs(60), "only {} calls", calls.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = PODS as f64 / began.elapsed().as_secs_f64();
    // Without optimization and on a busy machine.
    assert!(rate > 300.0, "only {rate:.0} pods a second");
    eprintln!("{rate:.0} pods a second");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(calls.load(Ordering::Relaxed), PODS + failures, "no pod is bound twice");
    tasks.abort().await;
}
