//! The containers of a pod within its sandbox: init containers, sidecars, the others. Part of [`super::plan`].

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::{Plan, Step, Stop, View};
use crate::pod::backoff::CRASH;
use crate::pod::labels;
use crate::pod::memory::Memory;
use crate::pod::observed::{Container, Observed, State};
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

pub(super) fn containers(view: &View<'_>, sandbox: &str) -> Plan {
    let View { pod, seen, .. } = *view;
    let mut plan = Plan::default();
    for spec in pod.init_containers() {
        // Init containers ran for one sandbox; a new one needs them again.
        let here = seen.latest(&spec.name).filter(|c| c.sandbox_id == sandbox);
        if is_sidecar(spec) {
            // The next one begins when this one has started.
            if !keep_running(view, spec, sandbox, &mut plan) {
                return plan;
            }
            continue;
        }
        match here {
            Some(c) if c.succeeded() => {}
            Some(c) if matches!(c.state, State::Running) => return plan,
            _ => {
                keep_running(view, spec, sandbox, &mut plan);
                return plan;
            }
        }
    }
    for spec in pod.containers() {
        keep_running(view, spec, sandbox, &mut plan);
    }
    plan
}

/// Whether the container runs and has started; if not, says what to do about it.
fn keep_running(view: &View<'_>, spec: &Spec, sandbox: &str, plan: &mut Plan) -> bool {
    let View { pod, seen, memory, now, .. } = *view;
    let latest = seen.latest(&spec.name);
    let here = latest.filter(|c| c.sandbox_id == sandbox);
    match here.map(|c| c.state) {
        Some(State::Running) => {
            let stop = here.and_then(|c| must_restart(view, spec, c));
            let started = stop.is_none() && here.is_some_and(|c| view.probes.started(spec, c));
            plan.steps.extend(stop.map(|stop| Step::StopContainers(vec![stop])));
            return started;
        }
        // Nobody can tell what it does: it must be gone before another one starts.
        Some(State::Unknown) => {
            plan.steps.extend(here.map(|c| {
                Step::StopContainers(vec![Stop {
                    id: c.id.clone(),
                    name: c.name.clone(),
                    grace_s: pod.grace_seconds(),
                    reason: format!("Container {} is in unknown state, try killing it before restart", c.name),
                }])
            }));
            return false;
        }
        // The agent ended between create and start.
        Some(State::Created) => {
            plan.steps.extend(here.map(|c| Step::RemoveContainer { id: c.id.clone() }));
            return false;
        }
        Some(State::Exited) | None => {}
    }
    // A container of the same name in an older sandbox that still runs is ended first (P3).
    let elsewhere: Vec<Step> = seen
        .running()
        .filter(|c| c.name == spec.name)
        .map(|c| Step::StopSandbox { id: c.sandbox_id.clone() })
        .collect();
    if !elsewhere.is_empty() {
        plan.steps.extend(elsewhere);
        return false;
    }
    // Init containers run once per sandbox; others have ended for the pod, wherever that was.
    let is_init = pod.init_containers().iter().any(|c| c.name == spec.name);
    if !may_start_again(pod, spec, if is_init { here } else { latest }) {
        return false;
    }
    let mut restart_count = 0;
    if let Some(ended) = latest {
        restart_count = match ended.state {
            State::Created => ended.restart_count,
            _ => ended.restart_count.saturating_add(1),
        };
        // After a loss of the sandbox the container starts at once: it did not crash.
        if ended.state == State::Exited && ended.sandbox_id == sandbox {
            let ran = ended.finished_ms.saturating_sub(ended.started_ms);
            let delay = memory.crash(&spec.name, ended.restart_count, ran, ended.finished_ms);
            let until = delay.until(ended.finished_ms, now);
            let wait = delay.in_force(ended.finished_ms, CRASH);
            if wait > 0 && now < until {
                plan.backing_off.push((spec.name.clone(), wait / 1000));
                plan.wake_by(until);
                return false;
            }
        }
    } else if let Some(known) = restarts_in_status(pod, &spec.name) {
        // The runtime lost everything, for example with the disk of its state.
        restart_count = known.saturating_add(1);
    }
    let waits = memory.containers.get(&spec.name).and_then(|m| m.retry.waits(now));
    match waits {
        Some(at) => plan.wake_by(at),
        None => plan.steps.push(Step::StartContainer {
            name: spec.name.clone(),
            sandbox_id: sandbox.to_owned(),
            restart_count,
        }),
    }
    false
}

/// Why and how a running container is stopped, to be started again.
fn must_restart(view: &View<'_>, spec: &Spec, c: &Container) -> Option<Stop> {
    let stop = |grace: Option<i64>, reason: String| {
        let grace_s = grace.unwrap_or_else(|| view.pod.grace_seconds()).max(0);
        Some(Stop { id: c.id.clone(), name: c.name.clone(), grace_s, reason })
    };
    if c.hash != labels::hash(spec) && !c.image.is_empty() && Some(&c.image) != spec.image.as_ref() {
        return stop(None, format!("Container {} definition changed, will be restarted", c.name));
    }
    let unhealthy = view.probes.unhealthy(c)?;
    stop(unhealthy.grace_s, unhealthy.message.clone())
}

/// How often the container was restarted, as the API knows it, if it ever ran.
fn restarts_in_status(pod: &Pod, name: &str) -> Option<u32> {
    let status = pod.status.as_ref()?;
    let mut all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let known = all.find(|c| c.name == name).filter(|c| c.container_id.as_ref().is_some_and(|id| !id.is_empty()))?;
    u32::try_from(known.restart_count).ok()
}

/// Whether the restart policy lets the container run (again).
fn may_start_again(pod: &Pod, spec: &Spec, before: Option<&Container>) -> bool {
    let Some(ended) = before.filter(|c| c.state == State::Exited) else { return true };
    if is_sidecar(spec) {
        return true;
    }
    match pod.restart_policy() {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => ended.exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Notes that the container is about to start after an end, which lengthens the next delay.
pub(crate) fn note_restart(memory: &mut Memory, seen: &Observed, name: &str) {
    if let Some(ended) = seen.latest(name).filter(|c| c.state == State::Exited) {
        let ran = ended.finished_ms.saturating_sub(ended.started_ms);
        let mut delay = memory.crash(name, ended.restart_count, ran, ended.finished_ms);
        delay.next(ended.finished_ms, CRASH);
        memory.container(name).crash = Some(delay);
    }
}
