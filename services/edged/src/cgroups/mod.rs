//! The control groups of pods and of their classes: made before a sandbox, removed after it.
//!
//! The runtime makes the groups of containers below ours and removes only those. `layout` says where
//! groups are, `limits` what is written into them, both without IO but for reading the mount table;
//! [`Cgroups`] does it. Called by workers on blocking threads, and by the private runtime's sweep.
//!
//! Invariants: nothing outside the configured root is touched; a pod's group exists only while its
//! directory below the agent's root does, so a crash leaves nothing that the next start does not
//! find; processes are killed only in a group of a pod whose containers the runtime has removed.
//! Limits: a group that is busy is an error, and the worker tries again.

mod layout;
mod limits;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pod::spec::PodExt;
use crate::resources::{self, MIN_SHARES, NodeResources, Qos};
pub(crate) use layout::{Driver, HUGE_PAGES, Layout, huge_page_pools, parent_of_pod};
use limits::PodLimits;

/// Classes that have a group of their own; guaranteed pods lie directly below the root.
const CLASSES: [Qos; 2] = [Qos::Burstable, Qos::BestEffort];

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: String,
    layout: Layout,
    /// Processes of one pod; negative: no limit.
    pids: i64,
    /// CPU requests of burstable pods in thousandths, by uid: what their class gets.
    burstable: Mutex<BTreeMap<String, i128>>,
}

impl Cgroups {
    /// Looks at this machine's hierarchies.
    pub(crate) fn new(root: &str, pids: i64) -> Self {
        Self { root: root.to_owned(), layout: Layout::detect(), pids, burstable: Mutex::default() }
    }

    /// The group above all pods, in the runtime's terms; empty when the runtime chooses parents.
    pub(crate) fn top(&self, driver: Driver) -> String {
        layout::top(&self.root, driver)
    }

    /// The parent for the groups of a pod's containers, in the runtime's terms.
    pub(crate) fn parent(&self, pod: &Pod, driver: Driver) -> String {
        parent_of_pod(&self.root, resources::qos(pod), pod.uid(), driver)
    }

    /// What of this machine decides about limits of containers.
    pub(crate) fn node(&self, memory_capacity: i64, memory_throttling: Option<f64>) -> NodeResources {
        NodeResources {
            memory_capacity,
            huge_pages: layout::huge_pages(),
            unified: self.layout.is_unified(),
            swap_limits: self.layout.limits_swap(),
            memory_throttling,
        }
    }

    /// Makes a pod's group, writes its limits, and gives its class what all its pods ask for. Repeated
    /// for a pod that runs: then limits are only written again.
    ///
    /// # Errors
    /// When the kernel refuses; nothing that was made is undone.
    pub(crate) fn ensure_pod(&self, pod: &Pod, driver: Driver, node: &NodeResources) -> io::Result<()> {
        // Slices are systemd's: what is written behind its back it takes back.
        if driver != Driver::Cgroupfs {
            return Ok(());
        }
        let class = resources::qos(pod);
        match class {
            Qos::BestEffort => self.write(&[&class_dir(class)], &PodLimits::shares(MIN_SHARES))?,
            Qos::Burstable => {
                let request = resources::total(pod, false, "cpu").unwrap_or(0);
                self.change_burstable(|all| all.insert(pod.uid().to_owned(), request) != Some(request))?;
            }
            Qos::Guaranteed => {}
        }
        let limits = PodLimits::of(pod, self.pids, node);
        self.write(&[&class_dir(class), &format!("pod{}", pod.uid())], &limits)
    }

    /// Removes a pod's groups of every class. Whatever still runs in them is killed: it escaped the
    /// runtime. Succeeds when there is none.
    ///
    /// # Errors
    /// When a group is busy; a second attempt finds its processes gone.
    pub(crate) fn remove_pod(&self, uid: &str) -> io::Result<()> {
        let mut result = Ok(());
        for group in self.groups_of_pod(uid) {
            result = result.and(remove_tree(&group, true));
        }
        result.and(self.change_burstable(|all| all.remove(uid).is_some()))
    }

    /// Kills what runs in the group of one container. For a container that the runtime calls ended and yet
    /// cannot remove: the start of its task was given up when the task ran already.
    pub(crate) fn kill_container(&self, uid: &str, id: &str) {
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return;
        }
        for group in self.groups_of_pod(uid) {
            kill_all(&group.join(id));
        }
    }

    /// Removes empty groups of pods that nobody knows and that did not change for `age`: a runtime that
    /// was making a sandbox when its agent was killed makes the group again after it was removed.
    pub(crate) fn sweep(&self, age: Duration, known: impl Fn(&str) -> bool) {
        for dir in self.dirs_of_pods() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(uid) = name.to_str().and_then(|n| n.strip_prefix("pod")) else { continue };
                let changed = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                if !known(uid) && changed.is_some_and(|since| since >= age) {
                    let _ = remove_tree(&entry.path(), false);
                    let _ = self.change_burstable(|all| all.remove(uid).is_some());
                }
            }
        }
    }

    /// Where groups of pods are, of every class in every hierarchy.
    fn dirs_of_pods(&self) -> impl Iterator<Item = PathBuf> {
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        let roots = self.layout.mounts().map(|mount| mount.join(&self.root));
        roots.flat_map(move |root| classes.map(|class| root.join(class_dir(class))))
    }

    /// Where the groups of a pod may be: its class is not asked for.
    fn groups_of_pod(&self, uid: &str) -> impl Iterator<Item = PathBuf> {
        let name = format!("pod{uid}");
        self.dirs_of_pods().map(move |dir| dir.join(&name))
    }

    /// Changes what burstable pods ask for; true from `change` writes the new sum.
    fn change_burstable(&self, change: impl FnOnce(&mut BTreeMap<String, i128>) -> bool) -> io::Result<()> {
        // Held over the write, so that the newest sum is written last.
        let mut all = self.burstable.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut all) {
            return Ok(());
        }
        let shares = resources::shares(all.values().sum());
        self.write(&[&class_dir(Qos::Burstable)], &PodLimits::shares(shares))
    }

    fn write(&self, below: &[&str], limits: &PodLimits) -> io::Result<()> {
        for file in limits.files(self.layout.is_unified()) {
            let Some(mount) = self.layout.mount_of(file.controller) else { continue };
            let mut dir = mount.join(&self.root);
            for level in std::iter::once("").chain(below.iter().copied()) {
                dir.push(level);
                make(&dir, self.layout.is_unified())?;
            }
            let path = dir.join(&file.name);
            match fs::write(&path, &file.value) {
                // A kernel without this file has no such limit.
                Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_optional() => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

fn class_dir(class: Qos) -> String {
    if class == Qos::Guaranteed { String::new() } else { class.name().to_lowercase() }
}

fn make(dir: &Path, unified: bool) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())));
        }
        _ => {}
    }
    if unified && let Some(parent) = dir.parent() {
        layout::delegate(parent);
    }
    Ok(())
}

/// Removes the groups above all pods, where nothing runs in them.
pub(crate) fn remove_root(root: &str) {
    for mount in Layout::detect().mounts() {
        let dir = mount.join(root);
        for class in CLASSES {
            let _ = remove_tree(&dir.join(class_dir(class)), false);
        }
        let _ = remove_tree(&dir, false);
    }
}

fn kill_all(group: &Path) {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another process namespace, and would mean our own group.
    for pid in procs.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 1) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes a group and all below it, the innermost first.
fn remove_tree(dir: &Path, kill_processes: bool) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let below: Vec<PathBuf> =
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    for inner in below {
        remove_tree(&inner, kill_processes)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => {
            if kill_processes {
                kill_all(dir);
            }
            Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
        }
        Ok(()) => Ok(()),
    }
}
