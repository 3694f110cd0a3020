//! The pod, the container and the sandbox that a request names.
//!
//! Pods are those that the agent knows; ids are asked of the runtime each time, because containers come
//! and go. Texts of refusals are the kubelet's.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use skerry_common::Key;
use skerry_proto::cri::v1::{Container, PodSandboxState};
use tonic::Status;

use super::route::{ContainerPath, PodPath};
use crate::context::Context;
use crate::pod::labels;
use crate::pod::spec::PodExt;

/// Why something is not served: a status and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<Status> for Refusal {
    /// As the kubelet maps the runtime's errors.
    fn from(status: Status) -> Self {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, status.message())
    }
}

/// A container of a pod's spec.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) pod: Arc<Pod>,
    pub(super) container: String,
    /// It has a terminal.
    pub(super) tty: bool,
}

/// The pod of this name, with this uid if one is given.
pub(super) fn pod(context: &Context, path: &PodPath) -> Option<Arc<Pod>> {
    let pod = context.objects.pod_named(&path.namespace, &path.name)?;
    // The API knows a static pod by the uid of its mirror.
    let mirror = || context.objects.mirror(&Key::new(&*path.namespace, &*path.name)).map(|m| m.uid);
    let same = |uid: &str| uid == pod.uid() || mirror().as_deref() == Some(uid);
    path.uid.as_deref().is_none_or(same).then_some(pod)
}

/// The container of a pod's spec, of any kind.
pub(super) fn spec(pod: &Arc<Pod>, name: &str) -> Option<Spec> {
    let spec = pod.spec();
    let of = |tty: Option<bool>| Spec { pod: Arc::clone(pod), container: name.into(), tty: tty.unwrap_or(false) };
    let mut plain = pod.containers().iter().chain(pod.init_containers());
    if let Some(found) = plain.find(|c| c.name == name) {
        return Some(of(found.tty));
    }
    spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(|c| of(c.tty))
}

/// All containers of that name in the runtime, newest first.
pub(super) async fn containers(context: &Context, pod: &Pod, name: &str) -> Result<Vec<Container>, Status> {
    let mut found = context.cri.containers(Some(pod.uid())).await?;
    found.retain(|c| c.labels.get(labels::CONTAINER_NAME).is_some_and(|n| n == name));
    found.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    Ok(found)
}

/// The newest container of that name, for exec and attach.
pub(super) async fn container(context: &Context, path: &ContainerPath) -> Result<(Spec, Container), Refusal> {
    let pod = pod(context, &path.pod).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"))?;
    // The kubelet answers these as failures of its own.
    let missing =
        || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({:?})", path.container));
    let spec = spec(&pod, &path.container).ok_or_else(missing)?;
    let newest = containers(context, &pod, &path.container).await?.into_iter().next().ok_or_else(missing)?;
    Ok((spec, newest))
}

/// The sandbox that the pod lives in.
pub(super) async fn sandbox(context: &Context, path: &PodPath) -> Result<String, Refusal> {
    let pod = pod(context, path).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let mut found = context.cri.sandboxes(Some(pod.uid())).await?;
    found.retain(|s| s.state == PodSandboxState::SandboxReady as i32);
    let newest = found.into_iter().max_by_key(|s| s.created_at);
    let missing = || {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("pod not found ({:?})", format!("{}_{}", pod.name(), pod.namespace())),
        )
    };
    newest.map(|s| s.id).ok_or_else(missing)
}
