//! The end of a pod: deleted, ended by the node, or come to its end by itself. Part of [`super::plan`].

use super::{Plan, Step, Stop, View};
use crate::pod::UnixMs;
use crate::pod::observed::{Container, State};
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

/// Whether the pod has come to its end by itself or for a reason of the node.
pub(crate) fn has_ended(view: &View<'_>) -> bool {
    let View { pod, seen, memory, .. } = *view;
    if view.failure.is_some() || pod.ended_before() {
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
                _ if memory.restarts(c) => false,
                RestartPolicy::Never => c.state == State::Exited,
                _ => c.succeeded(),
            })
        });
    init_failed || all_done
}

/// A deleted pod.
pub(super) fn deleted(view: &View<'_>, deadline: UnixMs) -> Plan {
    let View { seen, memory, now, .. } = *view;
    if let Some(at) = memory.stop_retry.waits(now) {
        return Plan::wake(at);
    }
    let left = deadline.saturating_sub(now).saturating_add(999) / 1000;
    if let Some(stop) = stop_containers(view, left) {
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

/// A pod that has ended: nothing may run, but its logs and exit codes stay.
pub(super) fn completed(view: &View<'_>) -> Plan {
    let View { pod, seen, memory, now, .. } = *view;
    if let Some(at) = memory.stop_retry.waits(now) {
        return Plan::wake(at);
    }
    let grace = view.failure.and_then(|f| f.grace_s).unwrap_or_else(|| pod.grace_seconds());
    if let Some(stop) = stop_containers(view, grace) {
        return Plan::step(stop);
    }
    let ready = seen.sandboxes.iter().filter(|s| s.ready).map(|s| Step::StopSandbox { id: s.id.clone() });
    Plan { steps: ready.collect(), ..Plan::default() }
}

/// Everything that runs, in one step: hooks run at the same time, sidecars wait for their turn.
fn stop_containers(view: &View<'_>, grace_s: i64) -> Option<Step> {
    let sidecars: Vec<&str> =
        view.pod.init_containers().iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let turn = |name: &str| sidecars.iter().position(|s| *s == name).map_or(0, |at| sidecars.len() - at);
    let stops: Vec<Stop> = view
        .seen
        .running()
        .map(|c| Stop { turn: turn(&c.name), ..stop(view, c, grace_s, format!("Stopping container {}", c.name)) })
        .collect();
    (!stops.is_empty()).then_some(Step::StopContainers(stops))
}

/// The end of one container, whatever the reason.
pub(super) fn stop(view: &View<'_>, c: &Container, grace_s: i64, reason: String) -> Stop {
    let spec = view.pod.container(&c.name);
    let hook = spec.is_some_and(|s| s.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()));
    Stop {
        id: c.id.clone(),
        name: c.name.clone(),
        grace_s: grace_s.max(0),
        reason,
        pre_stop: hook && c.state == State::Running && !view.memory.pre_stopped.contains(&c.id),
        turn: 0,
        restart: false,
    }
}
