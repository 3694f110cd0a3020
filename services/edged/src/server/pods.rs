//! `/pods` and `/runningpods/`: what the agent wants to run, and what the runtime runs.
//!
//! The status of a pod is the one that was reported last, as it is on the disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skerry_proto::cri::v1::ContainerState;

use super::answer::{Answer, json};
use super::find::Refusal;
use crate::context::Context;
use crate::pod::checkpoint;
use crate::pod::labels;
use crate::pod::spec::PodExt as _;
use crate::volumes::PodDir;

fn list(items: Vec<Value>) -> Answer {
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The pods of this node with their specs.
pub(super) async fn wanted(context: &Context) -> Answer {
    let (pods, root) = (context.objects.pods(), context.root.clone());
    let read = tokio::task::spawn_blocking(move || pods.iter().map(|pod| with_status(pod, &root)).collect::<Vec<_>>());
    list(read.await.unwrap_or_default())
}

fn with_status(pod: &Arc<Pod>, root: &Path) -> Value {
    let mut pod = Pod::clone(pod);
    pod.status = checkpoint::load(&PodDir::new(root, pod.uid())).or(pod.status);
    serde_json::to_value(&pod).unwrap_or_default()
}

/// What runs, as the runtime tells it: names and containers only.
pub(super) async fn running(context: &Context) -> Result<Answer, Refusal> {
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for container in context.cri.containers(None).await? {
        if container.state != ContainerState::ContainerRunning as i32 {
            continue;
        }
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let (name, namespace, uid) = (label(labels::POD_NAME), label(labels::POD_NAMESPACE), label(labels::POD_UID));
        let metadata = json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": null});
        let image = container.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let shown = json!({"name": label(labels::CONTAINER_NAME), "image": image, "resources": {}});
        pods.entry(uid).or_insert_with(|| (metadata, Vec::new())).1.push(shown);
    }
    let pod = |(metadata, containers)| json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}});
    Ok(list(pods.into_values().map(pod).collect()))
}
