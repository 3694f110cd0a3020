//! Computes a pod's status as users of Kubernetes know it. No IO.
//!
//! The worker calls [`compute`] with what it saw and remembers, and reports the result when it
//! differs from the last one. Rules and words (phases, reasons, conditions, messages) are the
//! kubelet's. Invariants: a phase never goes back from Succeeded or Failed; a condition keeps its
//! time of transition while its status stays; restart counts never shrink.

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::UnixMs;
use super::memory::Waiting;
use super::observed::{Container, State};
use super::plan::{Desired, View, has_ended};
use super::spec::{PodExt, RestartPolicy, is_sidecar};
use crate::resources;

/// What the status needs besides what the plan is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) view: View<'a>,
    /// Containers in a crash loop's delay, in seconds.
    pub(crate) backing_off: &'a [(String, i64)],
    /// The status reported last, or the one in the API.
    pub(crate) before: Option<&'a PodStatus>,
    pub(crate) host_ips: &'a [String],
    /// Name of the runtime, the scheme of container ids.
    pub(crate) runtime: &'a str,
}

/// The time in the form of the API, to the second.
pub(crate) fn time(ms: UnixMs) -> Option<Time> {
    if ms <= 0 {
        return None;
    }
    jiff::Timestamp::from_second(ms.div_euclid(1000)).ok().map(Time::from)
}

/// See the module documentation.
pub(crate) fn compute(inputs: &Inputs<'_>) -> PodStatus {
    let Inputs { before, .. } = inputs;
    let View { pod, seen, .. } = inputs.view;
    let init: Vec<ContainerStatus> = pod.init_containers().iter().map(|spec| container(inputs, spec, true)).collect();
    let main: Vec<ContainerStatus> = pod.containers().iter().map(|spec| container(inputs, spec, false)).collect();
    let phase = phase(inputs, &init, &main);
    let sandbox = seen.ready_sandbox();
    let host = pod.host_network();
    let ips: Vec<PodIP> = if host {
        // Known only once the pod has a sandbox, as everywhere.
        sandbox.map(|_| inputs.host_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()).unwrap_or_default()
    } else {
        sandbox.map(|s| s.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()).unwrap_or_default()
    };
    let start_time = before
        .and_then(|b| b.start_time.clone())
        .or_else(|| pod.status.as_ref().and_then(|s| s.start_time.clone()))
        .or_else(|| time(inputs.view.now));
    let ended = matches!(phase, "Succeeded" | "Failed");
    PodStatus {
        conditions: Some(conditions(inputs, &init, &main, phase)),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: inputs.host_ips.first().cloned(),
        host_ips: Some(inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect::<Vec<_>>())
            .filter(|ips| !ips.is_empty()),
        pod_ip: ips.first().map(|ip| ip.ip.clone()).or_else(|| before.filter(|_| ended).and_then(|b| b.pod_ip.clone())),
        pod_ips: if ips.is_empty() { before.filter(|_| ended).and_then(|b| b.pod_ips.clone()) } else { Some(ips) },
        phase: Some(phase.to_owned()),
        qos_class: Some(
            pod.status
                .as_ref()
                .and_then(|s| s.qos_class.clone())
                .unwrap_or_else(|| resources::qos(pod).name().to_owned()),
        ),
        reason: pod.status.as_ref().filter(|_| ended).and_then(|s| s.reason.clone()),
        message: pod.status.as_ref().filter(|_| ended).and_then(|s| s.message.clone()),
        start_time,
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn previous_status<'a>(inputs: &'a Inputs<'_>, name: &str) -> Option<&'a ContainerStatus> {
    let of = |s: &'a PodStatus| {
        let all = s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten());
        all.into_iter().find(|c| c.name == name)
    };
    inputs.before.and_then(of).or_else(|| inputs.view.pod.status.as_ref().and_then(of))
}

fn container(inputs: &Inputs<'_>, spec: &Spec, init: bool) -> ContainerStatus {
    let View { pod, seen, memory, .. } = inputs.view;
    let latest = seen.latest(&spec.name);
    let known = previous_status(inputs, &spec.name);
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(c) = latest else {
        return without_container(inputs, spec, init, known, status);
    };
    status.restart_count = i32::try_from(c.restart_count).unwrap_or(i32::MAX);
    status.container_id = Some(id(inputs, c));
    status.image_id = c.image_id.clone();
    if !c.image.is_empty() {
        status.image = c.image.clone();
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
            let ending = matches!(inputs.view.desired, Desired::End { .. }) || has_ended(pod, seen);
            let starts_again = !ending
                && match pod.restart_policy() {
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
    let over = matches!(inputs.view.desired, Desired::End { .. }) || inputs.view.pod.ended_before();
    match end {
        // The end that was reported stays, when it will not run again.
        Some(end) if over || (init && end.exit_code == 0) => {
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
            if over {
                status.state = Some(end);
            } else {
                status.last_state = Some(end);
            }
        }
        None => status.last_state = known.last_state.clone(),
    }
    status
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
            message: (!c.message.is_empty()).then(|| c.message.clone()),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn phase(inputs: &Inputs<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let pod = inputs.view.pod;
    let before = inputs.before.or(pod.status.as_ref()).and_then(|s| s.phase.as_deref());
    match before {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let policy = pod.restart_policy();
    let (mut pending_init, mut failed_init) = (false, false);
    for (spec, status) in pod.init_containers().iter().zip(init) {
        let state = status.state.as_ref();
        let end = state.and_then(|s| s.terminated.as_ref());
        if is_sidecar(spec) {
            pending_init |= !status.started.unwrap_or(false) && status.last_state.is_none() && end.is_none();
            continue;
        }
        match end {
            Some(end) => failed_init |= end.exit_code != 0,
            None => {
                pending_init = true;
                let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
                failed_init |= last.is_some_and(|e| e.exit_code != 0) && policy == RestartPolicy::Never;
            }
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for state in main.iter().map(|s| (s.state.as_ref(), s.last_state.as_ref())) {
        match state {
            (Some(s), _) if s.running.is_some() => running += 1,
            (Some(s), _) if s.terminated.is_some() => {
                stopped += 1;
                if s.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
                    succeeded += 1;
                }
            }
            (_, Some(last)) if last.terminated.is_some() => stopped += 1,
            _ => waiting += 1,
        }
    }
    if failed_init && policy == RestartPolicy::Never {
        return "Failed";
    }
    // A deleted pod whose containers are all gone has ended, whatever the policy.
    let ended = matches!(inputs.view.desired, Desired::End { .. })
        && inputs.view.seen.running().next().is_none()
        && running == 0;
    match () {
        () if pending_init || waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped > 0 && ended => {
            if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        () if stopped > 0 && policy == RestartPolicy::Always => "Running",
        () if stopped > 0 && stopped == succeeded => "Succeeded",
        () if stopped > 0 && policy == RestartPolicy::Never => "Failed",
        () if stopped > 0 => "Running",
        () => "Pending",
    }
}

fn conditions(
    inputs: &Inputs<'_>,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> Vec<PodCondition> {
    let pod = inputs.view.pod;
    let old = inputs.before.or(pod.status.as_ref()).and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str, verdict: Verdict| {
        let status = if verdict.ok { "True" } else { "False" };
        let same = old.iter().find(|c| c.type_ == kind && c.status == status);
        let text = |s: String| (!s.is_empty()).then_some(s);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: text(verdict.reason),
            message: text(verdict.message),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| time(inputs.view.now)),
            ..PodCondition::default()
        }
    };
    let initialized = initialized(pod, init, phase);
    let containers = containers_ready(pod, init, main, phase);
    let ready = ready(pod, &containers, old);
    let sandbox = inputs.view.seen.ready_sandbox().is_some();
    let mut all = vec![
        condition("PodReadyToStartContainers", Verdict { ok: sandbox, ..Verdict::default() }),
        condition("Initialized", initialized),
        condition("Ready", ready),
        condition("ContainersReady", containers),
        condition("PodScheduled", Verdict::ok()),
    ];
    // Conditions of others (readiness gates, DisruptionTarget) are theirs to change.
    all.extend(old.iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned());
    all
}

const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

#[derive(Default, Clone)]
struct Verdict {
    ok: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn ok() -> Self {
        Self { ok: true, ..Self::default() }
    }

    fn no(reason: &str, message: impl Into<String>) -> Self {
        Self { ok: false, reason: reason.into(), message: message.into() }
    }
}

fn initialized(pod: &Pod, init: &[ContainerStatus], phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { ok: true, reason: "PodCompleted".into(), message: String::new() };
    }
    let incomplete: Vec<&str> = pod
        .init_containers()
        .iter()
        .zip(init)
        .filter(|(spec, status)| {
            let done = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
            let started = is_sidecar(spec) && status.started.unwrap_or(false);
            !done && !started
        })
        .map(|(spec, _)| spec.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::ok();
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

fn containers_ready(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", ""),
        "Failed" => return Verdict::no("PodFailed", ""),
        _ => {}
    }
    let sidecars = pod.init_containers().iter().zip(init).filter(|(spec, _)| is_sidecar(spec)).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(main).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() && !main.is_empty() {
        return Verdict::ok();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn ready(pod: &Pod, containers: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers.ok {
        return containers.clone();
    }
    let open: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let found = pod
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .chain(old)
                .find(|c| c.type_ == gate.condition_type);
            match found {
                Some(c) if c.status == "True" => None,
                Some(_) => Some(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but False",
                    gate.condition_type
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
            }
        })
        .collect();
    if open.is_empty() { Verdict::ok() } else { Verdict::no("ReadinessGatesNotReady", open.join(", ")) }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
