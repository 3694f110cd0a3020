//! Gives a running container other resources. Part of [`super`].
//!
//! The pod's own group is widened before and narrowed after its containers, since a child may not have
//! more than its parent. A failure is tried again and said in a condition.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Done;
use crate::context::{Context, now_ms};
use crate::events::{Kind, Subject};
use crate::pod::backoff::RETRY;
use crate::pod::memory::Memory;
use crate::pod::resize;
use crate::pod::spec::PodExt;
use crate::resources;

pub(super) async fn resize(context: &Arc<Context>, pod: &Arc<Pod>, memory: &mut Memory, name: &str, id: &str) -> Done {
    let Some(container) = pod.container(name) else { return Done::Failed };
    let linux = resources::of_container(pod, &container, &context.resources);
    // What does not fit below the old limits of the pod goes on after the new ones; the other way round
    // the first attempt may fail and the second, after the containers, does not.
    let widened = ensure(context, pod).await;
    let result = match context.cri.update_resources(id, linux).await {
        Ok(()) if widened.is_err() => ensure(context, pod).await,
        Ok(()) => Ok(()),
        Err(status) => Err(status.message().to_owned()),
    };
    let entry = memory.container(name);
    match result {
        Ok(()) => {
            entry.resized = Some((id.to_owned(), resize::text(&container)));
            entry.resize_error = None;
            entry.resize_retry.succeeded();
            let message = format!("Resized container {name}");
            context.events.record(&Subject::container(pod, name), Kind::Normal, "ResizeCompleted", &message);
            Done::Yes
        }
        Err(why) => {
            entry.resize_retry.failed(now_ms(), RETRY);
            let message = format!("Error resizing container {name}: {why}");
            context.events.record(&Subject::container(pod, name), Kind::Warning, "ResizeError", &message);
            memory.container(name).resize_error = Some(message);
            Done::Failed
        }
    }
}

async fn ensure(context: &Arc<Context>, pod: &Arc<Pod>) -> Result<(), String> {
    let (shared, spec) = (Arc::clone(context), Arc::clone(pod));
    tokio::task::spawn_blocking(move || shared.cgroups.ensure_pod(&spec, shared.learned().cgroups, &shared.resources))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}
