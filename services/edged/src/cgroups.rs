//! The control groups that runtimes leave empty: those of pods. Blocking, short.
//!
//! The runtime makes a pod's group as the parent of its containers' groups and removes only these.
//! Called when a pod is gone. Only empty groups with exactly our names are removed: the kernel
//! refuses the others.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::PodExt;
use crate::runtime::sandbox_config::CGROUP_ROOT;

const MOUNT: &str = "/sys/fs/cgroup";

/// Removes a pod's groups of every class in every hierarchy.
pub(crate) fn remove_pod(pod: &Pod) {
    let name = format!("pod{}", pod.uid());
    for root in roots() {
        for class in ["", "burstable", "besteffort"] {
            let _ = fs::remove_dir(root.join(class).join(&name));
        }
    }
}

/// Removes the groups above all pods where they are empty.
pub(crate) fn remove_roots() {
    for root in roots() {
        for class in ["burstable", "besteffort"] {
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
