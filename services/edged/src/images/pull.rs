//! One pull at a time, or a few; and none for ever.
//!
//! A pull takes a place, watches that something arrives, and gives the place back when nothing does
//! for [`STALLED`], so that others go on; after the configured deadline without progress it is given
//! up, which makes the runtime stop. Progress is what the runtime writes: its directory of unfinished
//! downloads, its finished layers, and while layers are unpacked the space that they take. Of a
//! runtime whose directories are not known only the call's own deadline holds. Dropping the future
//! ends the pull and gives the place back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::cri::v1::{AuthConfig, PodSandboxConfig};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;

use crate::runtime::Cri;

/// A download that stands still for so long does not hold up others.
const STALLED: Duration = Duration::from_secs(10);
/// How often progress is looked at; a directory with a few entries.
const LOOK: Duration = Duration::from_millis(500);
/// Unfinished downloads that are looked at; the runtime has a few per pull.
const MAX_DOWNLOADS: usize = 1_000;

/// The places of pulls, and how long they may stand still.
#[derive(Debug)]
pub(crate) struct Pulls {
    places: Arc<Semaphore>,
    deadline: Duration,
}

/// What a pull has brought so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Progress {
    downloading: Vec<(PathBuf, u64)>,
    layers: usize,
    /// Only while layers are unpacked: others write to the same disk too.
    free: Option<u64>,
}

/// Where containerd keeps downloads, found from where it keeps snapshots.
fn content_of(image_root: &Path) -> Option<PathBuf> {
    let content = image_root.parent()?.join("io.containerd.content.v1.content");
    content.is_dir().then_some(content)
}

impl Progress {
    fn look(image_root: &Path, content: &Path, layers_before: usize) -> Self {
        let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut downloading: Vec<(PathBuf, u64)> = entries(content.join("ingest"))
            .take(MAX_DOWNLOADS)
            .map(|e| (e.path(), std::fs::metadata(e.path().join("data")).map_or(0, |m| m.len())))
            .collect();
        downloading.sort();
        let layers = entries(content.join("blobs/sha256")).count();
        let unpacking = downloading.is_empty() && layers > layers_before;
        let free = nix::sys::statvfs::statvfs(image_root).ok().map(|s| s.blocks_free()).filter(|_| unpacking);
        Self { downloading, layers, free }
    }
}

impl Pulls {
    pub(crate) fn new(places: usize, deadline: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), deadline }
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Pulls with the first credentials that the registry takes, or with none.
    ///
    /// # Errors
    /// The runtime's last word, or that nothing arrived any more.
    pub(crate) async fn pull(
        &self,
        cri: &Cri,
        image: &str,
        sandbox: &PodSandboxConfig,
        credentials: Vec<AuthConfig>,
        image_root: Option<PathBuf>,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<String, Status> {
        let attempts = async {
            let mut auths = credentials.into_iter().map(Some).collect::<Vec<_>>();
            if auths.is_empty() {
                auths.push(None);
            }
            let mut result = Err(Status::internal("not tried"));
            for auth in auths {
                result = cri.pull(image, auth, sandbox.clone()).await;
                if result.is_ok() {
                    break;
                }
            }
            result
        };
        let watched = image_root.and_then(|root| content_of(&root).map(|content| (root, content)));
        match watched {
            Some((root, content)) => tokio::select! {
                result = attempts => result,
                () = self.until_stuck(root, content, place) => Err(Status::deadline_exceeded(format!(
                    "pulling made no progress for {}s", self.deadline.as_secs()
                ))),
            },
            None => {
                let _place = place;
                attempts.await
            }
        }
    }

    async fn until_stuck(&self, root: PathBuf, content: PathBuf, place: tokio::sync::OwnedSemaphorePermit) {
        let mut place = Some(place);
        let mut last: Option<Progress> = None;
        let mut moved = Instant::now();
        let mut layers_before = None;
        loop {
            let (root, content) = (root.clone(), content.clone());
            let before = layers_before;
            let look = move || Progress::look(&root, &content, before.unwrap_or(usize::MAX));
            if let Ok(now) = tokio::task::spawn_blocking(look).await {
                layers_before.get_or_insert(now.layers);
                if last.as_ref() != Some(&now) {
                    last = Some(now);
                    moved = Instant::now();
                }
            }
            let still = moved.elapsed();
            if still >= self.deadline {
                return;
            }
            if still >= STALLED {
                drop(place.take());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_layers_and_unpacking_are_progress() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("io.containerd.snapshotter.v1.overlayfs");
        assert_eq!(content_of(&root), None);
        let content = dir.path().join("io.containerd.content.v1.content");
        let download = content.join("ingest/1");
        for path in [&root, &download, &content.join("blobs/sha256")] {
            std::fs::create_dir_all(path).unwrap();
        }
        assert_eq!(content_of(&root).as_ref(), Some(&content));
        let look = || Progress::look(&root, &content, 0);
        let first = look();
        assert_eq!(first, look());
        std::fs::write(download.join("data"), "abc").unwrap();
        let second = look();
        assert_ne!(first, second);
        assert_eq!(second.free, None, "nothing is unpacked while something is downloaded");
        std::fs::remove_dir_all(&download).unwrap();
        std::fs::write(content.join("blobs/sha256/x"), "abc").unwrap();
        let third = look();
        assert!(third.free.is_some() && third.layers == 1);
    }
}
