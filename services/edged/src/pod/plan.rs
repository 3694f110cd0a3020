//! Decides what to do next with a pod. No IO, no clock, no randomness.
//!
//! The worker calls [`plan`] after every observation, performs the steps in order, observes again,
//! and repeats until there is no step; then it sleeps until [`Plan::wake_at`] or until it is told of
//! a change. So every decision is made from what the runtime shows now, and a crash of the agent
//! between any two steps costs nothing but a new look.
//!
//! Invariants (each one a test below):
//! - P1 a container is started only in the newest sandbox, when that is ready and volumes are set up;
//! - P2 a running container is stopped only when the pod ends, its sandbox is lost, or its image changed;
//! - P3 a container is never started while one of its name runs;
//! - P4 a pod that has ended never starts anything again;
//! - P5 a deleted pod goes through: containers stopped, sandbox stopped, all removed, cleaned, finished;
//! - P6 without a step there is a wake-up time or nothing to wait for but an event.

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::UnixMs;
use super::backoff::CRASH;
use super::labels;
use super::memory::{Memory, Volumes};
use super::observed::{Container, Observed, State};
use super::spec::{PodExt, RestartPolicy, is_sidecar};

/// What is wanted of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desired {
    Run,
    /// Deleted: containers get until `deadline` to end.
    End {
        deadline: UnixMs,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Pull the image if needed, create and start.
    StartContainer {
        name: String,
        sandbox_id: String,
        restart_count: u32,
    },
    /// All at the same time.
    StopContainers(Vec<Stop>),
    RemoveContainer {
        id: String,
    },
    /// Unmount and remove all that the pod has on the host.
    CleanUp,
    /// Nothing is left: report it and forget the pod.
    Finished,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Whole seconds, at least 0.
    pub(crate) grace_s: i64,
    /// For the Event.
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// When to look again though nothing happened.
    pub(crate) wake_at: Option<UnixMs>,
    /// Containers that wait for the end of a crash loop's delay, in seconds.
    pub(crate) backing_off: Vec<(String, i64)>,
}

impl Plan {
    fn step(step: Step) -> Self {
        Self { steps: vec![step], ..Self::default() }
    }

    fn wake(at: UnixMs) -> Self {
        Self { wake_at: Some(at), ..Self::default() }
    }

    fn wake_by(&mut self, at: UnixMs) {
        self.wake_at = Some(self.wake_at.map_or(at, |now| now.min(at)));
    }
}

/// See the module documentation.
pub(crate) fn plan(pod: &Pod, desired: Desired, seen: &Observed, memory: &Memory, now: UnixMs) -> Plan {
    match desired {
        Desired::End { deadline } => end(pod, seen, memory, deadline, now),
        Desired::Run if has_ended(pod, seen) => stop_all(pod, seen, memory, now),
        Desired::Run => run(pod, seen, memory, now),
    }
}

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
fn end(pod: &Pod, seen: &Observed, memory: &Memory, deadline: UnixMs, now: UnixMs) -> Plan {
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
fn stop_all(pod: &Pod, seen: &Observed, memory: &Memory, now: UnixMs) -> Plan {
    if let Some(at) = memory.stop_retry.waits(now) {
        return Plan::wake(at);
    }
    if let Some(stop) = stop_containers(pod, seen, now.saturating_add(pod.grace_seconds().saturating_mul(1000)), now) {
        return Plan::step(stop);
    }
    let ready = seen.sandboxes.iter().filter(|s| s.ready).map(|s| Step::StopSandbox { id: s.id.clone() });
    Plan { steps: ready.collect(), ..Plan::default() }
}

fn run(pod: &Pod, seen: &Observed, memory: &Memory, now: UnixMs) -> Plan {
    if memory.volumes != Volumes::Ready {
        match memory.volumes_retry.waits(now) {
            None => return Plan::step(Step::PrepareVolumes),
            // Volumes that were set up once stay usable while their update fails.
            Some(at) if memory.volumes == Volumes::Missing && seen.ready_sandbox().is_none() => return Plan::wake(at),
            Some(at) => {
                let mut plan = run_in_sandbox(pod, seen, memory, now, memory.volumes == Volumes::Stale);
                plan.wake_by(at);
                return plan;
            }
        }
    }
    run_in_sandbox(pod, seen, memory, now, true)
}

fn run_in_sandbox(pod: &Pod, seen: &Observed, memory: &Memory, now: UnixMs, volumes: bool) -> Plan {
    let Some(sandbox) = seen.ready_sandbox() else {
        return if volumes { new_sandbox(seen, memory, now) } else { Plan::default() };
    };
    // Of a lost sandbox that is stopped by now, only the newest dead containers are kept.
    let mut plan = containers(pod, seen, memory, now, &sandbox.id);
    if !volumes {
        plan.steps.retain(|s| !matches!(s, Step::StartContainer { .. }));
    }
    if plan.steps.is_empty() {
        plan.steps = garbage(pod, seen, &sandbox.id);
    }
    plan
}

/// The pod has no sandbox, or lost it: the runtime or the machine was restarted, or somebody killed it.
fn new_sandbox(seen: &Observed, memory: &Memory, now: UnixMs) -> Plan {
    if let Some(at) = memory.sandbox_retry.waits(now).or(memory.stop_retry.waits(now)) {
        return Plan::wake(at);
    }
    let Some(newest) = seen.sandboxes.first() else {
        return Plan::step(Step::CreateSandbox { attempt: 0 });
    };
    // Stopping gives the network back and ends what still runs in it. How that ends may end the pod,
    // so nothing else is decided before it is seen.
    let mut running: Vec<Step> = seen.running().map(|c| Step::StopSandbox { id: c.sandbox_id.clone() }).collect();
    running.dedup();
    if !running.is_empty() {
        return Plan { steps: running, ..Plan::default() };
    }
    let mut steps = Vec::new();
    // Old sandboxes that hold no container any more are of no use.
    let unused = |id: &str| !seen.containers.iter().any(|c| c.sandbox_id == id);
    for old in &seen.sandboxes {
        steps.push(Step::StopSandbox { id: old.id.clone() });
        if unused(&old.id) {
            steps.push(Step::RemoveSandbox { id: old.id.clone() });
        }
    }
    steps.push(Step::CreateSandbox { attempt: newest.attempt.saturating_add(1) });
    Plan { steps, ..Plan::default() }
}

fn containers(pod: &Pod, seen: &Observed, memory: &Memory, now: UnixMs, sandbox: &str) -> Plan {
    let mut plan = Plan::default();
    for spec in pod.init_containers() {
        // Init containers ran for one sandbox; a new one needs them again.
        let here = seen.latest(&spec.name).filter(|c| c.sandbox_id == sandbox);
        if is_sidecar(spec) {
            // The next one begins when this one has started.
            if !keep_running(pod, spec, seen, memory, now, sandbox, &mut plan) {
                return plan;
            }
            continue;
        }
        match here {
            Some(c) if c.succeeded() => {}
            Some(c) if matches!(c.state, State::Running) => return plan,
            _ => {
                keep_running(pod, spec, seen, memory, now, sandbox, &mut plan);
                return plan;
            }
        }
    }
    for spec in pod.containers() {
        keep_running(pod, spec, seen, memory, now, sandbox, &mut plan);
    }
    plan
}

/// Whether the container runs; if not, says what to do about it.
fn keep_running(
    pod: &Pod,
    spec: &Spec,
    seen: &Observed,
    memory: &Memory,
    now: UnixMs,
    sandbox: &str,
    plan: &mut Plan,
) -> bool {
    let latest = seen.latest(&spec.name);
    let here = latest.filter(|c| c.sandbox_id == sandbox);
    match here.map(|c| c.state) {
        Some(State::Running) => {
            let changed = here.filter(|c| {
                c.hash != labels::hash(spec) && !c.image.is_empty() && Some(&c.image) != spec.image.as_ref()
            });
            if let Some(c) = changed {
                plan.steps.push(Step::StopContainers(vec![Stop {
                    id: c.id.clone(),
                    name: c.name.clone(),
                    grace_s: pod.grace_seconds(),
                    reason: format!("Container {} definition changed, will be restarted", c.name),
                }]));
            }
            return changed.is_none();
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

/// Of each container the newest and the one before are kept, for the status and the logs.
fn garbage(pod: &Pod, seen: &Observed, sandbox: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut kept_sandboxes = vec![sandbox.to_owned()];
    let known = |name: &str| {
        pod.containers().iter().chain(pod.init_containers()).any(|c| c.name == name)
            || pod.spec().ephemeral_containers.iter().flatten().any(|c| c.name == name)
    };
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for container in &seen.containers {
        let count = counts.entry(&container.name).or_default();
        *count += 1;
        let dead = matches!(container.state, State::Exited | State::Created);
        if dead && (*count > 2 || !known(&container.name)) {
            steps.push(Step::RemoveContainer { id: container.id.clone() });
        } else {
            kept_sandboxes.push(container.sandbox_id.clone());
        }
    }
    for old in seen.sandboxes.iter().skip(1).filter(|s| !kept_sandboxes.contains(&s.id)) {
        steps.push(Step::StopSandbox { id: old.id.clone() });
        steps.push(Step::RemoveSandbox { id: old.id.clone() });
    }
    steps
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

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
