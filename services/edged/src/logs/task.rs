//! Looks at the sizes of logs and rotates.
//!
//! One task, on blocking threads where it touches files. The runtime is asked only when a log is too
//! large. A log is moved away first and the runtime told to open a new one then; if it does not, the
//! file is moved back, so no line is lost. When the task ends, the agent ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use skerry_proto::cri::v1::ContainerState;

use super::rotate::{COMPRESSED, Rotation, UNFINISHED, plan};
use crate::context::Context;
use crate::node_config::NodeConfig;
use crate::pod::labels;
use crate::pod::spec::PodExt;
use crate::runtime::sandbox_config::log_dir;

/// How often sizes are looked at; the kubelet's.
const LOOK: Duration = Duration::from_secs(10);
/// Links that lead nowhere are removed once in so many looks.
const SWEEP_EVERY: u32 = 30;

/// See the module documentation.
pub(crate) struct LogTask {
    context: Arc<Context>,
    max_bytes: u64,
    max_files: usize,
}

/// A log that is too large.
struct Large {
    uid: String,
    container: String,
    dir: PathBuf,
    rotation: Rotation,
}

impl LogTask {
    pub(crate) fn new(context: Arc<Context>, config: &NodeConfig) -> Self {
        let max_files = usize::try_from(config.container_log_max_files).unwrap_or(usize::MAX);
        Self { context, max_bytes: config.log_max_bytes(), max_files }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut looks = 0_u32;
        loop {
            if looks.is_multiple_of(SWEEP_EVERY) {
                self.sweep().await;
            }
            looks = looks.wrapping_add(1);
            for large in self.large().await {
                self.rotate(large).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn sweep(&self) {
        let context = Arc::clone(&self.context);
        let sweep = move || {
            if let Some(links) = &context.log_links {
                super::remove_dangling(links, &context.log_dir);
            }
        };
        // Fails only when the agent stops.
        let _ = tokio::task::spawn_blocking(sweep).await;
    }

    async fn large(&self) -> Vec<Large> {
        let context = Arc::clone(&self.context);
        let (max_bytes, max_files) = (self.max_bytes, self.max_files);
        let look = move || {
            let mut found = Vec::new();
            for pod in context.objects.pods() {
                let dir = log_dir(&context.log_dir, &pod);
                for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                    let Ok(container) = entry.file_name().into_string() else { continue };
                    if let Some(rotation) = plan(&files_of(&entry.path()), max_bytes, max_files) {
                        found.push(Large { uid: pod.uid().to_owned(), container, dir: entry.path(), rotation });
                    }
                }
            }
            found
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn rotate(&self, large: Large) {
        let Large { uid, container, dir, rotation } = large;
        let Ok(containers) = self.context.cri.containers(Some(&uid)).await else { return };
        let count = rotation.restart_count.to_string();
        let running = containers.into_iter().find(|c| {
            c.state == ContainerState::ContainerRunning as i32
                && c.labels.get(labels::CONTAINER_NAME) == Some(&container)
                && c.annotations.get(labels::RESTART_COUNT) == Some(&count)
        });
        // The log of a container that ended grows no more.
        let Some(running) = running else { return };
        let current = dir.join(&rotation.current);
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let rotated = dir.join(format!("{}.{now}", rotation.current));
        let (from, to) = (current.clone(), rotated.clone());
        let moved = tokio::task::spawn_blocking(move || {
            tidy(&dir, &rotation);
            // Twice in one second: the next look does it.
            if to.exists() { Err(io::ErrorKind::AlreadyExists.into()) } else { fs::rename(from, to) }
        });
        match moved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(uid, container, %error, "log not rotated");
                return;
            }
            Err(_) => return,
        }
        if let Err(status) = self.context.cri.reopen_log(&running.id).await {
            tracing::warn!(uid, container, code = ?status.code(), "runtime did not open a new log");
            // It may have opened one though it did not say so; that one must stay.
            if !current.exists() {
                let _ = fs::rename(&rotated, &current);
            }
            return;
        }
        tracing::debug!(uid, container, "log rotated");
    }
}

fn files_of(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.metadata().ok()?.len()))).collect()
}

fn tidy(dir: &Path, rotation: &Rotation) {
    for name in &rotation.remove {
        let _ = fs::remove_file(dir.join(name));
    }
    for name in &rotation.compress {
        if let Err(error) = compress(&dir.join(name)) {
            tracing::warn!(file = %dir.join(name).display(), %error, "log not compressed");
        }
    }
}

/// Puts a compressed file in the place of a plain one; at no moment neither is there.
fn compress(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let unfinished = with(UNFINISHED);
    let result = (|| {
        let mut encoder = GzEncoder::new(fs::File::create(&unfinished)?, Compression::fast());
        io::copy(&mut fs::File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_data()?;
        fs::rename(&unfinished, with(COMPRESSED))?;
        fs::remove_file(path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(unfinished);
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_compressed_log_holds_what_the_plain_one_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log.1");
        let text = "line\n".repeat(10_000);
        fs::write(&path, &text).unwrap();
        compress(&path).unwrap();
        assert!(!path.exists());
        let file = fs::File::open(dir.path().join("0.log.1.gz")).unwrap();
        assert!(file.metadata().unwrap().len() < 1_000);
        let mut back = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        assert!(compress(&path).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
    }
}
