//! Does what the plan says: one step, against the runtime and the host.
//!
//! Called by the worker, one step at a time. A step reports its trouble through the [`Memory`] (what
//! the status shows, when to try again) and Events; the return value says only whether the worker
//! should look again. Invariants: every step can be repeated, because after a crash it will be.

mod hooks;
mod place;
mod resize;
mod start;
mod stop;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::core::v1::Pod;
use tonic::Status;

use super::backoff::RETRY;
use super::clean;
use super::memory::{Memory, Volumes};
use super::observed::Observed;
use super::plan::Step;
use super::spec::PodExt;
use crate::context::{Context, now_ms};
use crate::env::Problem;
use crate::events::{Kind, Subject};
use crate::fields::Facts;
use crate::runtime::client::is_runtime_trouble;
use crate::runtime::{container_config, dns, sandbox_config};
use crate::volumes::{self, PodDir};

/// An object that does not come is said to be missing when the delay between looks has grown to this,
/// which is after a quarter of a minute.
const SAY_PENDING_AFTER_MS: i64 = 8_000;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Yes,
    /// Noted in the memory; the rest of the plan is void.
    Failed,
}

/// Performs any step but `Finished`. While `committed` is not set, a start may be given up by dropping this.
pub(crate) async fn perform(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    seen: &Observed,
    memory: &mut Memory,
    step: &Step,
    committed: &AtomicBool,
) -> Done {
    match step {
        Step::PrepareVolumes => prepare_volumes(context, pod, seen, memory).await,
        Step::CreateSandbox { attempt } => create_sandbox(context, pod, memory, *attempt).await,
        Step::StopSandbox { id } => settle(context, pod, memory, "StopPodSandbox", context.cri.stop_sandbox(id).await),
        Step::RemoveSandbox { id } => {
            settle(context, pod, memory, "RemovePodSandbox", context.cri.remove_sandbox(id).await)
        }
        Step::RemoveContainer { id } => {
            let result = context.cri.remove_container(id).await;
            match &result {
                Ok(()) => remove_log(context, pod, seen, id),
                // A runtime that hangs is not asked for more.
                Err(status) if is_runtime_trouble(status) => {}
                Err(_) => end_task(context, pod, id).await,
            }
            settle(context, pod, memory, "RemoveContainer", result)
        }
        Step::StartContainer { name, sandbox_id, restart_count } => {
            let start = start::Start { name, sandbox_id, restart_count: *restart_count, committed };
            start::start(context, pod, seen, memory, start).await
        }
        Step::StartCreated { id, name, restart_count } => {
            let created = start::Created { id, name, restart_count: *restart_count, committed };
            start::start_created(context, pod, seen, memory, created).await
        }
        Step::ResizeContainer { id, name } => resize::resize(context, pod, memory, name, id).await,
        Step::StopContainers(stops) => stop::stop(context, pod, seen, memory, stops).await,
        Step::CleanUp => clean_up(context, pod, memory).await,
        Step::Finished => Done::Yes,
    }
}

fn settle(context: &Context, pod: &Pod, memory: &mut Memory, call: &str, result: Result<(), Status>) -> Done {
    match result {
        Ok(()) => {
            memory.stop_retry.succeeded();
            Done::Yes
        }
        Err(status) => {
            context.metrics.runtime_errors.inc();
            memory.stop_retry.failed(now_ms(), RETRY);
            tracing::warn!(pod = %pod.full_name(), call, code = ?status.code(), message = status.message(), "runtime call failed");
            let what = match call {
                "StopPodSandbox" => "stop sandbox",
                "RemovePodSandbox" => "remove sandbox",
                "StopContainer" => "kill container",
                _ => "remove container",
            };
            if !is_runtime_trouble(&status) {
                let message = format!("error killing pod: failed to {what}: {}", status.message());
                context.events.record(&Subject::pod(pod), Kind::Warning, "FailedKillPod", &message);
            }
            Done::Failed
        }
    }
}

/// Ends what keeps the runtime from removing a container that it calls ended. containerd is left so when the
/// start of a container was given up after its task began: it then neither stops nor forgets the task. The next
/// attempt to remove succeeds.
async fn end_task(context: &Arc<Context>, pod: &Pod, id: &str) {
    let (shared, uid, container) = (Arc::clone(context), pod.uid().to_owned(), id.to_owned());
    // Killing fails when there is nothing to kill.
    let _ = tokio::task::spawn_blocking(move || shared.cgroups.kill_container(&uid, &container)).await;
    if let Err(status) = context.cri.forget_task(id).await {
        tracing::debug!(pod = %pod.full_name(), code = ?status.code(), "the task of a container is not forgotten");
    }
}

fn facts(context: &Context, seen: &Observed) -> Facts {
    let mut facts = context.learned().facts;
    facts.pod_ips = seen.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
    facts
}

async fn prepare_volumes(context: &Arc<Context>, pod: &Arc<Pod>, seen: &Observed, memory: &mut Memory) -> Done {
    if place::make(context, pod).await.is_err() {
        memory.volumes_retry.failed(now_ms(), RETRY);
        return Done::Failed;
    }
    let facts = facts(context, seen);
    let (shared, spec) = (Arc::clone(context), Arc::clone(pod));
    let result = tokio::task::spawn_blocking(move || {
        let dir = PodDir::new(&shared.root, spec.uid());
        volumes::prepare(&spec, &dir, &shared.objects, &facts)
    })
    .await
    .unwrap_or_else(|_| Err(Problem::Config("the volume task ended".into())));
    match result {
        Ok(()) => {
            memory.volumes = Volumes::Ready;
            memory.volumes_retry.succeeded();
            Done::Yes
        }
        Err(problem) => {
            let waits = memory.volumes_retry.failed(now_ms(), RETRY);
            if matches!(problem, Problem::Config(_)) || waits >= SAY_PENDING_AFTER_MS {
                context.events.record(&Subject::pod(pod), Kind::Warning, "FailedMount", problem.text());
            }
            Done::Failed
        }
    }
}

async fn create_sandbox(context: &Arc<Context>, pod: &Pod, memory: &mut Memory, attempt: u32) -> Done {
    if attempt > 0 {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        context.events.record(&Subject::pod(pod), Kind::Normal, "SandboxChanged", message);
    }
    let result = async {
        let handler = match pod.spec().runtime_class_name.as_deref().filter(|n| !n.is_empty()) {
            None => String::new(),
            Some(name) => match context.objects.runtime_class(name) {
                Some(class) => class.handler.clone(),
                None => return Err(Status::not_found(format!("runtimeclass.node.k8s.io {name:?} not found"))),
            },
        };
        place::identity(context, pod, &handler).await?;
        dns::hostname(pod, &context.cluster_dns.domain).map_err(Status::invalid_argument)?;
        let host_dns = dns::host();
        for (reason, message) in dns::notes(pod, &context.cluster_dns, &host_dns) {
            if reason == dns::MISSING_CLUSTER_DNS {
                let node = Subject::node(&context.node);
                context.events.record(&node, Kind::Warning, reason, dns::MISSING_CLUSTER_DNS_TEXT);
            }
            context.events.record(&Subject::pod(pod), Kind::Warning, reason, &message);
        }
        let _place = context.starts.place().await.ok_or_else(|| Status::cancelled("stopping"))?;
        let config = context.sandbox_config(pod, attempt, &host_dns);
        std::fs::create_dir_all(&config.log_directory)
            .map_err(|e| Status::internal(format!("{}: {e}", config.log_directory)))?;
        context.cri.run_sandbox(config, handler).await
    }
    .await;
    match result {
        Ok(_) => {
            context.metrics.sandboxes_created.inc();
            memory.sandbox_retry.succeeded();
            Done::Yes
        }
        Err(status) => {
            context.metrics.runtime_errors.inc();
            memory.sandbox_retry.failed(now_ms(), RETRY);
            let message = format!("Failed to create pod sandbox: {}", status.message());
            context.events.record(&Subject::pod(pod), Kind::Warning, "FailedCreatePodSandBox", &message);
            Done::Failed
        }
    }
}

/// The log of a container that is gone.
fn remove_log(context: &Context, pod: &Pod, seen: &Observed, id: &str) {
    if let Some(c) = seen.containers.iter().find(|c| c.id == id) {
        let dir = sandbox_config::log_dir(&context.log_dir, pod);
        let log = dir.join(container_config::log_path(&c.name, c.restart_count));
        crate::logs::remove(context.log_links.as_deref(), pod, &c.name, id, &log);
        let _ = std::fs::remove_file(PodDir::new(&context.root, pod.uid()).message(&c.name, c.restart_count));
    }
}

async fn clean_up(context: &Arc<Context>, pod: &Arc<Pod>, memory: &mut Memory) -> Done {
    let (shared, uid) = (Arc::clone(context), pod.uid().to_owned());
    let result = tokio::task::spawn_blocking(move || clean::clean_up(&shared, &uid))
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the cleaning task ended")));
    match result {
        Ok(()) => {
            memory.cleaned = true;
            Done::Yes
        }
        Err(e) => {
            memory.stop_retry.failed(now_ms(), RETRY);
            let message = format!("failed to clean up: {e}");
            context.events.record(&Subject::pod(pod), Kind::Warning, "FailedKillPod", &message);
            Done::Failed
        }
    }
}
