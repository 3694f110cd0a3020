//! The hooks of a container: after its start and before its stop. Part of [`super`].

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::fields::Facts;
use crate::handler::{self, Action, Outcome, Purpose, Target};
use crate::pod::plan::FAILED_POST_START_HOOK;
use crate::pod::spec::PodExt;

/// A postStart hook has no time limit of its own; a deletion ends it. The runtime wants a number.
const POST_START_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// What a container gets that must end at once, as in the kubelet.
const AT_ONCE_S: i64 = 2;

/// Runs the hook; on failure the container is stopped.
///
/// # Errors
/// What the waiting container shows.
pub(super) async fn post_start(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    facts: &Facts,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let Err(why) = run(context, pod, container, id, facts, hook, POST_START_LIMIT).await else { return Ok(()) };
    let subject = Subject::container(pod, &container.name);
    tracing::warn!(pod = %pod.full_name(), container = container.name, why, "postStart hook failed");
    context.events.record(&subject, Kind::Warning, "FailedPostStartHook", "PostStartHook failed");
    context.events.record(&subject, Kind::Normal, "Killing", FAILED_POST_START_HOOK);
    let grace = pod.grace_seconds().max(AT_ONCE_S);
    if let Err(status) = context.cri.stop_container(id, grace).await {
        // The plan sees it running and stops it again.
        tracing::warn!(pod = %pod.full_name(), code = ?status.code(), "container not stopped after its hook failed");
    }
    Err(why)
}

/// Runs the hook for as long as the grace period allows. A failure does not hold up the stop.
pub(super) async fn pre_stop(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    facts: &Facts,
    within: Duration,
) {
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    let result = run(context, pod, container, id, facts, hook, within);
    match tokio::time::timeout(within, result).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            tracing::warn!(pod = %pod.full_name(), container = container.name, why, "preStop hook failed");
            let subject = Subject::container(pod, &container.name);
            context.events.record(&subject, Kind::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
        Err(_) => {
            tracing::info!(pod = %pod.full_name(), container = container.name, "preStop hook took all of the grace")
        }
    }
}

async fn run(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    facts: &Facts,
    hook: &LifecycleHandler,
    within: Duration,
) -> Result<(), String> {
    let Some(action) = Action::of_hook(hook) else { return Ok(()) };
    let ips = if pod.host_network() { &facts.host_ips } else { &facts.pod_ips };
    let pod_ip = ips.first().map(String::as_str).unwrap_or_default();
    let target = Target { cri: &context.cri, container_id: id, container, pod_ip };
    match handler::run(target, action, Purpose::Hook, within).await {
        Outcome::Success => Ok(()),
        Outcome::Warning(text) => {
            context.events.record(&Subject::pod(pod), Kind::Warning, "LifecycleHTTPFallback", &text);
            Ok(())
        }
        Outcome::Failure(why) | Outcome::Unknown(why) => Err(why),
    }
}
