//! A pod that shall run: volumes, then the sandbox, then containers. Part of [`super::plan`].

use super::containers::containers;
use super::{Plan, Step, View};
use crate::pod::memory::Volumes;
use crate::pod::observed::State;
use crate::pod::spec::PodExt;

pub(super) fn run(view: &View<'_>) -> Plan {
    let View { seen, memory, now, .. } = *view;
    if memory.volumes != Volumes::Ready {
        match memory.volumes_retry.waits(now) {
            None => return Plan::step(Step::PrepareVolumes),
            // Volumes that were set up once stay usable while their update fails.
            Some(at) if memory.volumes == Volumes::Missing && seen.ready_sandbox().is_none() => return Plan::wake(at),
            Some(at) => {
                let mut plan = run_in_sandbox(view, memory.volumes == Volumes::Stale);
                plan.wake_by(at);
                return plan;
            }
        }
    }
    run_in_sandbox(view, true)
}

fn run_in_sandbox(view: &View<'_>, volumes: bool) -> Plan {
    let Some(sandbox) = view.seen.ready_sandbox() else {
        return if volumes { new_sandbox(view) } else { Plan::default() };
    };
    // Of a lost sandbox that is stopped by now, only the newest dead containers are kept.
    let mut plan = containers(view, &sandbox.id);
    if !volumes {
        plan.steps.retain(|s| !s.is_start());
    }
    if plan.steps.is_empty() {
        plan.steps = garbage(view, &sandbox.id);
    }
    plan
}

/// The pod has no sandbox, or lost it: the runtime or the machine was restarted, or somebody killed it.
fn new_sandbox(view: &View<'_>) -> Plan {
    let View { seen, memory, now, .. } = *view;
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

/// Of each container the newest and the one before are kept, for the status and the logs.
fn garbage(view: &View<'_>, sandbox: &str) -> Vec<Step> {
    let View { pod, seen, .. } = *view;
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
