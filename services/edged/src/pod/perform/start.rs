//! Starts one container: its image, its configuration and files, then create, start and the postStart
//! hook. Part of [`super`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_common::kinds;
use skerry_proto::cri::v1::Mount;

use super::{Done, facts, hooks};
use crate::context::{Context, now_ms};
use crate::env::{self, Problem};
use crate::events::{Kind, Subject};
use crate::fields::Facts;
use crate::images;
use crate::logs;
use crate::pod::backoff::{IMAGE, RETRY};
use crate::pod::memory::{Memory, Waiting};
use crate::pod::observed::Observed;
use crate::pod::plan::note_restart;
use crate::pod::spec::{self, PodExt};
use crate::runtime::{container_config, dns, sandbox_config};
use crate::volumes::{self, PodDir};

/// How long after the agent's start the list of services is waited for.
const SERVICES_SETTLE: Duration = Duration::from_secs(5);

/// One start of a container.
pub(super) struct Start<'a> {
    pub(super) name: &'a str,
    pub(super) sandbox_id: &'a str,
    pub(super) restart_count: u32,
    pub(super) committed: &'a AtomicBool,
}

/// See the module documentation.
pub(super) async fn start(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    seen: &Observed,
    memory: &mut Memory,
    start: Start<'_>,
) -> Done {
    let Start { name, sandbox_id, restart_count, committed } = start;
    let Some(container) = pod.container(name) else { return Done::Failed };
    let container = container.as_ref();
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
    let image = images::ensure(context, pod, container, sandbox.clone()).await;
    let image = match image {
        Ok(image) => image,
        Err(waiting) => return failed(memory, waiting, IMAGE),
    };
    let facts = facts(context, seen);
    let config = match configure(context, pod, container, &image, &facts, seen, restart_count).await {
        Ok(config) => config,
        Err(problem) => {
            let message = problem.text().to_owned();
            // The rest of the pod's objects are on their way.
            let delay = memory.container(name).retry.delay_after_next(RETRY);
            if matches!(problem, Problem::Pending(_)) && delay < super::SAY_PENDING_AFTER_MS {
                memory.container(name).retry.failed(now_ms(), RETRY);
                return Done::Failed;
            }
            context.events.record(&subject, Kind::Warning, "Failed", &format!("Error: {message}"));
            return failed(memory, Waiting::new("CreateContainerConfigError", message), RETRY);
        }
    };
    let Some(place) = context.starts.place().await else { return Done::Failed };
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
    note_restart(memory, seen, name);
    drop(place);
    started(context, pod, memory, &facts, Created { id: &id, name, restart_count, committed }).await
}

/// A container that waits for its start.
pub(super) struct Created<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) restart_count: u32,
    pub(super) committed: &'a AtomicBool,
}

/// Starts a container that an earlier agent created and perhaps started: then the runtime says so, and the
/// next look shows it.
pub(super) async fn start_created(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    seen: &Observed,
    memory: &mut Memory,
    created: Created<'_>,
) -> Done {
    let Some(place) = context.starts.place().await else { return Done::Failed };
    created.committed.store(true, Ordering::Relaxed);
    if let Err(status) = context.cri.start_container(created.id).await {
        context.metrics.runtime_errors.inc();
        tracing::info!(pod = %pod.full_name(), container = created.name, message = status.message(), "not started again");
        memory.container(created.name).retry.failed(now_ms(), RETRY);
        return Done::Failed;
    }
    drop(place);
    let facts = facts(context, seen);
    started(context, pod, memory, &facts, created).await
}

/// What comes after the start. A hook may take long: others start meanwhile.
async fn started(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    memory: &mut Memory,
    facts: &Facts,
    container: Created<'_>,
) -> Done {
    let Created { id, name, restart_count, committed } = container;
    context.metrics.containers_started.inc();
    link_log(context, pod, name, restart_count, id);
    context.events.record(
        &Subject::container(pod, name),
        Kind::Normal,
        "Started",
        &format!("Started container {name}"),
    );
    let entry = memory.container(name);
    entry.waiting = None;
    entry.retry.succeeded();
    let Some(spec) = pod.container(name) else { return Done::Yes };
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Done::Yes };
    // The pod waits for it, but not when it is deleted: then the hook ends with the container.
    committed.store(false, Ordering::Relaxed);
    match hooks::post_start(context, pod, &spec, id, facts, hook).await {
        Ok(()) => Done::Yes,
        Err(message) => {
            let entry = memory.container(name);
            entry.waiting = Some(Waiting::new("PostStartHookError", message));
            entry.hook_failed = Some(id.to_owned());
            Done::Failed
        }
    }
}

/// For log collectors; a container runs without it too.
fn link_log(context: &Context, pod: &Pod, name: &str, restart_count: u32, id: &str) {
    let Some(links) = &context.log_links else { return };
    let log = sandbox_config::log_dir(&context.log_dir, pod).join(container_config::log_path(name, restart_count));
    if let Err(error) = logs::link(links, pod, name, id, &log) {
        tracing::warn!(pod = %pod.full_name(), container = name, %error, "no link to the log");
    }
}

/// Everything that the container needs, with its files on the host.
async fn configure(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    container: &Container,
    image: &skerry_proto::cri::v1::Image,
    facts: &Facts,
    seen: &Observed,
    restart_count: u32,
) -> Result<skerry_proto::cri::v1::ContainerConfig, Problem> {
    // Variables of services are fixed when a container starts. Just after the agent's start they may
    // be on their way; a node without services does not wait for long.
    let links = pod.spec().enable_service_links.unwrap_or(true);
    if links && !context.objects.in_sync(kinds::SERVICE) && context.started.elapsed() < SERVICES_SETTLE {
        return Err(Problem::Pending("services are not known yet".into()));
    }
    let target = match spec::target(pod, &container.name) {
        None => None,
        Some(name) => match seen.latest(name) {
            Some(found) => Some(found.id.clone()),
            None => return Err(Problem::Config(format!("unable to find target container {name}"))),
        },
    };
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
        user_ids: context.user_namespaces.of(pod.uid()),
        image,
        environment: &environment.values,
        mounts,
        restart_count,
        target,
        node_resources: &context.resources,
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
