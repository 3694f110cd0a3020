//! The containers of a pod within its sandbox: ephemeral ones, init containers, sidecars, the others.
//! Part of [`super::plan`].

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::end::stop;
use super::{Plan, Step, Stop, View};
use crate::pod::backoff::CRASH;
use crate::pod::labels;
use crate::pod::memory::Memory;
use crate::pod::observed::{Container, Observed, State};
use crate::pod::resize::{self, Change};
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

/// Why a container is stopped whose postStart hook failed, as the kubelet says it.
pub(crate) const FAILED_POST_START_HOOK: &str = "FailedPostStartHook";

/// What the containers of a pod need next.
pub(super) fn containers(view: &View<'_>, sandbox: &str) -> Plan {
    let View { pod, seen, .. } = *view;
    let mut plan = Plan::default();
    // First, as in the kubelet: they are there to debug a pod whose init containers fail.
    for spec in &pod.ephemeral_containers() {
        ephemeral(view, spec, sandbox, &mut plan);
    }
    let initialized = pod.containers().iter().any(|c| seen.latest(&c.name).is_some_and(|c| c.sandbox_id == sandbox));
    for spec in pod.init_containers() {
        // Init containers ran for one sandbox; a new one needs them again.
        let here = seen.latest(&spec.name).filter(|c| c.sandbox_id == sandbox);
        if is_sidecar(spec) {
            // The next one begins when this one has started.
            if !keep_running(view, spec, sandbox, &mut plan) && !initialized {
                return plan;
            }
            continue;
        }
        match here {
            Some(c) if c.succeeded() => {}
            Some(c) if matches!(c.state, State::Running) => return plan,
            // Its record is lost, but the others could only begin after it.
            None if initialized => {}
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

/// An ephemeral container runs once and is never replaced.
fn ephemeral(view: &View<'_>, spec: &Spec, sandbox: &str, plan: &mut Plan) {
    match view.seen.latest(&spec.name) {
        Some(c) if c.state == State::Created => start_created(view, spec, c, plan),
        Some(_) => {}
        None if restarts_in_status(view.pod, &spec.name).is_some() => {}
        None => start(view, spec, sandbox, 0, plan),
    }
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
            if let Some(c) = here.filter(|c| stop.is_none() && resize::change(spec, c, memory) == Change::InPlace) {
                match memory.containers.get(&spec.name).and_then(|m| m.resize_retry.waits(now)) {
                    Some(at) => plan.wake_by(at),
                    None => plan.steps.push(Step::ResizeContainer { id: c.id.clone(), name: c.name.clone() }),
                }
            }
            match stop.map(|stop| (stop, memory.stop_retry.waits(now))) {
                Some((_, Some(at))) => plan.wake_by(at),
                Some((stop, None)) => plan.steps.push(Step::StopContainers(vec![stop])),
                None => {}
            }
            return started;
        }
        // Nobody can tell what it does: it must be gone before another one starts.
        Some(State::Unknown) => {
            plan.steps.extend(here.map(|c| {
                let reason = format!("Container {} is in unknown state, try killing it before restart", c.name);
                Step::StopContainers(vec![stop(view, c, pod.grace_seconds(), reason)])
            }));
            return false;
        }
        Some(State::Created) => {
            here.into_iter().for_each(|c| start_created(view, spec, c, plan));
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
    if !may_start_again(view, spec, if is_init { here } else { latest }) {
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
    start(view, spec, sandbox, restart_count, plan);
    false
}

/// Starts a container, unless the last attempt was too short ago.
fn start(view: &View<'_>, spec: &Spec, sandbox: &str, restart_count: u32, plan: &mut Plan) {
    let start = Step::StartContainer { name: spec.name.clone(), sandbox_id: sandbox.to_owned(), restart_count };
    unless_too_early(view, spec, start, plan);
}

/// A container that was created and not started: the agent ended in between, or the start is under way.
fn start_created(view: &View<'_>, spec: &Spec, c: &Container, plan: &mut Plan) {
    let step = if c.hash == labels::hash(spec) {
        Step::StartCreated { id: c.id.clone(), name: c.name.clone(), restart_count: c.restart_count }
    } else {
        Step::RemoveContainer { id: c.id.clone() }
    };
    unless_too_early(view, spec, step, plan);
}

fn unless_too_early(view: &View<'_>, spec: &Spec, step: Step, plan: &mut Plan) {
    match view.memory.containers.get(&spec.name).and_then(|m| m.retry.waits(view.now)) {
        Some(at) => plan.wake_by(at),
        None => plan.steps.push(step),
    }
}

/// Why and how a running container is stopped. As in the kubelet, one that its spec no longer describes is
/// started again whatever the restart policy; an unhealthy one under any policy but `Never`, also when it
/// ends well; after a failed hook the policy decides.
fn must_restart(view: &View<'_>, spec: &Spec, c: &Container) -> Option<Stop> {
    let again = |stop| Stop { restart: true, ..stop };
    if c.hash != labels::hash(spec) && !c.image.is_empty() && Some(&c.image) != spec.image.as_ref() {
        let reason = format!("Container {} definition changed, will be restarted", c.name);
        return Some(again(stop(view, c, view.pod.grace_seconds(), reason)));
    }
    if resize::change(spec, c, view.memory) == Change::Restart {
        let reason = format!("Container {} resize requires restart", c.name);
        return Some(again(stop(view, c, view.pod.grace_seconds(), reason)));
    }
    if view.memory.hook_failed(c) {
        return Some(stop(view, c, view.pod.grace_seconds(), FAILED_POST_START_HOOK.into()));
    }
    let unhealthy = view.probes.unhealthy(c)?;
    let grace = unhealthy.grace_s.unwrap_or_else(|| view.pod.grace_seconds());
    let restart = is_sidecar(spec) || view.pod.restart_policy() != RestartPolicy::Never;
    Some(Stop { restart, ..stop(view, c, grace, unhealthy.message.clone()) })
}

/// How often the container was restarted, as the API knows it, if it ever ran.
fn restarts_in_status(pod: &Pod, name: &str) -> Option<u32> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flat_map(|l| l.iter().flatten());
    let known = all.find(|c| c.name == name).filter(|c| c.container_id.as_ref().is_some_and(|id| !id.is_empty()))?;
    u32::try_from(known.restart_count).ok()
}

/// Whether the restart policy lets the container run (again).
fn may_start_again(view: &View<'_>, spec: &Spec, before: Option<&Container>) -> bool {
    let Some(ended) = before.filter(|c| c.state == State::Exited) else { return true };
    if is_sidecar(spec) || view.memory.restarts(ended) {
        return true;
    }
    match view.pod.restart_policy() {
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
