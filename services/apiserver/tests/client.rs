//! kube-rs against the in-process router: what the controllers use.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

mod support;

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.36"}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_is_created_bound_and_deleted_gracefully() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let created = pods.create(&PostParams::default(), &pod("web")).await.unwrap();
    let spec = created.spec.clone().unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.tolerations.unwrap().len(), 2);
    assert!(spec.volumes.unwrap()[0].name.starts_with("kube-api-access-"));
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    assert!(pods.create(&PostParams::default(), &pod("web")).await.is_err());

    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    let _: serde_json::Value =
        pods.create_subresource("binding", "web", &PostParams::default(), &binding).await.unwrap();
    let found = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
    assert_eq!(found.items.len(), 1);

    let scheduled = found.items[0].status.clone().unwrap().conditions.unwrap();
    assert_eq!((scheduled[0].type_.as_str(), scheduled[0].status.as_str()), ("PodScheduled", "True"));

    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.9"}});
    let patched = pods.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(patched.status.unwrap().phase.as_deref(), Some("Running"));

    let deleted = pods.delete("web", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(deleted.metadata.deletion_timestamp.is_some());
    assert_eq!(deleted.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("web").await.unwrap().is_none());
}

#[tokio::test]
async fn a_watch_sees_every_change_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let map = |value: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "c", "labels": {"v": value}}, "data": {"v": value}}))
            .unwrap()
    };
    maps.create(&PostParams::default(), &map("1")).await.unwrap();
    maps.replace("c", &PostParams::default(), &map("2")).await.unwrap();
    maps.replace("c", &PostParams::default(), &map("2")).await.unwrap();
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    let watch = maps.watch(&WatchParams::default().timeout(1), &version).await.unwrap();
    let kinds: Vec<&str> = watch
        .map_ok(|event| match event {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            WatchEvent::Bookmark(_) => "bookmark",
            WatchEvent::Error(_) => "error",
        })
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(kinds, ["added", "modified", "deleted", "bookmark"]);
    let labelled =
        maps.watch(&WatchParams::default().timeout(1).labels("v=2").disable_bookmarks(), &version).await.unwrap();
    assert_eq!(labelled.count().await, 2);
}

#[tokio::test]
async fn server_side_apply_and_patches() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}},
    });
    let created = deployments.patch("web", &PatchParams::apply("me"), &Patch::Apply(&config)).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    let again = deployments.patch("web", &PatchParams::apply("me"), &Patch::Apply(&config)).await.unwrap();
    assert_eq!(again.resource_version(), created.resource_version());
    let mut scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(2));
    scale.spec.as_mut().unwrap().replicas = Some(5);
    deployments.replace_scale("web", &PostParams::default(), &scale).await.unwrap();
    let scaled = deployments.get("web").await.unwrap();
    assert_eq!((scaled.spec.unwrap().replicas, scaled.metadata.generation), (Some(5), Some(2)));
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x:2"}]}}}});
    let patched = deployments.patch("web", &PatchParams::default(), &Patch::Strategic(strategic)).await.unwrap();
    assert_eq!(patched.spec.unwrap().template.spec.unwrap().containers[0].image.as_deref(), Some("x:2"));
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}});
    assert!(deployments.patch("web", &PatchParams::default(), &Patch::Merge(selector)).await.is_err());
}

#[tokio::test]
async fn services_namespaces_and_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service: Service = serde_json::from_value(
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
    )
    .unwrap();
    let created = services.create(&PostParams::default(), &service).await.unwrap();
    let ip = created.spec.unwrap().cluster_ip.unwrap();
    assert!(ip.starts_with("10.96."));
    let replaced = services.replace("s", &PostParams::default(), &service).await.unwrap();
    assert_eq!(replaced.spec.unwrap().cluster_ip, Some(ip));

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "team");
    pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    let left = namespaces.delete("team", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(left.status.unwrap().phase.as_deref(), Some("Terminating"));
    assert!(pods.create(&PostParams::default(), &pod("q")).await.is_err());
    let raw: Api<Namespace> = Api::all(client.clone());
    let mut last = raw.get("team").await.unwrap();
    last.spec.as_mut().unwrap().finalizers = Some(Vec::new());
    let request =
        http::Request::put("/api/v1/namespaces/team/finalize").body(serde_json::to_vec(&last).unwrap()).unwrap();
    client.request::<Namespace>(request).await.unwrap();
    assert!(raw.get_opt("team").await.unwrap().is_none());

    let nodes: Api<Node> = Api::all(client);
    let node: Node =
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "4"}}})).unwrap();
    assert!(nodes.create(&PostParams::default(), &node).await.unwrap().status.unwrap().capacity.is_some());
    let cordon = json!({"spec": {"unschedulable": true}});
    nodes.patch("n1", &PatchParams::default(), &Patch::Merge(cordon)).await.unwrap();
}

#[tokio::test]
async fn metadata_eviction_and_events() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    let metadata = pods.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items[0].metadata.name.as_deref(), Some("p"));
    assert!(pods.get_metadata("p").await.unwrap().metadata.uid.is_some());
    pods.evict("p", &kube::api::EvictParams::default()).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());

    let reporter = kube::runtime::events::Reporter { controller: "test".into(), instance: None };
    let recorder = kube::runtime::events::Recorder::new(client.clone(), reporter);
    let about = k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Pod".into()),
        name: Some("p".into()),
        namespace: Some("default".into()),
        ..Default::default()
    };
    let event = kube::runtime::events::Event {
        type_: kube::runtime::events::EventType::Normal,
        reason: "Tested".into(),
        note: Some("all is well".into()),
        action: "Test".into(),
        secondary: None,
    };
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(client.clone());
    let found = events.list(&ListParams::default().fields("involvedObject.name=p")).await.unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(found.items[0].message.as_deref(), Some("all is well"));
    let new: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(client);
    assert_eq!(new.list(&ListParams::default()).await.unwrap().items[0].note.as_deref(), Some("all is well"));
}
