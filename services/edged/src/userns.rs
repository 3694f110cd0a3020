//! User namespaces: which ids of the host a pod with `hostUsers: false` runs under.
//!
//! Each such pod has a range of its own, kept in its directory, so that its files belong to the same
//! ids after a restart of the agent. Called by workers before a sandbox is created and when a pod is
//! cleaned up. Invariants: two pods never have the same range; a range is in force only when it is on
//! disk; 0 to 65535, the host's own, are never given. Limits: [`LENGTH`] ids per pod, as many ranges
//! as the node may have pods.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use skerry_proto::cri::v1::IdMapping;

use crate::pod::spec::PodExt;
use crate::volumes::PodDir;

/// Ids of one pod: every id that programs expect to exist.
const LENGTH: u32 = 65_536;
/// The file in a pod's directory, with the kubelet's name and form.
const NAME: &str = "userns";
/// Ranges that fit into 32 bits, without the host's own.
const MOST: u32 = LENGTH - 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    uid_mappings: Vec<Range>,
    gid_mappings: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// Whether the pod wants a user namespace of its own.
pub(crate) fn is_wanted(pod: &Pod) -> bool {
    pod.spec().host_users == Some(false)
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    /// Uids of pods by the first id of their range.
    taken: Mutex<BTreeMap<u32, String>>,
    count: u32,
}

impl UserNamespaces {
    /// Finds the ranges that pods have already. Blocking, short.
    pub(crate) fn load(root: &Path, max_pods: u32) -> Self {
        let mut taken = BTreeMap::new();
        for entry in fs::read_dir(root.join("pods")).into_iter().flatten().flatten() {
            let range = fs::read(entry.path().join(NAME)).ok().and_then(|text| read(&text));
            if let (Some(range), Ok(uid)) = (range, entry.file_name().into_string())
                && let Some(other) = taken.insert(range, uid.clone())
            {
                tracing::warn!(range, pod = %uid, %other, "two pods have the same range of user ids");
            }
        }
        Self { taken: Mutex::new(taken), count: max_pods.min(MOST) }
    }

    /// The range of a pod, if it has one.
    pub(crate) fn of(&self, uid: &str) -> Option<IdMapping> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = taken.iter().find(|(_, owner)| *owner == uid).map(|(first, _)| *first)?;
        Some(IdMapping { host_id: first, container_id: 0, length: LENGTH })
    }

    /// Gives a pod a range, the same as before if it has one. Blocking.
    ///
    /// # Errors
    /// When all ranges are in use, or the file cannot be written.
    pub(crate) fn allocate(&self, dir: &PodDir, uid: &str) -> io::Result<()> {
        if self.of(uid).is_some() {
            return Ok(());
        }
        let first = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = (1..=self.count).map(|n| n * LENGTH);
            let free = all.find(|first| !taken.contains_key(first));
            let first = free.ok_or_else(|| io::Error::other("no range of user ids is free"))?;
            taken.insert(first, uid.to_owned());
            first
        };
        let written = write(dir, first);
        if written.is_err() {
            self.release(uid);
        }
        written
    }

    /// The pod is gone, and its directory with the file.
    pub(crate) fn release(&self, uid: &str) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| owner != uid);
    }
}

fn write(dir: &PodDir, first: u32) -> io::Result<()> {
    let range = vec![Range { host_id: first, container_id: 0, length: LENGTH }];
    let file = File { uid_mappings: range.clone(), gid_mappings: range };
    let temporary = dir.path().join("userns.tmp");
    let mut out = fs::File::create(&temporary)?;
    out.write_all(&serde_json::to_vec(&file)?)?;
    out.sync_data()?;
    fs::rename(&temporary, dir.path().join(NAME))
}

/// The first id of a range that this agent could have given.
fn read(text: &[u8]) -> Option<u32> {
    let file: File = serde_json::from_slice(text).ok()?;
    let ([uids], [gids]) = (file.uid_mappings.as_slice(), file.gid_mappings.as_slice()) else { return None };
    let whole = uids == gids && uids.container_id == 0 && uids.length == LENGTH;
    (whole && uids.host_id >= LENGTH && uids.host_id % LENGTH == 0).then_some(uids.host_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn first(all: &UserNamespaces, uid: &str) -> Option<u32> {
        all.of(uid).map(|m| m.host_id)
    }

    #[test]
    fn ranges_are_unique_and_survive_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let dir = |uid: &str| {
            let dir = PodDir::new(root.path(), uid);
            fs::create_dir_all(dir.path()).unwrap();
            dir
        };
        let all = UserNamespaces::load(root.path(), 2);
        all.allocate(&dir("a"), "a").unwrap();
        all.allocate(&dir("b"), "b").unwrap();
        all.allocate(&dir("a"), "a").unwrap();
        assert_eq!((first(&all, "a"), first(&all, "b")), (Some(65_536), Some(131_072)));
        assert!(all.allocate(&dir("c"), "c").is_err(), "none is left");

        let all = UserNamespaces::load(root.path(), 2);
        assert_eq!((first(&all, "a"), first(&all, "b"), first(&all, "c")), (Some(65_536), Some(131_072), None));
        fs::remove_dir_all(dir("a").path()).unwrap();
        all.release("a");
        all.allocate(&dir("c"), "c").unwrap();
        assert_eq!(first(&all, "c"), Some(65_536));
    }

    #[test]
    fn a_file_that_nobody_here_wrote_gives_nothing() {
        let file = |host: u32, container: u32, length: u32| {
            let range = serde_json::json!([{"hostId": host, "containerId": container, "length": length}]);
            serde_json::json!({"uidMappings": range, "gidMappings": range}).to_string()
        };
        assert_eq!(read(file(65_536, 0, LENGTH).as_bytes()), Some(65_536));
        for bad in
            [file(0, 0, LENGTH), file(65_537, 0, LENGTH), file(65_536, 1, LENGTH), file(65_536, 0, 1), "{".into()]
        {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
    }
}
