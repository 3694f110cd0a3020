//! The conditions of a pod that the node owns. Part of [`super`].

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition};

use super::containers::any_main_started;
use super::{Inputs, time};
use crate::pod::observed::State;
use crate::pod::plan::View;
use crate::pod::resize::{self, Change};
use crate::pod::spec::{PodExt, is_sidecar};

/// The node's conditions but for [`DISRUPTION`]; all others are somebody else's.
const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// Says that the node ended the pod for its own sake. Once set it stays.
const DISRUPTION: &str = "DisruptionTarget";

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

/// All conditions of the node's. `failed`: the phase is Failed for the reason in the view.
pub(super) fn all(
    inputs: &Inputs<'_>,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
    failed: bool,
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
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    };
    let initialized = initialized(pod, init, main, phase);
    let containers = containers_ready(pod, init, main, phase);
    let ready = ready(pod, &containers);
    let sandbox = inputs.view.seen.ready_sandbox().is_some();
    let verdicts = [Verdict { ok: sandbox, ..Verdict::default() }, initialized, ready, containers, Verdict::ok()];
    let mut all: Vec<PodCondition> =
        OURS.iter().zip(verdicts).map(|(kind, verdict)| condition(kind, verdict)).collect();
    all.extend(resizing(inputs).map(|(kind, verdict)| condition(kind, verdict)));
    let disruption = inputs.view.failure.filter(|_| failed).and_then(|f| f.disruption.clone());
    all.extend(match disruption {
        Some(message) => {
            let verdict = Verdict { ok: true, reason: "TerminationByKubelet".into(), message };
            Some(condition(DISRUPTION, verdict))
        }
        None => old.iter().find(|c| c.type_ == DISRUPTION).cloned(),
    });
    all
}

/// A resize that waits, or that is on its way.
fn resizing(inputs: &Inputs<'_>) -> Option<(&'static str, Verdict)> {
    let View { pod, seen, memory, .. } = inputs.view;
    if let Some(pending) = &memory.resize {
        return Some((
            "PodResizePending",
            Verdict { ok: true, reason: pending.reason.into(), message: pending.message.clone() },
        ));
    }
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let changing = |spec: &&Container| {
        let running = seen.latest(&spec.name).filter(|c| c.state == State::Running);
        running.is_some_and(|c| resize::change(spec, c, memory) != Change::None)
    };
    let spec = pod.containers().iter().chain(sidecars).find(changing)?;
    let error = memory.containers.get(&spec.name).and_then(|m| m.resize_error.clone());
    let reason = if error.is_some() { "Error".to_owned() } else { String::new() };
    Some(("PodResizeInProgress", Verdict { ok: true, reason, message: error.unwrap_or_default() }))
}

fn initialized(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { ok: true, reason: "PodCompleted".into(), message: String::new() };
    }
    if init.is_empty() && !pod.init_containers().is_empty() {
        return Verdict::no("UnknownContainerStatuses", "");
    }
    let incomplete: Vec<&str> = pod
        .init_containers()
        .iter()
        .zip(init)
        .filter(|(spec, status)| if is_sidecar(spec) { status.started != Some(true) } else { !status.ready })
        .map(|(spec, _)| spec.name.as_str())
        .collect();
    // A sidecar that starts again later does not undo it.
    if incomplete.is_empty() || any_main_started(main) {
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
    if main.is_empty() {
        return Verdict::no("UnknownContainerStatuses", "");
    }
    if unready.is_empty() {
        return Verdict::ok();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

/// The containers and the readiness gates, whose conditions are set by others in the API.
fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.ok {
        return containers.clone();
    }
    let in_api = || pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let open: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match in_api().find(|c| c.type_ == *kind) {
                Some(c) if c.status == "True" => None,
                Some(c) => Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status)),
                None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            }
        })
        .collect();
    if open.is_empty() { Verdict::ok() } else { Verdict::no("ReadinessGatesNotReady", open.join(", ")) }
}
