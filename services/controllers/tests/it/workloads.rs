//! Deployments, DaemonSets and Jobs from apply to gone.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, spread, start, until};

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, "template": template("web", "v1")}})
}

async fn rolled_out(c: &Cluster, replicas: i32) -> Deployment {
    until("rollout is complete", async || {
        let d = c.api::<Deployment>().get("web").await.unwrap();
        let s = d.status.clone().unwrap_or_default();
        let n = Some(replicas);
        let complete = s.observed_generation == d.metadata.generation
            && (s.updated_replicas, s.replicas, s.available_replicas) == (n, n, n);
        let reason = s.conditions.iter().flatten().find(|c| c.type_ == "Progressing").and_then(|c| c.reason.clone());
        (complete && reason.as_deref() == Some("NewReplicaSetAvailable")).then_some(d)
    })
    .await
}

async fn endpoints(c: &Cluster, service: &str) -> Vec<String> {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = c.api::<EndpointSlice>().list(&params).await.unwrap().items;
    let ready =
        slices.into_iter().flat_map(|s| s.endpoints).filter(|e| e.conditions.as_ref().unwrap().ready == Some(true));
    let mut addresses: Vec<_> = ready.flat_map(|e| e.addresses).collect();
    addresses.sort();
    addresses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_from_create_to_cascade() {
    let c = start().await;
    c.node("n1").await;
    c.node("n2").await;
    c.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})).await;
    c.create::<Deployment>(deployment(4)).await;
    let pods = c.running("app=web", 4).await;
    assert_eq!(spread(&pods), [("n1".to_owned(), 2), ("n2".to_owned(), 2)].into(), "spread evenly");
    let d = rolled_out(&c, 4).await;
    assert_eq!(d.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "1");
    until("four endpoints", async || (endpoints(&c, "web").await.len() == 4).then_some(())).await;

    // A new image: the old pods go, never fewer than four are available.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    c.api::<Deployment>().patch("web", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    let d = rolled_out(&c, 4).await;
    assert_eq!(d.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "2");
    let pods = c.running("app=web", 4).await;
    assert!(pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2")));
    let sets = c.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2, "the old set stays for a rollback");

    // What `kubectl rollout undo` does.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v1"}]}}}});
    c.api::<Deployment>().patch("web", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    let d = rolled_out(&c, 4).await;
    assert_eq!(d.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "3");
    assert_eq!(c.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items.len(), 2);

    for replicas in [7, 2] {
        let scale = json!({"spec": {"replicas": replicas}});
        c.api::<Deployment>().patch("web", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
        rolled_out(&c, replicas).await;
        c.running("app=web", usize::try_from(replicas).unwrap()).await;
    }
    until("two endpoints", async || (endpoints(&c, "web").await.len() == 2).then_some(())).await;

    let events = c.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    let said = |reason: &str| events.iter().any(|e| e.reason.as_deref() == Some(reason));
    assert!(said("ScalingReplicaSet") && said("SuccessfulCreate") && said("Scheduled"), "{events:?}");

    c.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    until("everything is gone", async || {
        let sets = c.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
        (sets.is_empty() && c.pods("app=web").await.is_empty()).then_some(())
    })
    .await;
    c.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    until("slices are gone", async || {
        let params = ListParams::default().labels("kubernetes.io/service-name=web");
        c.api::<EndpointSlice>().list(&params).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_and_orphans_are_adopted() {
    let c = start().await;
    c.node("n1").await;
    c.create::<Deployment>(deployment(2)).await;
    let pods = c.running("app=web", 2).await;
    let victim = pods[0].metadata.name.clone().unwrap();
    c.api::<Pod>().delete(&victim, &DeleteParams::default()).await.unwrap();
    until("it is replaced", async || {
        let pods = c.pods("app=web").await;
        (pods.len() == 2 && pods.iter().all(|p| p.metadata.name.as_ref() != Some(&victim))).then_some(())
    })
    .await;
    // Taking the owner away for a moment loses nothing: the set takes its pods back.
    let pods = c.running("app=web", 2).await;
    let name = pods[0].metadata.name.clone().unwrap();
    let orphan = json!({"metadata": {"ownerReferences": []}});
    c.api::<Pod>().patch(&name, &PatchParams::default(), &Patch::Merge(orphan)).await.unwrap();
    until("it is adopted", async || {
        let owners = c.pod(&name).await.metadata.owner_references.unwrap_or_default();
        owners.iter().any(|o| o.kind == "ReplicaSet").then_some(())
    })
    .await;
    c.running("app=web", 2).await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_run_on_every_node() {
    let c = start().await;
    c.node("n1").await;
    c.node_with("n2", json!({"spec": {"unschedulable": true}})).await;
    c.node_with("n3", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})).await;
    c.create::<DaemonSet>(json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1")}}))
        .await;
    let pods = c.running("app=agent", 2).await;
    assert_eq!(spread(&pods), [("n1".to_owned(), 1), ("n2".to_owned(), 1)].into(), "a cordon does not stop a daemon");
    c.node("n4").await;
    c.running("app=agent", 3).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    c.api::<DaemonSet>().patch("agent", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    until("the update has rolled", async || {
        let ds = c.api::<DaemonSet>().get("agent").await.unwrap();
        let s = ds.status.clone().unwrap_or_default();
        let done = s.observed_generation == ds.metadata.generation
            && s.updated_number_scheduled == Some(3)
            && s.number_available == Some(3);
        done.then_some(())
    })
    .await;
    let pods = c.running("app=agent", 3).await;
    assert!(pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2")));
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_and_fail() {
    let c = start().await;
    c.node("n1").await;
    let job = |name: &str, ends: &str| {
        json!({"metadata": {"name": name}, "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 0, "template": {
            "metadata": {"labels": {"ends": ends}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}})
    };
    c.create::<Job>(job("good", "Succeeded")).await;
    c.create::<Job>(job("bad", "Failed")).await;
    let finished = async |name: &str, type_: &str| {
        until(&format!("{name} is {type_}"), async || {
            let status = c.api::<Job>().get(name).await.unwrap().status.unwrap_or_default();
            status.conditions.iter().flatten().any(|c| c.type_ == type_ && c.status == "True").then_some(status)
        })
        .await
    };
    let status = finished("good", "Complete").await;
    assert_eq!(status.succeeded, Some(3));
    assert!(status.completion_time.is_some());
    let status = finished("bad", "Failed").await;
    assert!(status.failed.unwrap() >= 1);
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_have_their_account_and_ca() {
    let c = start().await;
    until("the account", async || c.api::<ServiceAccount>().get_opt("default").await.unwrap()).await;
    let map = until("the CA", async || c.api::<ConfigMap>().get_opt("kube-root-ca.crt").await.unwrap()).await;
    assert_eq!(map.data.unwrap()["ca.crt"], c.ca_pem());
    c.api::<ServiceAccount>().delete("default", &DeleteParams::default()).await.unwrap();
    let patch = json!({"data": {"ca.crt": "tampered"}});
    c.api::<ConfigMap>().patch("kube-root-ca.crt", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    until("both are put right", async || {
        let account = c.api::<ServiceAccount>().get_opt("default").await.unwrap();
        let map = c.api::<ConfigMap>().get("kube-root-ca.crt").await.unwrap();
        (account.is_some() && map.data.unwrap()["ca.crt"] == c.ca_pem()).then_some(())
    })
    .await;
    c.stop().await;
}
