//! Claims find their volumes, and volumes know what became of their claims.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, start, until};

fn volumes(c: &Cluster) -> Api<PersistentVolume> {
    Api::all(c.client.clone())
}

async fn volume(c: &Cluster, name: &str, size: &str, class: &str, node: &str) {
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}});
    let body = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/data"}, "storageClassName": class, "nodeAffinity": affinity}});
    volumes(c).create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
}

async fn claim(c: &Cluster, name: &str, size: &str, class: &str) {
    let body = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": size}}}});
    c.create::<PersistentVolumeClaim>(body).await;
}

async fn bound(c: &Cluster, name: &str) -> String {
    until(&format!("{name} is bound"), async || {
        let claim = c.api::<PersistentVolumeClaim>().get(name).await.unwrap();
        let status = claim.status.unwrap_or_default();
        (status.phase.as_deref() == Some("Bound")).then(|| claim.spec.unwrap().volume_name.unwrap())
    })
    .await
}

async fn has_phase(c: &Cluster, name: &str, phase: &str) {
    until(&format!("{name} is {phase}"), async || {
        let volume = volumes(c).get(name).await.unwrap();
        (volume.status.and_then(|s| s.phase).as_deref() == Some(phase)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_bound_once_and_a_volume_is_released_with_its_claim() {
    let c = start().await;
    claim(&c, "early", "1Gi", "").await;
    volume(&c, "small", "2Gi", "", "n1").await;
    volume(&c, "large", "9Gi", "", "n1").await;
    assert_eq!(bound(&c, "early").await, "small");
    has_phase(&c, "small", "Bound").await;
    has_phase(&c, "large", "Available").await;
    // Two claims and one volume: one of them waits.
    claim(&c, "a", "5Gi", "").await;
    claim(&c, "b", "5Gi", "").await;
    has_phase(&c, "large", "Bound").await;
    let holder = volumes(&c).get("large").await.unwrap().spec.unwrap().claim_ref.unwrap().name.unwrap();
    assert_eq!(bound(&c, &holder).await, "large");
    let other = if holder == "a" { "b" } else { "a" };
    let waiting = c.api::<PersistentVolumeClaim>().get(other).await.unwrap();
    assert_eq!(waiting.spec.unwrap().volume_name, None);
    c.api::<PersistentVolumeClaim>().delete(&holder, &DeleteParams::default()).await.unwrap();
    has_phase(&c, "large", "Released").await;
    volume(&c, "more", "5Gi", "", "n1").await;
    assert_eq!(bound(&c, other).await, "more", "what was released is not given away");
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_gets_a_volume_where_its_pod_is() {
    let c = start().await;
    c.node("n1").await;
    c.node("n2").await;
    let class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))
    .unwrap();
    Api::all(c.client.clone()).create(&PostParams::default(), &class).await.unwrap();
    volume(&c, "of-n1", "1Gi", "local", "n1").await;
    volume(&c, "of-n2", "9Gi", "local", "n2").await;
    has_phase(&c, "of-n2", "Available").await;
    claim(&c, "data", "1Gi", "local").await;
    let told = async || -> Option<Value> {
        let events: Api<k8s_openapi::api::core::v1::Event> = c.api();
        let all = events.list(&Default::default()).await.unwrap().items;
        all.iter().find(|e| e.reason.as_deref() == Some("WaitForFirstConsumer")).map(|e| json!(e.message))
    };
    until("the claim says why it waits", told).await;
    c.create::<Pod>(json!({"metadata": {"name": "p", "labels": {"app": "p"}}, "spec": {
        "nodeSelector": {"kubernetes.io/hostname": "n2"}, "containers": [{"name": "c", "image": "v1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}))
        .await;
    assert_eq!(bound(&c, "data").await, "of-n2");
    c.stop().await;
}
