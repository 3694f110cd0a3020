//! What the API server decides about a new pod beside its defaults.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::{Value, json};

mod support;

fn pod(name: &str, spec: Value) -> Pod {
    let mut whole = json!({"containers": [{"name": "c", "image": "busybox:1.36"}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": whole})).unwrap()
}

async fn refused(pods: &Api<Pod>, pod: &Pod) -> (u16, String) {
    match pods.create(&PostParams::default(), pod).await {
        Err(Error::Api(status)) => (status.code, status.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_pod_gets_what_its_runtime_class_says() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    let (pods, classes): (Api<Pod>, Api<RuntimeClass>) = (Api::default_namespaced(client.clone()), Api::all(client));
    let class = |name: &str, more: Value| -> RuntimeClass {
        let mut whole = json!({"metadata": {"name": name}, "handler": "runc"});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    };
    let sandboxed = class(
        "sandboxed",
        json!({
            "overhead": {"podFixed": {"cpu": "10m", "memory": "8Mi"}}, "scheduling": {"nodeSelector": {"sandbox": "yes"}}
        }),
    );
    for class in [&sandboxed, &class("plain", json!({}))] {
        classes.create(&PostParams::default(), class).await.unwrap();
    }
    let named = |class: &str| json!({"runtimeClassName": class});

    let created = pods.create(&PostParams::default(), &pod("a", named("sandboxed"))).await.unwrap().spec.unwrap();
    assert_eq!(created.overhead.unwrap()["memory"].0, "8Mi");
    assert_eq!(created.node_selector.unwrap()["sandbox"], "yes");
    let plain = pods.create(&PostParams::default(), &pod("b", named("plain"))).await.unwrap().spec.unwrap();
    assert_eq!(plain.overhead, None);

    let (code, message) = refused(&pods, &pod("c", named("nonexistent"))).await;
    assert_eq!(code, 403);
    assert!(message.contains("pod rejected: RuntimeClass \"nonexistent\" not found"), "{message}");
    assert_eq!(refused(&pods, &pod("c", json!({"overhead": {"cpu": "1"}}))).await.0, 403);

    // All of the API's operations on classes.
    let label = Patch::Merge(json!({"metadata": {"labels": {"test": "yes"}}}));
    classes.patch("plain", &PatchParams::default(), &label).await.unwrap();
    let labelled = ListParams::default().labels("test=yes");
    assert_eq!(classes.list(&labelled).await.unwrap().items.len(), 1);
    classes.delete_collection(&DeleteParams::default(), &labelled).await.unwrap();
    assert_eq!(refused(&pods, &pod("d", named("plain"))).await.0, 403, "the class is deleted");
    assert!(classes.get("sandboxed").await.is_ok());
}

#[tokio::test]
async fn invalid_sysctls_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let pods: Api<Pod> = Api::default_namespaced(Client::new(server.router(), "default"));
    let names = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar.."];
    let sysctls: Vec<Value> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
    let (code, message) = refused(&pods, &pod("a", json!({"securityContext": {"sysctls": sysctls}}))).await;
    assert_eq!(code, 422);
    for (name, invalid) in names.iter().zip([true, false, false, true]) {
        assert_eq!(message.contains(&format!("Invalid value: \"{name}\"")), invalid, "{name}: {message}");
    }
}
