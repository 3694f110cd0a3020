//! Owners and namespaces that are deleted.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, start, until};

fn owned_by(owner: &ConfigMap, blocks: bool) -> Value {
    json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid().unwrap(), "blockOwnerDeletion": blocks}])
}

async fn family(c: &Cluster, name: &str) -> (ConfigMap, Secret) {
    let owner: ConfigMap = c.create(json!({"metadata": {"name": name}})).await;
    let child: Secret = c.create(json!({"metadata": {"name": name, "ownerReferences": owned_by(&owner, true)}})).await;
    (owner, child)
}

async fn gone<K>(c: &Cluster, name: &str)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    until(&format!("{name} is gone"), async || c.api::<K>().get_opt(name).await.unwrap().is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_follow_their_owner() {
    let c = start().await;
    for (name, params) in [("back", DeleteParams::background()), ("fore", DeleteParams::foreground())] {
        family(&c, name).await;
        c.api::<ConfigMap>().delete(name, &params).await.unwrap();
        gone::<Secret>(&c, name).await;
        gone::<ConfigMap>(&c, name).await;
    }
    family(&c, "orphan").await;
    c.api::<ConfigMap>().delete("orphan", &DeleteParams::orphan()).await.unwrap();
    gone::<ConfigMap>(&c, "orphan").await;
    let child = c.api::<Secret>().get("orphan").await.unwrap();
    assert!(child.owner_references().is_empty());
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_owner_is_enough_and_an_unknown_kind_is_not_missing() {
    let c = start().await;
    let (a, b) = (
        c.create::<ConfigMap>(json!({"metadata": {"name": "a"}})).await,
        c.create::<ConfigMap>(json!({"metadata": {"name": "b"}})).await,
    );
    let mut owners = owned_by(&a, false).as_array().unwrap().clone();
    owners.extend(owned_by(&b, false).as_array().unwrap().clone());
    c.create::<Secret>(json!({"metadata": {"name": "both", "ownerReferences": owners}})).await;
    let unknown = json!([{"apiVersion": "none.example/v1", "kind": "None", "name": "x", "uid": "00000000-0000-0000-0000-000000000000"}]);
    c.create::<Secret>(json!({"metadata": {"name": "unknown", "ownerReferences": unknown}})).await;
    let absent = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "00000000-0000-0000-0000-000000000001"}]);
    c.create::<Secret>(json!({"metadata": {"name": "absent", "ownerReferences": absent}})).await;
    gone::<Secret>(&c, "absent").await;
    c.api::<ConfigMap>().delete("a", &DeleteParams::background()).await.unwrap();
    until("the dead reference is dropped", async || {
        let owners = c.api::<Secret>().get("both").await.unwrap().owner_references().to_vec();
        (owners.len() == 1 && owners[0].name == "b").then_some(())
    })
    .await;
    c.api::<Secret>().get("unknown").await.unwrap();
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_takes_everything_with_it() {
    let c = start().await;
    c.node("n1").await;
    let namespaces: Api<Namespace> = Api::all(c.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(c.client.clone(), "team");
    let pods: Api<Pod> = Api::namespaced(c.client.clone(), "team");
    maps.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap())
        .await
        .unwrap();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    until("the pod runs", async || crate::cluster::is_running(&pods.get("p").await.unwrap()).then_some(())).await;
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until("the namespace is gone", async || namespaces.get_opt("team").await.unwrap().is_none().then_some(())).await;
    assert!(pods.get_opt("p").await.unwrap().is_none());
    assert!(maps.get_opt("m").await.unwrap().is_none());
    c.stop().await;
}
