//! Computes a pod's status as users of Kubernetes know it. No IO.
//!
//! The worker calls [`compute`] with what it saw and remembers, and reports the result when it
//! differs from the last one. Rules and words (phases, reasons, conditions, messages) are the
//! kubelet's. Invariants: a phase never goes back from Succeeded or Failed; it becomes Failed for a
//! reason of the node only when nothing of the pod runs; a condition keeps its time of transition
//! while its status stays; restart counts never shrink; conditions of others are never reported.

mod conditions;
mod containers;

pub(crate) use containers::backoff_message;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::UnixMs;
use super::plan::{Desired, View};
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
    let before = inputs.before;
    let View { pod, seen, failure, .. } = inputs.view;
    // A pod that was refused has no containers, and nothing of it is said.
    let refused = failure.is_some_and(|f| f.refused) && seen.containers.is_empty();
    let of = |specs: &[k8s_openapi::api::core::v1::Container], init: bool| -> Vec<ContainerStatus> {
        if refused { Vec::new() } else { specs.iter().map(|spec| containers::status(inputs, spec, init)).collect() }
    };
    let init = of(pod.init_containers(), true);
    let main = of(pod.containers(), false);
    let ephemeral = of(&pod.ephemeral_containers(), false);
    let (phase, failed) = phase(inputs, &init, &main);
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
    // Reason and message belong to the phase that they explain.
    let told = before.or(pod.status.as_ref()).filter(|b| b.phase.as_deref() == Some(phase));
    let failure = failure.filter(|_| failed);
    PodStatus {
        conditions: Some(conditions::all(inputs, &init, &main, phase, failed)),
        container_statuses: (!refused).then_some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
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
        reason: failure.map(|f| f.reason.clone()).or_else(|| told.and_then(|s| s.reason.clone())),
        message: failure.map(|f| f.message.clone()).or_else(|| told.and_then(|s| s.message.clone())),
        observed_generation: pod.metadata.generation,
        start_time,
        ..PodStatus::default()
    }
}

/// The phase, and whether it is Failed because of [`View::failure`].
fn phase(inputs: &Inputs<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> (&'static str, bool) {
    let View { pod, seen, memory, desired, failure, .. } = inputs.view;
    let before = inputs.before.or(pod.status.as_ref()).and_then(|s| s.phase.as_deref());
    match before {
        Some("Succeeded") => return ("Succeeded", false),
        Some("Failed") => return ("Failed", false),
        _ => {}
    }
    // A pod that may still run something is never said to have ended.
    let still = seen.running().next().is_some();
    if failure.is_some() && !still {
        return ("Failed", true);
    }
    let phase = by_containers(inputs, init, main, matches!(desired, Desired::End { .. }) && !still);
    let goes_on = |name: &str| seen.latest(name).is_some_and(|c| memory.restarts(c));
    let again = desired == Desired::Run && pod.containers().iter().any(|c| goes_on(&c.name));
    match phase {
        "Succeeded" | "Failed" if still || again => {
            (if before == Some("Running") { "Running" } else { "Pending" }, false)
        }
        _ => (phase, false),
    }
}

fn by_containers(
    inputs: &Inputs<'_>,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    terminal: bool,
) -> &'static str {
    let pod = inputs.view.pod;
    let policy = pod.restart_policy();
    let (mut pending_init, mut pending_sidecar, mut failed_init) = (false, false, false);
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for (spec, status) in pod.init_containers().iter().zip(init) {
        let state = status.state.as_ref();
        let end = state.and_then(|s| s.terminated.as_ref());
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let runs = state.is_some_and(|s| s.running.is_some());
        if is_sidecar(spec) {
            // One that has ended counts for nothing.
            let not_started = end.is_none() && !runs && last.is_none();
            pending_sidecar |= not_started || (runs && !status.started.unwrap_or(false));
            waiting += usize::from(not_started);
            running += usize::from(runs);
            continue;
        }
        match end.or(last.filter(|_| !runs)) {
            Some(end) => failed_init |= end.exit_code != 0,
            None => pending_init = true,
        }
    }
    for status in main {
        let state = status.state.as_ref();
        let end = state.and_then(|s| s.terminated.as_ref());
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        match () {
            () if state.is_some_and(|s| s.running.is_some()) => running += 1,
            () if end.is_some() => {
                stopped += 1;
                succeeded += usize::from(end.is_some_and(|e| e.exit_code == 0));
            }
            () if last.is_some() => stopped += 1,
            () => waiting += 1,
        }
    }
    if failed_init && policy == RestartPolicy::Never {
        return "Failed";
    }
    let ended = if stopped == succeeded { "Succeeded" } else { "Failed" };
    match () {
        () if pending_init || (pending_sidecar && !containers::any_main_started(main)) || waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        // A deleted pod whose containers are all gone has ended, whatever the policy.
        () if terminal => ended,
        () if policy == RestartPolicy::Always => "Running",
        () if stopped == succeeded || policy == RestartPolicy::Never => ended,
        () => "Running",
    }
}

#[cfg(test)]
mod tests;
