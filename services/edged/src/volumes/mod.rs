//! The volumes of a pod: set up, kept up to date, and taken away.
//!
//! The worker calls [`prepare`] before the sandbox is created and again when something changed that
//! the pod refers to, and [`clean_up`] when all containers are gone. Blocking file work, on a
//! blocking thread. Directories are the kubelet's: `<root>/pods/<uid>/volumes/<plugin>/<name>`.
//!
//! Invariants: every path is made of names that were checked ([`crate::objects`] for pods,
//! [`payload`] for keys and items); files appear atomically ([`atomic`]); secrets and tokens live on
//! tmpfs only; nothing is removed while anything is mounted below. A crash in the middle is repaired
//! by the next [`prepare`]. Limits: those of the objects; an emptyDir in memory takes its size limit.

mod atomic;
mod host_path;
mod payload;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume, VolumeMount};
use nix::unistd::{Gid, chown};
use skerry_common::kinds;
use skerry_proto::cri::v1::{Mount, MountPropagation};

use crate::env::{Problem, expand};
use crate::fields::Facts;
use crate::mounts;
use crate::objects::Objects;
use crate::pod::spec::PodExt;
use crate::resources;

/// Size of the tmpfs of a secret or a projection: far above what an object can hold.
const CONTENT_TMPFS: &str = "size=8m,mode=0755";

/// Where a pod keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct PodDir(PathBuf);

impl PodDir {
    /// `uid` was checked when the pod was taken in.
    pub(crate) fn new(root: &Path, uid: &str) -> Self {
        Self(root.join("pods").join(uid))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn etc_hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }

    /// Where the termination message of one start of a container is written.
    pub(crate) fn message(&self, container: &str, restart_count: u32) -> PathBuf {
        self.0.join("containers").join(container).join(format!("{restart_count}.message"))
    }

    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.0.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }
}

/// Sets up or refreshes all volumes.
///
/// # Errors
/// The first volume that cannot be had, with the kubelet's words for the Event `FailedMount`.
pub(crate) fn prepare(pod: &Pod, dir: &PodDir, objects: &Objects, facts: &Facts) -> Result<(), Problem> {
    let group = pod.spec().security_context.as_ref().and_then(|s| s.fs_group);
    for volume in pod.spec().volumes.iter().flatten() {
        one(pod, volume, dir, objects, facts, group).map_err(|problem| {
            let text = format!("MountVolume.SetUp failed for volume {:?} : {}", volume.name, problem.text());
            match problem {
                Problem::Config(_) => Problem::Config(text),
                Problem::Pending(_) => Problem::Pending(text),
            }
        })?;
    }
    Ok(())
}

fn one(
    pod: &Pod,
    volume: &Volume,
    dir: &PodDir,
    objects: &Objects,
    facts: &Facts,
    group: Option<i64>,
) -> Result<(), Problem> {
    let (source, path) = locate(pod, volume, dir, objects)?;
    match source {
        Source::EmptyDir(source) => empty_dir(source, &path, group).map_err(|e| failed(&path, &e)),
        Source::HostPath(kind) => host_path::check(&path, kind).map_err(Problem::Config),
        Source::Content { tmpfs } => {
            let files = payload::collect(pod, volume, objects, facts, group)?;
            let write = || -> io::Result<()> {
                make_dir(&path, 0o755)?;
                if tmpfs {
                    mounts::tmpfs(&path, CONTENT_TMPFS)?;
                }
                atomic::write(&path, &files)
            };
            write().map_err(|e| failed(&path, &e))
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Problem {
    Problem::Config(format!("{}: {error}", path.display()))
}

enum Source<'a> {
    EmptyDir(&'a EmptyDirVolumeSource),
    HostPath(&'a str),
    Content { tmpfs: bool },
}

/// What a volume is and where it lies on the host.
fn locate<'a>(
    pod: &Pod,
    volume: &'a Volume,
    dir: &PodDir,
    objects: &Objects,
) -> Result<(Source<'a>, PathBuf), Problem> {
    let name = &volume.name;
    if let Some(source) = &volume.empty_dir {
        return Ok((Source::EmptyDir(source), dir.volume("empty-dir", name)));
    }
    if let Some(source) = &volume.host_path {
        return Ok((Source::HostPath(source.type_.as_deref().unwrap_or_default()), host_path::checked(&source.path)?));
    }
    if volume.config_map.is_some() {
        return Ok((Source::Content { tmpfs: false }, dir.volume("configmap", name)));
    }
    if volume.secret.is_some() {
        return Ok((Source::Content { tmpfs: true }, dir.volume("secret", name)));
    }
    if volume.projected.is_some() {
        return Ok((Source::Content { tmpfs: true }, dir.volume("projected", name)));
    }
    if volume.downward_api.is_some() {
        return Ok((Source::Content { tmpfs: false }, dir.volume("downward-api", name)));
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return Ok((Source::HostPath(""), claimed(pod, &source.claim_name, objects)?));
    }
    Err(Problem::Config("this kind of volume is not supported on an edge node".into()))
}

/// The path behind a claim that is bound to a volume of this machine.
fn claimed(pod: &Pod, claim: &str, objects: &Objects) -> Result<PathBuf, Problem> {
    let Some(found) = objects.claim(pod.namespace(), claim) else {
        let text = format!("persistentvolumeclaim {claim:?} not found");
        return Err(Problem::missing(objects, kinds::PERSISTENT_VOLUME_CLAIM, text));
    };
    let bound = found.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
    let Some(name) = bound else {
        return Err(Problem::Config(format!("persistentvolumeclaim {claim:?} is not bound")));
    };
    let Some(volume) = objects.volume(name) else {
        let text = format!("persistentvolume {name:?} not found");
        return Err(Problem::missing(objects, kinds::PERSISTENT_VOLUME, text));
    };
    let spec = volume.spec.as_ref();
    let path = spec
        .and_then(|s| s.host_path.as_ref().map(|h| &h.path).or(s.local.as_ref().map(|l| &l.path)))
        .ok_or_else(|| Problem::Config(format!("persistentvolume {name:?} is neither hostPath nor local")))?;
    host_path::checked(path)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // The mode of creation is cut by the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn empty_dir(source: &EmptyDirVolumeSource, path: &Path, group: Option<i64>) -> io::Result<()> {
    let fresh = !path.exists();
    if fresh {
        make_dir(path, 0o777)?;
    }
    let medium = source.medium.as_deref().unwrap_or_default();
    if medium == "Memory" {
        let size = source.size_limit.as_ref().and_then(resources::units).filter(|s| *s > 0);
        let options = size.map_or_else(|| "mode=0777".to_owned(), |s| format!("size={s},mode=0777"));
        mounts::tmpfs(path, &options)?;
    } else if !medium.is_empty() {
        return Err(io::Error::other(format!("the medium {medium:?} is not supported")));
    }
    if let Some(gid) = group.and_then(|g| u32::try_from(g).ok()).filter(|_| fresh) {
        chown(path, None, Some(Gid::from_raw(gid)))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

/// The mounts of a container for the volumes of its pod.
///
/// # Errors
/// A volume that the pod does not have, or a subPath that leaves its volume.
pub(crate) fn mounts_of(
    pod: &Pod,
    container: &Container,
    dir: &PodDir,
    objects: &Objects,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Mount>, Problem> {
    let mut all = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| {
            Problem::Config(format!("volumeMount {:?} names a volume that the pod does not have", mount.name))
        })?;
        let (source, path) = locate(pod, volume, dir, objects)?;
        let host_path = sub_path(mount, &path, env)?;
        // What is written from objects is read-only for all, as everywhere.
        let read_only = mount.read_only.unwrap_or(false) || matches!(source, Source::Content { .. });
        all.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: read_only,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                _ => MountPropagation::PropagationPrivate,
            }
            .into(),
            ..Mount::default()
        });
    }
    Ok(all)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The part of a volume that a mount shows. It must exist inside the volume when links are followed;
/// a directory is created where nothing is.
fn sub_path(mount: &VolumeMount, volume: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, Problem> {
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(sub), _) if !sub.is_empty() => sub.clone(),
        (_, Some(expression)) if !expression.is_empty() => {
            let text = expand(expression, env);
            if text.contains("$(") {
                return Err(Problem::Config(format!("subPathExpr {expression:?} uses a variable that is not set")));
            }
            text
        }
        _ => return Ok(volume.to_owned()),
    };
    let bad = |why: &str| Problem::Config(format!("failed to prepare subPath for volumeMount {:?}: {why}", mount.name));
    if !payload::path_is_safe(&sub) {
        return Err(bad("it leaves the volume"));
    }
    let path = volume.join(&sub);
    if !path.exists() {
        // Creating through a link could leave the volume: the parents are looked at one by one.
        let mut parent = volume.to_owned();
        for part in Path::new(&sub).components() {
            parent.push(part);
            match fs::symlink_metadata(&parent) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(bad("a part of it is not a directory")),
                Err(_) => fs::create_dir(&parent).map_err(|e| bad(&e.to_string()))?,
            }
        }
    }
    let real = fs::canonicalize(&path).map_err(|e| bad(&e.to_string()))?;
    let root = fs::canonicalize(volume).map_err(|e| bad(&e.to_string()))?;
    if real.starts_with(&root) { Ok(real) } else { Err(bad("it leaves the volume")) }
}

/// Unmounts and removes everything that the pod has on the host.
pub(crate) fn clean_up(dir: &PodDir) -> io::Result<()> {
    mounts::remove_tree(dir.path())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
