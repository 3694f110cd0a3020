//! The control groups that runtimes leave empty: those of pods. Blocking, short.
//!
//! The runtime makes a pod's group as the parent of its containers' groups and removes only these.
//! Called when a pod is gone. Only empty groups with exactly our names are removed: the kernel
//! refuses the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::PodExt;
use crate::runtime::sandbox_config::CGROUP_ROOT;

const MOUNT: &str = "/sys/fs/cgroup";
/// Where pods of each class lie below our group.
const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];

/// Removes a pod's groups of every class in every hierarchy.
pub(crate) fn remove_pod(pod: &Pod) {
    let name = format!("pod{}", pod.uid());
    for root in roots() {
        for class in CLASSES {
            let _ = fs::remove_dir(root.join(class).join(&name));
        }
    }
}

/// Removes empty groups of pods that are not known: of a start that was cut off by the agent's end.
/// Younger ones are spared: another agent on this machine may be about to use them.
pub(crate) fn remove_unknown(min_age: Duration, known: impl Fn(&str) -> bool) {
    for root in roots() {
        for class in CLASSES {
            let Ok(entries) = fs::read_dir(root.join(class)) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
                if age.is_some_and(|age| age < min_age) {
                    continue;
                }
                if name.to_str().and_then(|n| n.strip_prefix("pod")).is_some_and(|uid| !known(uid)) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// Removes the groups above all pods where they are empty.
pub(crate) fn remove_roots() {
    remove_unknown(Duration::ZERO, |_| false);
    for root in roots() {
        for class in CLASSES {
            let _ = fs::remove_dir(root.join(class));
        }
        let _ = fs::remove_dir(root);
    }
}

/// Our group at the top of each hierarchy: one with version 2, one per controller with version 1.
fn roots() -> Vec<PathBuf> {
    let mount = Path::new(MOUNT);
    let mut roots = vec![mount.join(CGROUP_ROOT)];
    if let Ok(entries) = fs::read_dir(mount) {
        roots.extend(entries.flatten().map(|e| e.path().join(CGROUP_ROOT)));
    }
    roots.retain(|r| r.is_dir());
    roots
}
