//! The labels and annotations on sandboxes and containers: edged's memory in the runtime.
//!
//! Written when a sandbox or container is created, read when the runtime is observed; by this an
//! agent that starts again knows its pods without the cloud and without a file of its own. The names
//! are the kubelet's, because tools such as crictl read them. [`NODE`] is ours: only what carries it
//! with our node's name is ever touched, so that another agent's pods on the same runtime are safe.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_common::fnv1a;

use super::spec::{self, PodExt};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The node whose edged made it.
pub(crate) const NODE: &str = "skerry.io/node";

pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The resources that the container was created with. Ours: the kubelet keeps them in a file.
pub(crate) const RESOURCES: &str = "skerry.io/resources";
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const PORTS: &str = "io.kubernetes.container.ports";

pub(crate) fn of_sandbox(pod: &Pod, node: &str) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert(POD_NAME.into(), pod.name().into());
    labels.insert(POD_NAMESPACE.into(), pod.namespace().into());
    labels.insert(POD_UID.into(), pod.uid().into());
    labels.insert(NODE.into(), node.into());
    labels
}

pub(crate) fn of_container(pod: &Pod, container: &str, node: &str) -> HashMap<String, String> {
    [
        (POD_NAME, pod.name()),
        (POD_NAMESPACE, pod.namespace()),
        (POD_UID, pod.uid()),
        (CONTAINER_NAME, container),
        (NODE, node),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

pub(crate) fn annotations_of_container(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let mut all = HashMap::from([
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (HASH.to_owned(), hash(container)),
        (MESSAGE_PATH.to_owned(), spec::message_path(container).to_owned()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (GRACE.to_owned(), pod.grace_seconds().to_string()),
        (RESOURCES.to_owned(), super::resize::text(container)),
    ]);
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty())
        && let Ok(text) = serde_json::to_string(ports)
    {
        all.insert(PORTS.to_owned(), text);
    }
    all
}

/// Changes when a running container must be replaced. Of a bound pod only the image may change.
pub(crate) fn hash(container: &Container) -> String {
    format!("{:x}", fnv1a(&[&container.name, container.image.as_deref().unwrap_or_default()]))
}
