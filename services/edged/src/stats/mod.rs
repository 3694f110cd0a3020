//! What the node and its pods use, collected when somebody asks.
//!
//! The node's API asks for [`Detail::Full`] (`/stats/summary`) or [`Detail::Usage`] (metrics); the
//! eviction asks for the node's [`Signals`] every few seconds and for pods only when it must. Nothing
//! is collected when nobody asks. Callers at the same time share one collection, and answers are
//! reused for [`FRESH`]. CPU and memory come from control groups and the runtime, traffic from the
//! network namespace of one of the pod's processes, disk use from walks that are bounded and reused
//! for [`WALK_SHARE`] times their own duration, so that they cost a small share of a core at most.
//!
//! Invariants: what cannot be read is absent; a runtime that does not answer is an error for pods,
//! never an empty list. A call that is dropped costs only the rates of the next one.

pub(crate) mod cgroup;
pub(crate) mod disk;
mod host;
pub(crate) mod model;
mod pods;
mod rates;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skerry_proto::cri::v1::{Container, ContainerStats as CriStats, PodSandbox, PodSandboxState};
use tokio::sync::Mutex;
use tonic::Status;

use crate::cgroups::Driver;
use crate::context::Context;
use crate::pod::labels;
use crate::pod::spec::PodExt;
use crate::volumes::PodDir;
use cgroup::Group;
use model::{
    ContainerStats, CpuStats, FsStats, MemoryStats, NodeStats, PodReference, PodStats, RlimitStats, RuntimeStats,
    Summary, VolumeStats,
};
use pods::{Found, FoundContainer};
use rates::Rates;

/// Several askers within this time get the same answer.
const FRESH: Duration = Duration::from_secs(2);
/// A walk is not repeated before this time has passed …
const WALK_FRESH: Duration = Duration::from_secs(5);
/// … nor before so many times its own duration: walks use a thirtieth of a core at most.
const WALK_SHARE: u32 = 30;
/// Names of the groups of the system in the summary; the kubelet's.
const SYSTEM_PODS: &str = "pods";
const SYSTEM_KUBELET: &str = "kubelet";

/// How much to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// CPU, memory, traffic.
    Usage,
    /// Disk use as well.
    Full,
}

/// What decides about pressure.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Signals {
    pub(crate) memory: MemoryStats,
    /// Memory of all pods together, when their group has a limit.
    pub(crate) pods_memory: Option<MemoryStats>,
    pub(crate) node_fs: Option<FsStats>,
    pub(crate) image_fs: Option<FsStats>,
    /// Images and writable layers have a filesystem of their own.
    pub(crate) image_fs_is_own: bool,
    pub(crate) processes: RlimitStats,
}

#[derive(Debug, Clone, Copy)]
struct Walked {
    used: disk::Used,
    until: Instant,
}

#[derive(Default)]
struct State {
    usage: Option<(Instant, Arc<Summary>)>,
    full: Option<(Instant, Arc<Summary>)>,
    rates: Rates,
    walks: HashMap<PathBuf, Walked>,
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Collector {
    state: Mutex<State>,
    /// Where the runtime keeps images, once it has said so.
    image_root: Mutex<Option<PathBuf>>,
}

/// What the runtime says about all pods at one moment.
struct Listed {
    sandboxes: Vec<PodSandbox>,
    containers: Vec<Container>,
    stats: HashMap<String, CriStats>,
    image_used: disk::Used,
}

impl Collector {
    /// The node and all its pods.
    ///
    /// # Errors
    /// The runtime's, when it does not answer.
    pub(crate) async fn summary(&self, context: &Arc<Context>, detail: Detail) -> Result<Arc<Summary>, Status> {
        let mut state = self.state.lock().await;
        let fresh = |kept: &Option<(Instant, Arc<Summary>)>| {
            kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, s)| Arc::clone(s))
        };
        // The full one serves both.
        let kept = fresh(&state.full).or_else(|| fresh(&state.usage).filter(|_| detail == Detail::Usage));
        if let Some(summary) = kept {
            return Ok(summary);
        }
        let summary = Arc::new(self.collect(context, &mut state, detail, None).await?);
        let kept = Some((Instant::now(), Arc::clone(&summary)));
        match detail {
            Detail::Usage => state.usage = kept,
            Detail::Full => state.full = kept,
        }
        Ok(summary)
    }

    /// These pods with their disk use, collected now.
    ///
    /// # Errors
    /// As [`Self::summary`].
    pub(crate) async fn pods(&self, context: &Arc<Context>, uids: &BTreeSet<String>) -> Result<Vec<PodStats>, Status> {
        let mut state = self.state.lock().await;
        Ok(self.collect(context, &mut state, Detail::Full, Some(uids)).await?.pods)
    }

    /// What decides about pressure; reads a few small files.
    pub(crate) async fn signals(&self, context: &Arc<Context>) -> Signals {
        let image_root = self.image_root(context).await;
        let (root, top) = (context.root.clone(), context.cgroups.top(context.learned().cgroups));
        let read = move || {
            let now = Time::from(jiff::Timestamp::now());
            Signals {
                memory: host::memory(&now),
                pods_memory: Group::new(&top)
                    .and_then(|g| g.usage())
                    .filter(|u| u.limit.is_some())
                    .map(|u| pods::group_memory(&u, &now)),
                node_fs: disk::filesystem(&root, &now),
                image_fs: image_root.as_ref().and_then(|p| disk::filesystem(p, &now)),
                image_fs_is_own: image_root.as_ref().is_some_and(|p| disk::device(p) != disk::device(&root)),
                processes: host::processes(&now),
            }
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Where the runtime keeps images; `None` until it has said so.
    pub(crate) async fn image_root(&self, context: &Context) -> Option<PathBuf> {
        let mut known = self.image_root.lock().await;
        if known.is_none() && context.health.borrow().answers {
            let info = context.cri.image_fs().await.ok()?;
            *known = info.fs_id.map(|id| PathBuf::from(id.mountpoint)).filter(|p| p.is_absolute());
        }
        known.clone()
    }

    async fn collect(
        &self,
        context: &Arc<Context>,
        state: &mut State,
        detail: Detail,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Summary, Status> {
        let image_root = self.image_root(context).await;
        let listed = list(context).await?;
        let work = Work {
            context: Arc::clone(context),
            detail,
            only: only.cloned(),
            driver: context.learned().cgroups,
            image_root,
            now: Time::from(jiff::Timestamp::now()),
            at: Instant::now(),
            rates: std::mem::take(&mut state.rates),
            walks: std::mem::take(&mut state.walks),
            seen: HashSet::new(),
        };
        let (summary, rates, walks) = tokio::task::spawn_blocking(move || work.run(listed))
            .await
            .map_err(|_| Status::internal("the collecting task ended"))?;
        (state.rates, state.walks) = (rates, walks);
        Ok(summary)
    }
}

async fn list(context: &Context) -> Result<Listed, Status> {
    let cri = &context.cri;
    let (sandboxes, containers, stats, images) =
        tokio::try_join!(cri.sandboxes(None), cri.containers(None), cri.container_stats(), cri.image_fs())?;
    let stats = stats.into_iter().filter_map(|s| Some((s.attributes.as_ref()?.id.clone(), s))).collect();
    let image_used = disk::Used {
        bytes: images.used_bytes.map_or(0, |v| v.value),
        inodes: images.inodes_used.map_or(0, |v| v.value),
    };
    Ok(Listed { sandboxes, containers, stats, image_used })
}

/// One collection, on a blocking thread.
struct Work {
    context: Arc<Context>,
    detail: Detail,
    only: Option<BTreeSet<String>>,
    driver: Driver,
    image_root: Option<PathBuf>,
    now: Time,
    at: Instant,
    rates: Rates,
    walks: HashMap<PathBuf, Walked>,
    /// Keys of rates that are still of use.
    seen: HashSet<String>,
}

impl Work {
    fn run(mut self, listed: Listed) -> (Summary, Rates, HashMap<PathBuf, Walked>) {
        let node_fs = disk::filesystem(&self.context.root, &self.now);
        let image_fs = self.image_root.as_ref().and_then(|p| disk::filesystem(p, &self.now));
        let mut summary = Summary::default();
        if self.only.is_none() {
            summary.node = self.node(node_fs.clone(), image_fs.clone(), listed.image_used);
        }
        for (reference, sandbox, containers) in by_pod(&listed) {
            if self.only.as_ref().is_none_or(|uids| uids.contains(&reference.uid)) {
                let found = self.find(reference, sandbox, containers, &listed.stats, &node_fs, &image_fs);
                summary.pods.push(pods::pod(found, &self.now));
            }
        }
        if self.only.is_none() {
            self.rates.retain(&self.seen);
            let at = self.at;
            self.walks.retain(|_, w| w.until > at);
        }
        (summary, self.rates, self.walks)
    }

    fn rate(&mut self, key: String, cpu_ns: Option<u64>) -> Option<u64> {
        let rate = self.rates.next(&key, cpu_ns?, self.at);
        self.seen.insert(key);
        rate
    }

    fn node(&mut self, node_fs: Option<FsStats>, image_fs: Option<FsStats>, images: disk::Used) -> NodeStats {
        let now = self.now.clone();
        let cpu_ns = host::cpu_ns();
        let image = pods::on(image_fs.as_ref(), Some(images.bytes), Some(images.inodes), &now);
        let runtime =
            image_fs.is_some().then(|| RuntimeStats { image_fs: Some(image.clone()), container_fs: Some(image) });
        let mut system_containers = Vec::new();
        let groups = [(SYSTEM_PODS, Group::new(&self.context.cgroups.top(self.driver))), (SYSTEM_KUBELET, own_group())];
        for (name, usage) in groups.into_iter().filter_map(|(n, g)| Some((n, g?.usage()?))) {
            let rate = self.rate(format!("/system/{name}"), usage.cpu_ns);
            system_containers.push(ContainerStats {
                name: name.into(),
                cpu: Some(pods::group_cpu(&usage, rate, &now)),
                memory: Some(pods::group_memory(&usage, &now)),
                ..ContainerStats::default()
            });
        }
        NodeStats {
            node_name: self.context.node.clone(),
            system_containers,
            start_time: host::boot_time(),
            cpu: cpu_ns.map(|ns| CpuStats {
                time: Some(now.clone()),
                usage_nano_cores: self.rate("/".into(), cpu_ns),
                usage_core_nano_seconds: Some(ns),
            }),
            memory: Some(host::memory(&now)),
            network: host::network(None, &now),
            fs: node_fs,
            runtime,
            rlimit: Some(host::processes(&now)),
            swap: host::swap(&now),
        }
    }

    fn find(
        &mut self,
        reference: PodReference,
        sandbox: &PodSandbox,
        containers: Vec<&Container>,
        stats: &HashMap<String, CriStats>,
        node_fs: &Option<FsStats>,
        image_fs: &Option<FsStats>,
    ) -> Found {
        let uid = reference.uid.clone();
        let pod = self.context.objects.pod(&uid);
        let group = pod.as_ref().and_then(|p| Group::new(&self.context.cgroups.parent(p, self.driver)));
        let usage = group.as_ref().and_then(Group::usage);
        let network =
            pod.filter(|p| !p.host_network()).and(group).and_then(|g| host::network(Some(g.any_process()?), &self.now));
        let logs = self.context.log_dir.join(format!("{}_{}_{uid}", reference.namespace, reference.name));
        let full = self.detail == Detail::Full;
        let containers = containers
            .into_iter()
            .map(|c| {
                let stats = stats.get(&c.id).cloned();
                let name = c.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
                let cpu = stats.as_ref().and_then(|s| s.cpu.as_ref()?.usage_core_nano_seconds.as_ref());
                FoundContainer {
                    id: c.id.clone(),
                    image: c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
                    started: pods::time(c.created_at),
                    rate: self.rate(c.id.clone(), cpu.map(|v| v.value)),
                    logs: full.then(|| self.walk(&logs.join(&name))),
                    stats,
                    name,
                }
            })
            .collect();
        let (volumes, other) = if full { self.volumes(&uid) } else { (Vec::new(), disk::Used::default()) };
        Found {
            started: pods::time(sandbox.created_at),
            containers,
            group: usage.map(|u| {
                let rate = self.rate(uid, u.cpu_ns);
                (u, rate)
            }),
            network,
            volumes,
            other,
            node_fs: node_fs.clone(),
            image_fs: image_fs.clone(),
            reference,
        }
    }

    /// The volumes that lie in the pod's directory, and what else is there.
    fn volumes(&mut self, uid: &str) -> (Vec<VolumeStats>, disk::Used) {
        let dir = PodDir::new(&self.context.root, uid);
        let home = disk::device(dir.path());
        let mut volumes = Vec::new();
        for path in dirs_below(&dir.path().join("volumes")).iter().flat_map(|plugin| dirs_below(plugin)) {
            let Some(name) = path.file_name().and_then(|n| n.to_str()).map(str::to_owned) else { continue };
            let fs = disk::filesystem(&path, &self.now);
            // A volume in memory is a filesystem of its own and knows what it holds.
            let in_memory = disk::device(&path) != home;
            let fs = if in_memory {
                fs.unwrap_or_default()
            } else {
                let used = self.walk(&path);
                pods::on(fs.as_ref(), Some(used.bytes), Some(used.inodes), &self.now)
            };
            volumes.push(VolumeStats { fs, name, in_memory });
        }
        (volumes, disk::file(&dir.etc_hosts()))
    }

    fn walk(&mut self, path: &Path) -> disk::Used {
        if let Some(known) = self.walks.get(path).filter(|w| w.until > self.at) {
            return known.used;
        }
        let began = Instant::now();
        let used = disk::walk(path);
        let fresh = began.elapsed().saturating_mul(WALK_SHARE).max(WALK_FRESH);
        self.walks.insert(path.to_owned(), Walked { used, until: self.at + fresh });
        used
    }
}

/// Our own control group: version 2 has one line without a controller, version 1 one per controller.
fn own_group() -> Option<Group> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |controller: &str| {
        text.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':').skip(1);
            (parts.next()? == controller).then(|| parts.next()).flatten()
        })
    };
    // The root's figures are the machine's, not ours.
    Group::new(of("memory").or_else(|| of("")).filter(|p| *p != "/")?)
}

fn dirs_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Pods that have a sandbox, each with the newest attempt of every container.
fn by_pod(listed: &Listed) -> Vec<(PodReference, &PodSandbox, Vec<&Container>)> {
    let mut pods: BTreeMap<&str, (&PodSandbox, BTreeMap<&str, &Container>)> = BTreeMap::new();
    for sandbox in listed.sandboxes.iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32) {
        let Some(uid) = sandbox.labels.get(labels::POD_UID) else { continue };
        let known = pods.entry(uid).or_insert_with(|| (sandbox, BTreeMap::new()));
        if known.0.created_at < sandbox.created_at {
            known.0 = sandbox;
        }
    }
    for container in &listed.containers {
        let uid = container.labels.get(labels::POD_UID).map(String::as_str).unwrap_or_default();
        let Some((_, containers)) = pods.get_mut(uid) else { continue };
        let name = container.labels.get(labels::CONTAINER_NAME).map(String::as_str).unwrap_or_default();
        let known = containers.entry(name).or_insert(container);
        if known.created_at < container.created_at {
            *known = container;
        }
    }
    pods.into_iter()
        .map(|(uid, (sandbox, containers))| {
            let text = |label: &str| sandbox.labels.get(label).cloned().unwrap_or_default();
            let reference =
                PodReference { name: text(labels::POD_NAME), namespace: text(labels::POD_NAMESPACE), uid: uid.into() };
            (reference, sandbox, containers.into_values().collect())
        })
        .collect()
}
