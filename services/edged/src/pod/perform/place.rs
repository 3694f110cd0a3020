//! What a pod needs on the host before its volumes: its directory and its control group.
//!
//! Also for a pod that runs already: limits are written again, and its class's share of the CPU follows
//! from all pods that this agent knows.

use std::io;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::spec::PodExt;
use crate::context::Context;
use crate::events::{Kind, Subject};
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
