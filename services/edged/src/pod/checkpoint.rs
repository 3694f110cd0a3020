//! The last status of a pod, on disk: what an agent that starts again cannot find in the runtime.
//!
//! The cloud sends no status down, and a runtime may lose its containers. Without this file a job
//! that has succeeded would run again, and start times and restart counts would begin anew. Called by
//! the worker on each change of the status, on a blocking thread. Written to a temporary file, synced
//! and renamed; a file that cannot be read counts as none. Removed with the pod's directory.

use std::fs;
use std::io::{self, Write as _};

use k8s_openapi::api::core::v1::PodStatus;

use crate::volumes::PodDir;

const NAME: &str = "status.json";
/// A status of many containers has some 10 KiB.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) fn load(dir: &PodDir) -> Option<PodStatus> {
    let path = dir.path().join(NAME);
    if fs::metadata(&path).ok()?.len() > MAX_BYTES {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whether an earlier agent, or this one, has taken the pod.
pub(crate) fn exists(dir: &PodDir) -> bool {
    dir.path().join(NAME).exists()
}

pub(crate) fn store(dir: &PodDir, status: &PodStatus) -> io::Result<()> {
    fs::create_dir_all(dir.path())?;
    let temporary = dir.path().join("status.tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(status)?)?;
    file.sync_data()?;
    fs::rename(&temporary, dir.path().join(NAME))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_status_survives_and_a_torn_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        let dir = PodDir::new(root.path(), "u");
        assert_eq!(load(&dir), None);
        let status = PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() };
        store(&dir, &status).unwrap();
        assert_eq!(load(&dir), Some(status));
        fs::write(dir.path().join(NAME), "{\"phase\": \"Succ").unwrap();
        assert_eq!(load(&dir), None);
    }
}
