//! The scheduler against the real API.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{condition, fast, node_of, start, start_with, until};

fn pod(name: &str, spec: Value) -> Value {
    let mut base = json!({"containers": [{"name": "c", "image": "v1"}]});
    json_patch::merge(&mut base, &spec);
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": base})
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "v1", "resources": {"requests": {"cpu": amount}}}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unschedulable_pod_says_why_and_is_placed_when_it_fits() {
    let c = start().await;
    c.create::<Pod>(pod("p", json!({}))).await;
    let why = async |text: &str| {
        until(text, async || {
            let (status, reason, message) = condition(&c.pod("p").await, "PodScheduled");
            ((status.as_str(), reason.as_str()) == ("False", "Unschedulable") && message == text).then_some(())
        })
        .await;
    };
    why("no nodes available to schedule pods").await;
    c.node_with("n1", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})).await;
    why("0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.").await;
    until("the event", async || {
        let events = c.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let found = events.into_iter().find(|e| e.message.as_deref().is_some_and(|m| m.contains("{k: v}")));
        found.filter(|e| e.reason.as_deref() == Some("FailedScheduling") && e.type_.as_deref() == Some("Warning"))
    })
    .await;
    c.nodes().patch("n1", &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await.unwrap();
    c.running("app=p", 1).await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_never_given_twice_and_is_used_when_it_comes_free() {
    let c = start().await;
    c.node("n1").await;
    for i in 0..10 {
        c.create::<Pod>(pod(&format!("p{i}"), cpu("1"))).await;
    }
    let bound = async || {
        let pods = c.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        pods.iter().filter(|p| node_of(p).is_some()).count()
    };
    until("eight fit", async || (bound().await == 8).then_some(())).await;
    until("the others say why", async || {
        let pods = c.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        let told = pods.iter().filter(|p| condition(p, "PodScheduled").2.contains("1 Insufficient cpu")).count();
        (told == 2).then_some(())
    })
    .await;
    let pods = c.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let placed = pods.iter().find(|p| node_of(p).is_some()).unwrap().metadata.name.clone().unwrap();
    c.api::<Pod>().delete(&placed, &DeleteParams::default()).await.unwrap();
    until("the ninth takes its place", async || {
        let pods = c.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        let bound = pods.iter().filter(|p| node_of(p).is_some()).count();
        (pods.len() == 9 && bound == 8).then_some(())
    })
    .await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_where_they_ask_and_foreign_ones_are_left_alone() {
    let c = start().await;
    c.node_with("n1", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    c.node_with("n2", json!({"metadata": {"labels": {"zone": "b"}}})).await;
    c.create::<Pod>(pod("by-label", json!({"nodeSelector": {"zone": "b"}}))).await;
    c.create::<Pod>(pod("by-host", json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}))).await;
    c.create::<Pod>(pod("foreign", json!({"schedulerName": "other"}))).await;
    c.create::<Pod>(pod("nowhere", json!({"nodeSelector": {"kubernetes.io/hostname": "n9"}}))).await;
    let label = c.running("app=by-label", 1).await;
    let host = c.running("app=by-host", 1).await;
    assert_eq!((node_of(&label[0]).unwrap(), node_of(&host[0]).unwrap()), ("n2".to_owned(), "n1".to_owned()));
    until("nowhere says why", async || {
        let message = condition(&c.pod("nowhere").await, "PodScheduled").2;
        (message == "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.").then_some(())
    })
    .await;
    assert_eq!(node_of(&c.pod("foreign").await), None);
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_keep_apart_get_a_node_each() {
    let c = start().await;
    c.node("n1").await;
    c.node("n2").await;
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"group": "g"}}}]}}});
    for name in ["a", "b", "c"] {
        let mut pod = pod(name, apart.clone());
        pod["metadata"]["labels"]["group"] = json!("g");
        c.create::<Pod>(pod).await;
    }
    let told = until("one of three says why", async || {
        let pods = c.pods("group=g").await;
        let placed = pods.iter().filter(|p| node_of(p).is_some()).count();
        let told = pods
            .iter()
            .find(|p| condition(p, "PodScheduled").2.contains("2 node(s) didn't match pod anti-affinity rules"));
        told.filter(|_| placed == 2).map(|p| p.metadata.name.clone().unwrap())
    })
    .await;
    c.node("n3").await;
    until("it gets the third node", async || (node_of(&c.pod(&told).await).as_deref() == Some("n3")).then_some(()))
        .await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_are_placed_quickly() {
    const PODS: usize = 1000;
    let c = start_with(fast()).await;
    let api = c.api::<Pod>();
    let creates = (0..PODS).map(|i| {
        let api = api.clone();
        async move {
            let pod: Pod = serde_json::from_value(pod(&format!("p{i}"), json!({}))).unwrap();
            api.create(&PostParams::default(), &pod).await.unwrap();
        }
    });
    use futures::StreamExt;
    futures::stream::iter(creates).buffer_unordered(32).collect::<Vec<_>>().await;
    let started = Instant::now();
    for i in 0..20 {
        // Not alive: no kubelet takes part in the measurement.
        c.node(&format!("n{i}")).await;
        c.cut(&format!("n{i}"));
    }
    until("all are placed", async || {
        // Asks for one pod only, so that the question costs nothing.
        let unbound = ListParams::default().fields("spec.nodeName=").limit(1);
        api.list(&unbound).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let rate = PODS as f64 / started.elapsed().as_secs_f64();
    eprintln!("{rate:.0} binds a second");
    let pods = api.list(&ListParams::default()).await.unwrap().items;
    let spread = crate::cluster::spread(&pods);
    assert!(spread.values().all(|n| *n >= 20), "evenly: {spread:?}");
    c.stop().await;
}
