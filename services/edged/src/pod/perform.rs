//! Does what the plan says: one step, against the runtime and the host.
//!
//! Called by the worker, one step at a time. A step reports its trouble through the [`Memory`] (what
//! the status shows, when to try again) and Events; the return value says only whether the worker
//! should look again. Invariants: every step can be repeated, because after a crash it will be.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_common::kinds;
use skerry_proto::cri::v1::Mount;
use tonic::Status;

use super::backoff::{IMAGE, RETRY};
use super::memory::{Memory, Volumes, Waiting};
use super::observed::Observed;
use super::plan::{Step, Stop, note_restart};
use super::spec::{self, PodExt};
use crate::context::{Context, now_ms};
use crate::env::{self, Problem};
use crate::events::{Kind, Subject};
use crate::fields::Facts;
use crate::images;
use crate::runtime::client::is_runtime_trouble;
use crate::runtime::{container_config, dns, sandbox_config};
use crate::volumes::{self, PodDir};

/// How long after the agent's start the list of services is waited for.
const SERVICES_SETTLE: Duration = Duration::from_secs(5);

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

/// Performs any step but `Finished`. Until `committed` is set, a start may be given up by dropping this.
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
            let done = settle(context, pod, memory, "RemoveContainer", context.cri.remove_container(id).await);
            if done == Done::Yes {
                remove_log(context, pod, seen, id);
            }
            done
        }
        Step::StartContainer { name, sandbox_id, restart_count } => {
            let start = Start { name, sandbox_id, restart_count: *restart_count, committed };
            start_container(context, pod, seen, memory, start).await
        }
        Step::StopContainers(stops) => stop_containers(context, pod, memory, stops).await,
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
            if !is_runtime_trouble(&status) && call == "StopPodSandbox" {
                let message = format!("error killing pod: failed to stop sandbox: {}", status.message());
                context.events.record(&Subject::pod(pod), Kind::Warning, "FailedKillPod", &message);
            }
            Done::Failed
        }
    }
}

fn facts(context: &Context, seen: &Observed) -> Facts {
    let mut facts = context.learned().facts;
    facts.pod_ips = seen.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
    facts
}

async fn prepare_volumes(context: &Arc<Context>, pod: &Arc<Pod>, seen: &Observed, memory: &mut Memory) -> Done {
    let facts = facts(context, seen);
    let (shared, spec) = (Arc::clone(context), Arc::clone(pod));
    let result = tokio::task::spawn_blocking(move || {
        let dir = PodDir::new(&shared.root, spec.uid());
        std::fs::create_dir_all(dir.path()).map_err(|e| Problem::Config(format!("{}: {e}", dir.path().display())))?;
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
        dns::hostname(pod, &context.cluster_dns.domain).map_err(Status::invalid_argument)?;
        let host_dns = dns::host();
        for (reason, message) in dns::notes(pod, &context.cluster_dns, &host_dns) {
            context.events.record(&Subject::pod(pod), Kind::Warning, reason, &message);
        }
        let _place = context.starts.acquire().await.map_err(|_| Status::cancelled("stopping"))?;
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

/// One start of a container.
struct Start<'a> {
    name: &'a str,
    sandbox_id: &'a str,
    restart_count: u32,
    committed: &'a AtomicBool,
}

async fn start_container(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    seen: &Observed,
    memory: &mut Memory,
    start: Start<'_>,
) -> Done {
    let Start { name, sandbox_id, restart_count, committed } = start;
    let all = pod.containers().iter().chain(pod.init_containers());
    let Some(container) = all.into_iter().find(|c| c.name == name) else { return Done::Failed };
    let attempt = seen.ready_sandbox().map(|s| s.attempt).unwrap_or_default();
    let sandbox = context.sandbox_config(pod, attempt, &dns::host());
    let subject = Subject::container(pod, name);
    let failed = |memory: &mut Memory, waiting: Waiting, limits| {
        context.metrics.start_failures.inc();
        let entry = memory.container(name);
        entry.retry.failed(now_ms(), limits);
        entry.waiting = Some(waiting);
        Done::Failed
    };
    let image = images::ensure(&context.cri, &context.pulls, &context.events, pod, container, sandbox.clone()).await;
    let image = match image {
        Ok(image) => image,
        Err(waiting) => return failed(memory, waiting, IMAGE),
    };
    let facts = facts(context, seen);
    let config = match configure(context, pod, container, &image, &facts, restart_count).await {
        Ok(config) => config,
        Err(problem) => {
            let message = problem.text().to_owned();
            // The rest of the pod's objects are on their way.
            let delay = memory.container(name).retry.delay_after_next(RETRY);
            if matches!(problem, Problem::Pending(_)) && delay < SAY_PENDING_AFTER_MS {
                memory.container(name).retry.failed(now_ms(), RETRY);
                return Done::Failed;
            }
            context.events.record(&subject, Kind::Warning, "Failed", &format!("Error: {message}"));
            return failed(memory, Waiting::new("CreateContainerConfigError", message), RETRY);
        }
    };
    let Ok(_place) = context.starts.acquire().await else { return Done::Failed };
    // A call that is given up may still have its effect, after everything else was cleaned.
    committed.store(true, Ordering::Relaxed);
    let id = match context.cri.create_container(sandbox_id, config, sandbox).await {
        Ok(id) => id,
        Err(status) => {
            context.metrics.runtime_errors.inc();
            let message = status.message().to_owned();
            context.events.record(&subject, Kind::Warning, "Failed", &format!("Error: {message}"));
            return failed(memory, Waiting::new("CreateContainerError", message), RETRY);
        }
    };
    context.events.record(&subject, Kind::Normal, "Created", &format!("Created container: {name}"));
    if let Err(status) = context.cri.start_container(&id).await {
        context.metrics.runtime_errors.inc();
        let message = status.message().to_owned();
        context.events.record(&subject, Kind::Warning, "Failed", &format!("Error: {message}"));
        // It ended before it began: for the restart policy it is a crash like any other.
        note_restart(memory, seen, name);
        return failed(memory, Waiting::new("RunContainerError", message), RETRY);
    }
    context.metrics.containers_started.inc();
    context.events.record(&subject, Kind::Normal, "Started", &format!("Started container {name}"));
    note_restart(memory, seen, name);
    let entry = memory.container(name);
    entry.waiting = None;
    entry.retry.succeeded();
    Done::Yes
}

/// Everything that the container needs, with its files on the host.
async fn configure(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    container: &Container,
    image: &skerry_proto::cri::v1::Image,
    facts: &Facts,
    restart_count: u32,
) -> Result<skerry_proto::cri::v1::ContainerConfig, Problem> {
    // Variables of services are fixed when a container starts. Just after the agent's start they may
    // be on their way; a node without services does not wait for long.
    let links = pod.spec().enable_service_links.unwrap_or(true);
    if links && !context.objects.in_sync(kinds::SERVICE) && context.started.elapsed() < SERVICES_SETTLE {
        return Err(Problem::Pending("services are not known yet".into()));
    }
    let environment = env::resolve(pod, container, &context.objects, facts)?;
    for message in &environment.skipped {
        context.events.record(
            &Subject::container(pod, &container.name),
            Kind::Warning,
            "InvalidVariableNames",
            message,
        );
    }
    let ips = if pod.host_network() { facts.host_ips.clone() } else { facts.pod_ips.clone() };
    let hosts = dns::hosts_file(pod, &ips, &context.cluster_dns.domain);
    let (shared, spec, container_owned) = (Arc::clone(context), Arc::clone(pod), container.clone());
    let values = environment.values.clone();
    let mounts = tokio::task::spawn_blocking(move || -> Result<Vec<Mount>, Problem> {
        let dir = PodDir::new(&shared.root, spec.uid());
        let lookup = |name: &str| values.get(name).cloned();
        let mut mounts = volumes::mounts_of(
            &spec,
            &container_owned,
            &dir,
            &shared.objects,
            shared.learned().recursive_read_only,
            &lookup,
        )?;
        add_own_mounts(&mut mounts, &container_owned, &dir, &hosts, restart_count)
            .map_err(|e| Problem::Config(format!("{}: {e}", dir.path().display())))?;
        let logs = sandbox_config::log_dir(&shared.log_dir, &spec).join(&container_owned.name);
        std::fs::create_dir_all(&logs).map_err(|e| Problem::Config(format!("{}: {e}", logs.display())))?;
        Ok(mounts)
    })
    .await
    .unwrap_or_else(|_| Err(Problem::Config("the mount task ended".into())))?;
    let root = context.root_text();
    let parts = container_config::Parts {
        node: &context.node,
        root: &root,
        image,
        environment: &environment.values,
        mounts,
        restart_count,
        memory_capacity: context.memory_capacity,
    };
    container_config::build(pod, container, parts).map_err(Problem::Config)
}

/// /etc/hosts and the termination message, unless the user mounts there.
fn add_own_mounts(
    mounts: &mut Vec<Mount>,
    container: &Container,
    dir: &PodDir,
    hosts: &str,
    restart_count: u32,
) -> io::Result<()> {
    let taken = |mounts: &[Mount], path: &str| mounts.iter().any(|m| m.container_path == path);
    let bind = |container_path: &str, host: &Path| Mount {
        container_path: container_path.to_owned(),
        host_path: host.display().to_string(),
        ..Mount::default()
    };
    std::fs::create_dir_all(dir.path())?;
    if !taken(mounts, "/etc/hosts") {
        let path = dir.etc_hosts();
        // In place: containers that run have this very file mounted.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(hosts) {
            std::fs::write(&path, hosts)?;
        }
        mounts.push(bind("/etc/hosts", &path));
    }
    let message_path = spec::message_path(container);
    if message_path.starts_with('/') && !taken(mounts, message_path) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.message(&container.name, restart_count);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, "")?;
        // Whatever user the container runs as may write it.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        mounts.push(bind(message_path, &path));
    }
    Ok(())
}

async fn stop_containers(context: &Context, pod: &Pod, memory: &mut Memory, stops: &[Stop]) -> Done {
    for stop in stops {
        context.events.record(&Subject::container(pod, &stop.name), Kind::Normal, "Killing", &stop.reason);
    }
    let results = join_all(stops.iter().map(|s| context.cri.stop_container(&s.id, s.grace_s))).await;
    let mut done = Done::Yes;
    for result in results {
        if settle(context, pod, memory, "StopContainer", result) == Done::Failed {
            done = Done::Failed;
        }
    }
    done
}

/// The log of a container that is gone.
fn remove_log(context: &Context, pod: &Pod, seen: &Observed, id: &str) {
    if let Some(c) = seen.containers.iter().find(|c| c.id == id) {
        let dir = sandbox_config::log_dir(&context.log_dir, pod);
        let _ = std::fs::remove_file(dir.join(container_config::log_path(&c.name, c.restart_count)));
        let _ = std::fs::remove_file(PodDir::new(&context.root, pod.uid()).message(&c.name, c.restart_count));
    }
}

async fn clean_up(context: &Arc<Context>, pod: &Arc<Pod>, memory: &mut Memory) -> Done {
    let (shared, spec) = (Arc::clone(context), Arc::clone(pod));
    let result = tokio::task::spawn_blocking(move || {
        crate::cgroups::remove_pod(&spec);
        let logs = sandbox_config::log_dir(&shared.log_dir, &spec);
        match std::fs::remove_dir_all(&logs) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        volumes::clean_up(&PodDir::new(&shared.root, spec.uid()))
    })
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
