//! The end of a pod: deleted, or come to its end by itself. Part of [`super::plan`].

use k8s_openapi::api::core::v1::Pod;

use super::{Plan, Step, Stop, View};
use crate::pod::UnixMs;
use crate::pod::observed::{Container, Observed, State};
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

/// Whether the pod has come to its end by itself.
pub(crate) fn has_ended(pod: &Pod, seen: &Observed) -> bool {
    if pod.ended_before() {
        return true;
    }
    let policy = pod.restart_policy();
    if policy == RestartPolicy::Always {
        return false;
    }
    let init_failed = pod
        .init_containers()
        .iter()
        .filter(|c| !is_sidecar(c))
        .any(|c| policy == RestartPolicy::Never && seen.latest(&c.name).is_some_and(Container::failed));
    let all_done = !pod.containers().is_empty()
        && pod.containers().iter().all(|c| {
            seen.latest(&c.name).is_some_and(|c| match policy {
                RestartPolicy::Never => c.state == State::Exited,
                _ => c.succeeded(),
            })
        });
    init_failed || all_done
}

/// A deleted pod.
pub(super) fn deleted(view: &View<'_>, deadline: UnixMs) -> Plan {
    let View { pod, seen, memory, now, .. } = *view;
    if let Some(at) = memory.stop_retry.waits(now) {
        return Plan::wake(at);
    }
    if let Some(stop) = stop_containers(pod, seen, deadline, now) {
        return Plan::step(stop);
    }
    let ready: Vec<Step> =
        seen.sandboxes.iter().filter(|s| s.ready).map(|s| Step::StopSandbox { id: s.id.clone() }).collect();
    if !ready.is_empty() {
        return Plan { steps: ready, ..Plan::default() };
    }
    if !seen.is_empty() {
        let containers = seen.containers.iter().map(|c| Step::RemoveContainer { id: c.id.clone() });
        let sandboxes = seen.sandboxes.iter().map(|s| Step::RemoveSandbox { id: s.id.clone() });
        return Plan { steps: containers.chain(sandboxes).collect(), ..Plan::default() };
    }
    Plan::step(if memory.cleaned { Step::Finished } else { Step::CleanUp })
}

fn stop_containers(pod: &Pod, seen: &Observed, deadline: UnixMs, now: UnixMs) -> Option<Step> {
    let left = deadline.saturating_sub(now).saturating_add(999) / 1000;
    let stop = |c: &Container| Stop {
        id: c.id.clone(),
        name: c.name.clone(),
        grace_s: left.max(0),
        reason: format!("Stopping container {}", c.name),
    };
    // Sidecars serve the others, so they end last.
    let sidecar = |c: &Container| pod.init_containers().iter().any(|s| s.name == c.name && is_sidecar(s));
    let (last, first): (Vec<&Container>, Vec<&Container>) = seen.running().partition(|c| sidecar(c));
    let turn = if first.is_empty() { last } else { first };
    (!turn.is_empty()).then(|| Step::StopContainers(turn.into_iter().map(stop).collect()))
}

/// A pod that ended by itself: nothing may run, but its logs and exit codes stay.
pub(super) fn completed(view: &View<'_>) -> Plan {
    let View { pod, seen, memory, now, .. } = *view;
    if let Some(at) = memory.stop_retry.waits(now) {
        return Plan::wake(at);
    }
    if let Some(stop) = stop_containers(pod, seen, now.saturating_add(pod.grace_seconds().saturating_mul(1000)), now) {
        return Plan::step(stop);
    }
    let ready = seen.sandboxes.iter().filter(|s| s.ready).map(|s| Step::StopSandbox { id: s.id.clone() });
    Plan { steps: ready.collect(), ..Plan::default() }
}
