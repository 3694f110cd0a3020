//! The volumes of a pod: set up, kept up to date, and taken away.
//!
//! The worker calls [`prepare`] before the sandbox is created and again when something changed that
//! the pod refers to, and [`clean_up`] when all containers are gone. Blocking file work, on a
//! blocking thread. Directories are the kubelet's: `<root>/pods/<uid>/volumes/<plugin>/<name>`.
//!
//! Invariants: every path is made of names that were checked ([`crate::objects`] for pods,
//! [`payload`] for keys and items); files appear atomically ([`atomic`]); secrets and tokens live on
//! tmpfs only, one for all pods, in `<root>/memory/<uid>`; nothing is removed while anything is mounted
//! below. A volume that no container mounts is not set up. A crash in the middle is repaired by the next [`prepare`]. Limits: those of the
//! objects; an emptyDir in memory takes its size limit.

mod atomic;
mod claim;
mod empty_dir;
mod host_path;
mod mounting;
mod ownership;
mod payload;
mod sub_path;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

pub(crate) use mounting::mounts_of;

use crate::env::Problem;
use crate::fields::Facts;
use crate::mounts;
use crate::objects::Objects;
use crate::pod::spec::PodExt;

/// Options of the tmpfs of secrets and projections. Only the agent writes there, and objects have limits;
/// the mode is that of the directory of all pods.
const CONTENT_TMPFS: &str = "mode=0750";

/// Where a pod keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct PodDir {
    disk: PathBuf,
    /// The tmpfs of all pods. One for each volume would make the mount table longer, which a runtime
    /// reads several times for each container that it starts.
    memory_of_all: PathBuf,
    /// The part of this pod.
    memory: PathBuf,
}

impl PodDir {
    /// `uid` was checked when the pod was taken in.
    pub(crate) fn new(root: &Path, uid: &str) -> Self {
        let memory_of_all = root.join("memory");
        Self { disk: root.join("pods").join(uid), memory: memory_of_all.join(uid), memory_of_all }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.disk
    }

    pub(crate) fn etc_hosts(&self) -> PathBuf {
        self.disk.join("etc-hosts")
    }

    /// Where the termination message of one start of a container is written.
    pub(crate) fn message(&self, container: &str, restart_count: u32) -> PathBuf {
        self.disk.join("containers").join(container).join(format!("{restart_count}.message"))
    }

    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.disk.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    fn memory_volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.memory.join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Where a container's mount of a part of a volume is held.
    fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.disk.join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }
}

/// Sets up or refreshes all volumes that containers mount.
///
/// # Errors
/// The first volume that cannot be had, with the kubelet's words for the Event `FailedMount`; the
/// others are refreshed all the same.
pub(crate) fn prepare(pod: &Pod, dir: &PodDir, objects: &Objects, facts: &Facts) -> Result<(), Problem> {
    let used = used(pod);
    let mut first = Ok(());
    for volume in pod.spec().volumes.iter().flatten().filter(|v| used.contains(v.name.as_str())) {
        let done = one(pod, volume, dir, objects, facts).map_err(|problem| {
            let text = format!("MountVolume.SetUp failed for volume {:?} : {}", volume.name, problem.text());
            match problem {
                Problem::Config(_) => Problem::Config(text),
                Problem::Pending(_) => Problem::Pending(text),
            }
        });
        first = first.and(done);
    }
    first
}

/// Names of the volumes that any container mounts.
fn used(pod: &Pod) -> BTreeSet<&str> {
    let spec = pod.spec();
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers);
    let debug = spec.ephemeral_containers.iter().flatten();
    let mut used = BTreeSet::new();
    for (mounts, devices) in ordinary
        .map(|c| (&c.volume_mounts, &c.volume_devices))
        .chain(debug.map(|c| (&c.volume_mounts, &c.volume_devices)))
    {
        used.extend(mounts.iter().flatten().map(|m| m.name.as_str()));
        used.extend(devices.iter().flatten().map(|d| d.name.as_str()));
    }
    used
}

fn one(pod: &Pod, volume: &Volume, dir: &PodDir, objects: &Objects, facts: &Facts) -> Result<(), Problem> {
    let Located { source, path } = locate(pod, volume, dir, objects)?;
    let context = pod.spec().security_context.as_ref();
    let group = context.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
    match source {
        Source::EmptyDir(source) => empty_dir::set_up(pod, source, &path, facts, group).map_err(|e| failed(&path, &e)),
        Source::HostPath(kind) => host_path::check(&path, &kind).map_err(Problem::Config),
        Source::Local => {
            claim::check_local(&path)?;
            let Some(gid) = group else { return Ok(()) };
            let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
            let done = if policy == Some("OnRootMismatch") {
                ownership::give_to_group_if_root_differs(&path, gid)
            } else {
                ownership::give_to_group(&path, gid)
            };
            done.map_err(|e| failed(&path, &e))
        }
        Source::Content { tmpfs } => {
            let files = payload::collect(pod, volume, objects, facts, group)?;
            let write = || -> io::Result<()> {
                if tmpfs {
                    make_dir(&dir.memory_of_all, 0o750)?;
                    mounts::tmpfs(&dir.memory_of_all, CONTENT_TMPFS)?;
                }
                make_dir(&path, 0o755)?;
                atomic::write(&path, &files)
            };
            write().map_err(|e| failed(&path, &e))
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Problem {
    Problem::Config(format!("{}: {error}", path.display()))
}

/// What a volume is and where it lies on the host.
struct Located<'a> {
    source: Source<'a>,
    path: PathBuf,
}

enum Source<'a> {
    EmptyDir(&'a EmptyDirVolumeSource),
    /// With its `type`.
    HostPath(String),
    /// A local PersistentVolume.
    Local,
    Content {
        tmpfs: bool,
    },
}

fn locate<'a>(pod: &Pod, volume: &'a Volume, dir: &PodDir, objects: &Objects) -> Result<Located<'a>, Problem> {
    let name = &volume.name;
    let at = |source, path| Ok(Located { source, path });
    if let Some(source) = &volume.empty_dir {
        return at(Source::EmptyDir(source), dir.volume("empty-dir", name));
    }
    if let Some(source) = &volume.host_path {
        return at(Source::HostPath(source.type_.clone().unwrap_or_default()), host_path::checked(&source.path)?);
    }
    if volume.config_map.is_some() {
        return at(Source::Content { tmpfs: false }, dir.volume("configmap", name));
    }
    if volume.secret.is_some() {
        return at(Source::Content { tmpfs: true }, dir.memory_volume("secret", name));
    }
    if volume.projected.is_some() {
        return at(Source::Content { tmpfs: true }, dir.memory_volume("projected", name));
    }
    if volume.downward_api.is_some() {
        return at(Source::Content { tmpfs: false }, dir.volume("downward-api", name));
    }
    let claimed = if let Some(source) = &volume.persistent_volume_claim {
        claim::resolve(pod, &source.claim_name, false, objects)?
    } else if volume.ephemeral.is_some() {
        claim::resolve(pod, &claim::ephemeral_name(pod, name), true, objects)?
    } else {
        let kind = unsupported(volume);
        return Err(Problem::Config(format!("volumes of the type {kind:?} are not supported on an edge node")));
    };
    match claimed.kind {
        claim::Kind::HostPath(kind) => at(Source::HostPath(kind), claimed.path),
        claim::Kind::Local => at(Source::Local, claimed.path),
    }
}

/// The name of a volume's source as the user wrote it.
fn unsupported(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let source = fields.as_object().and_then(|f| f.keys().find(|k| *k != "name").cloned());
    source.unwrap_or_else(|| "none".to_owned())
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // The mode of creation is cut by the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Unmounts and removes the emptyDirs of a pod that has ended.
pub(crate) fn remove_empty_dirs(dir: &PodDir) -> io::Result<()> {
    mounts::remove_tree(&dir.path().join("volumes/kubernetes.io~empty-dir"))
}

/// Unmounts and removes everything that the pod has on the host.
pub(crate) fn clean_up(dir: &PodDir) -> io::Result<()> {
    mounts::remove_tree(&dir.memory)?;
    mounts::remove_tree(dir.path())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
