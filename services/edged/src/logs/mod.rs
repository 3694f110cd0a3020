//! Logs of containers: links for collectors, rotation, removal.
//!
//! Files are the kubelet's: `<pods>/<namespace>_<name>_<uid>/<container>/<n>.log`, written by the
//! runtime, and links `<links>/<name>_<namespace>_<container>-<id>.log` to them. The worker makes a
//! link when a container has started and takes link and files away with the container; [`LogTask`]
//! rotates what has grown too large and removes links that lead nowhere. [`rotate`] decides, without
//! IO. A crash in the middle leaves a file that the next turn finds.

mod rotate;
mod task;

pub(crate) use task::LogTask;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::PodExt;

/// Longest name of a file on Linux.
const MAX_NAME: usize = 255;
const SUFFIX: &str = ".log";

/// The path of the link to a container's log.
fn link_path(links: &Path, pod: &Pod, container: &str, id: &str) -> PathBuf {
    let name = format!("{}_{}_{container}-{id}", pod.name(), pod.namespace());
    let name: String = name.chars().take(MAX_NAME - SUFFIX.len()).collect();
    links.join(format!("{name}{SUFFIX}"))
}

/// Links to the log of a container that has just started.
pub(crate) fn link(links: &Path, pod: &Pod, container: &str, id: &str, log: &Path) -> io::Result<()> {
    fs::create_dir_all(links)?;
    let path = link_path(links, pod, container, id);
    match std::os::unix::fs::symlink(log, &path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&path)?;
            std::os::unix::fs::symlink(log, &path)
        }
        other => other,
    }
}

/// Removes the log of a container that is gone: the file, what was rotated away, and the link.
pub(crate) fn remove(links: Option<&Path>, pod: &Pod, container: &str, id: &str, log: &Path) {
    if let Some(links) = links {
        let _ = fs::remove_file(link_path(links, pod, container, id));
    }
    let _ = fs::remove_file(log);
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else { return };
    let rotated = format!("{name}.");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(&rotated)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes the logs of a pod of which only the uid is known. Directories are
/// `<namespace>_<name>_<uid>`.
///
/// # Errors
/// When they cannot be removed.
pub(crate) fn remove_pod(logs: &Path, uid: &str) -> io::Result<()> {
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(|name| name.rsplit_once('_')).is_some_and(|(_, u)| u == uid) {
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes links into `logs` whose file is gone; others' links stay.
fn remove_dangling(links: &Path, logs: &Path) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let path = entry.path();
        if fs::read_link(&path).is_ok_and(|target| target.starts_with(logs) && !target.exists()) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn links_come_and_go_with_their_container() {
        let dir = tempfile::tempdir().unwrap();
        let (links, logs) = (dir.path().join("links"), dir.path().join("pods"));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let log = logs.join("c/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        for name in ["0.log", "0.log.20260101-000000", "0.log.20260101-000000.gz", "1.log"] {
            fs::write(log.with_file_name(name), name).unwrap();
        }
        for _ in 0..2 {
            link(&links, &pod, "c", "abc", &log).unwrap();
        }
        assert_eq!(fs::read_to_string(links.join("p_n_c-abc.log")).unwrap(), "0.log");
        remove(Some(&links), &pod, "c", "abc", &log);
        assert_eq!(fs::read_dir(&links).unwrap().count(), 0);
        assert_eq!(fs::read_dir(logs.join("c")).unwrap().count(), 1);

        link(&links, &pod, "c", "gone", &log).unwrap();
        link(&links, &pod, "c", "here", &log.with_file_name("1.log")).unwrap();
        std::os::unix::fs::symlink("/none/such", links.join("foreign.log")).unwrap();
        remove_dangling(&links, &logs);
        let mut left: Vec<_> = fs::read_dir(&links).unwrap().flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["foreign.log", "p_n_c-here.log"]);
    }

    #[test]
    fn a_pod_of_which_only_the_uid_is_known_leaves_no_logs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["n_p_uid-1/c", "n_p_uid-11/c", "n_p_other/c"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        remove_pod(dir.path(), "uid-1").unwrap();
        assert!(!dir.path().join("n_p_uid-1").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn long_names_are_cut_to_what_a_file_may_have() {
        let name = "a".repeat(253);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}})).unwrap();
        let path = link_path(Path::new("/l"), &pod, "c", &"f".repeat(64));
        assert_eq!(path.file_name().unwrap().len(), 255);
    }

    #[test]
    fn only_the_logs_of_the_pod_go() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a_p_u-1/c", "b_q_u-1/c", "a_p_u-11/c", "a_u-1_u-2/c", "u-1"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        remove_pod(root.path(), "u-1").unwrap();
        let mut left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a_p_u-11", "a_u-1_u-2", "u-1"]);
    }
}
