//! What a pod needs on the host before anything else: its directory, its control group, its user ids.
//!
//! The first two also for a pod that runs already: limits are written again, and its class's share of
//! the CPU follows from all pods that this agent knows.

use std::io;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tonic::Status;

use super::super::spec::PodExt;
use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::userns;
use crate::volumes::PodDir;

/// Makes it, or says why not.
pub(super) async fn make(context: &Arc<Context>, pod: &Arc<Pod>) -> io::Result<()> {
    let (shared, spec) = (Arc::clone(context), Arc::clone(pod));
    let made = tokio::task::spawn_blocking(move || {
        // The directory first: it is how a group is found again after a crash.
        let dir = PodDir::new(&shared.root, spec.uid());
        std::fs::create_dir_all(dir.path())?;
        shared.cgroups.ensure_pod(&spec, shared.learned().cgroups, &shared.resources)
    })
    .await
    .unwrap_or_else(|_| Err(io::Error::other("the task ended")));
    if let Err(error) = &made {
        let message = format!("unable to ensure pod container exists: {error}");
        context.events.record(&Subject::pod(pod), Kind::Warning, "FailedCreatePodContainer", &message);
    }
    made
}

/// Gives a pod that wants its own user namespace a range of ids. What the runtime would ignore is an
/// error: the pod would run with more rights than it asked for.
pub(super) async fn identity(context: &Arc<Context>, pod: &Pod, handler: &str) -> Result<(), Status> {
    let groups = pod.spec().security_context.as_ref().and_then(|c| c.supplemental_groups_policy.as_deref());
    if groups == Some("Strict") && !context.learned().strict_groups {
        return Err(Status::failed_precondition("SupplementalGroupsPolicy=Strict is not supported in this node"));
    }
    if !userns::is_wanted(pod) {
        return Ok(());
    }
    if !context.learned().user_namespaces.contains(handler) {
        let message = format!("RuntimeClass handler {handler:?} does not support user namespaces");
        return Err(Status::failed_precondition(message));
    }
    let (shared, uid) = (Arc::clone(context), pod.uid().to_owned());
    tokio::task::spawn_blocking(move || shared.user_namespaces.allocate(&PodDir::new(&shared.root, &uid), &uid))
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the task ended")))
        .map_err(|e| Status::resource_exhausted(format!("cannot give the pod a range of user ids: {e}")))
}
