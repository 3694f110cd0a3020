//! The status of one container. Part of [`super`].

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, PodStatus, VolumeMountStatus,
};

use super::{Inputs, time};
use crate::pod::memory::Waiting;
use crate::pod::observed::{Container, State};
use crate::pod::plan::{Desired, View, has_ended};
use crate::pod::resize;
use crate::pod::spec::{PodExt, RestartPolicy, is_sidecar};

fn previous_status<'a>(inputs: &'a Inputs<'_>, name: &str) -> Option<&'a ContainerStatus> {
    let of = |s: &'a PodStatus| {
        let lists = [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses];
        lists.into_iter().flat_map(|l| l.iter().flatten()).find(|c| c.name == name)
    };
    inputs.before.and_then(of).or_else(|| inputs.view.pod.status.as_ref().and_then(of))
}

pub(super) fn status(inputs: &Inputs<'_>, spec: &Spec, init: bool) -> ContainerStatus {
    let View { pod, seen, memory, .. } = inputs.view;
    let latest = seen.latest(&spec.name);
    let known = previous_status(inputs, &spec.name);
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        volume_mounts: volume_mounts(spec),
        ..ContainerStatus::default()
    };
    let Some(c) = latest else {
        return without_container(inputs, spec, init, known, status);
    };
    status.restart_count = i32::try_from(c.restart_count).unwrap_or(i32::MAX);
    status.container_id = Some(id(inputs, c));
    status.image_id = c.image_id.clone();
    status.user = c.user.clone();
    if !c.image.is_empty() {
        status.image = c.image.clone();
    }
    if !is_ephemeral(pod, &spec.name) {
        status.allocated_resources = spec.resources.as_ref().and_then(|r| r.requests.clone());
        let running = (c.state == State::Running).then(|| resize::actual(c, memory)).flatten();
        status.resources = Some(running.or_else(|| spec.resources.clone()).unwrap_or_default());
    }
    let previous = seen.previous(&spec.name).filter(|p| p.state == State::Exited);
    status.last_state = previous.map(|p| terminated(inputs, p));
    let waits = memory.containers.get(&spec.name).and_then(|m| m.waiting.clone());
    let backing_off = inputs.backing_off.iter().find(|(name, _)| *name == spec.name);
    match c.state {
        State::Running => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: time(c.started_ms) }),
                ..ContainerState::default()
            });
            status.started = Some(inputs.view.probes.started(spec, c));
            // An init container is ready when it is done.
            status.ready = (!init || is_sidecar(spec)) && inputs.view.probes.ready(spec, c);
        }
        State::Exited => {
            let here = seen.ready_sandbox().is_some_and(|s| s.id == c.sandbox_id);
            let end = terminated(inputs, c);
            let ending = matches!(inputs.view.desired, Desired::End { .. }) || has_ended(&inputs.view);
            let starts_again = !ending
                && match pod.restart_policy() {
                    _ if is_ephemeral(pod, &spec.name) => false,
                    _ if memory.restarts(c) => true,
                    _ if is_sidecar(spec) => true,
                    _ if init => !c.succeeded() && pod.restart_policy() != RestartPolicy::Never,
                    RestartPolicy::Always => true,
                    RestartPolicy::OnFailure => !c.succeeded(),
                    RestartPolicy::Never => !here && !c.succeeded(),
                };
            let waiting = if !starts_again {
                None
            } else if let Some((_, seconds)) = backing_off {
                Some(crash_loop(pod, &spec.name, *seconds))
            } else {
                waits
            };
            match waiting {
                Some(waiting) => {
                    status.state = Some(wait(&waiting));
                    status.last_state = Some(end);
                }
                None => status.state = Some(end),
            }
            status.ready = init && c.succeeded();
        }
        State::Created | State::Unknown => {
            status.state = Some(wait(&waits.unwrap_or_else(|| default_waiting(pod, init))));
        }
    }
    status
}

/// Nothing in the runtime: not started yet, or lost.
fn without_container(
    inputs: &Inputs<'_>,
    spec: &Spec,
    init: bool,
    known: Option<&ContainerStatus>,
    mut status: ContainerStatus,
) -> ContainerStatus {
    let waits = inputs.view.memory.containers.get(&spec.name).and_then(|m| m.waiting.clone());
    let waiting = waits.unwrap_or_else(|| default_waiting(inputs.view.pod, init));
    status.state = Some(wait(&waiting));
    let Some(known) = known.filter(|k| k.container_id.as_ref().is_some_and(|id| !id.is_empty())) else {
        return status;
    };
    status.restart_count = known.restart_count;
    let end = known.state.as_ref().and_then(|s| s.terminated.clone());
    let ephemeral = is_ephemeral(inputs.view.pod, &spec.name);
    let over = matches!(inputs.view.desired, Desired::End { .. }) || has_ended(&inputs.view);
    match end {
        // The end that was reported stays, when it will not run again.
        Some(end) if over || ephemeral || (init && end.exit_code == 0) => {
            status.ready = init && end.exit_code == 0;
            status.state = Some(ContainerState { terminated: Some(end), ..ContainerState::default() });
            status.container_id = known.container_id.clone();
            status.image_id = known.image_id.clone();
            status.last_state = known.last_state.clone();
        }
        Some(end) => status.last_state = Some(ContainerState { terminated: Some(end), ..ContainerState::default() }),
        // It ran and is gone; nobody saw how it ended.
        None if known.state.as_ref().is_some_and(|s| s.running.is_some()) => {
            let end = ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some("The container could not be located when the pod was terminated".into()),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            };
            if over || ephemeral {
                status.state = Some(end);
            } else {
                status.last_state = Some(end);
            }
        }
        None => status.last_state = known.last_state.clone(),
    }
    status
}

/// What the termination messages of all containers of a pod may have in bytes, as in the kubelet.
const MESSAGES_OF_POD: usize = 12 << 10;

/// The share of one container.
fn message_limit(pod: &Pod) -> usize {
    let ephemeral = pod.spec().ephemeral_containers.as_ref().map_or(0, Vec::len);
    MESSAGES_OF_POD / (pod.containers().len() + pod.init_containers().len() + ephemeral).max(1)
}

/// The beginning of a text, in so many bytes at most.
fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

fn id(inputs: &Inputs<'_>, c: &Container) -> String {
    format!("{}://{}", inputs.runtime, c.id)
}

fn default_waiting(pod: &Pod, init: bool) -> Waiting {
    let waits_for_init = !init && !pod.init_containers().is_empty();
    Waiting::new(if init || waits_for_init { "PodInitializing" } else { "ContainerCreating" }, "")
}

fn crash_loop(pod: &Pod, name: &str, seconds: i64) -> Waiting {
    Waiting::new("CrashLoopBackOff", backoff_message(pod, name, seconds))
}

/// What the kubelet writes into status and Event.
pub(crate) fn backoff_message(pod: &Pod, name: &str, seconds: i64) -> String {
    let delay = match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    };
    format!("back-off {delay} restarting failed container={name} pod={}", pod.full_name())
}

fn wait(waiting: &Waiting) -> ContainerState {
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(&waiting.reason), message: text(&waiting.message) }),
        ..ContainerState::default()
    }
}

fn terminated(inputs: &Inputs<'_>, c: &Container) -> ContainerState {
    let reason = match c.reason.as_str() {
        "" if c.exit_code == 0 => "Completed",
        "" => "Error",
        other => other,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id(inputs, c)),
            exit_code: c.exit_code,
            finished_at: time(c.finished_ms),
            started_at: time(c.started_ms),
            reason: Some(reason.to_owned()),
            message: (!c.message.is_empty()).then(|| cut(&c.message, message_limit(inputs.view.pod)).to_owned()),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// Whether any container that is not for initialization has ever started.
pub(super) fn any_main_started(main: &[ContainerStatus]) -> bool {
    main.iter().any(|s| {
        let state = s.state.as_ref();
        let last = s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
        last || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    })
}

fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    pod.spec().ephemeral_containers.iter().flatten().any(|c| c.name == name)
}

fn volume_mounts(spec: &Spec) -> Option<Vec<VolumeMountStatus>> {
    let all: Vec<VolumeMountStatus> = spec
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| {
            let read_only = m.read_only.filter(|r| *r);
            VolumeMountStatus {
                mount_path: m.mount_path.clone(),
                name: m.name.clone(),
                read_only,
                recursive_read_only: read_only.map(|_| "Disabled".to_owned()),
            }
        })
        .collect();
    (!all.is_empty()).then_some(all)
}
