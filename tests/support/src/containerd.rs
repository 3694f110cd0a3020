//! A private containerd for one test.
//!
//! Tests of one machine run in parallel processes, so each takes a slot: a locked file that decides
//! directories, bridge and subnet. The lock ends with the process; whoever starts next removes what
//! a crashed test left in any slot that is free. At most [`SLOTS`] runtimes at a time; a further one
//! waits. Dropping the value removes daemon, pods, mounts, network and directories.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use skerry_edged::private_runtime::{LeftOvers, PrivateRuntime, RuntimeOptions};

/// More would only make each of them slow on a machine of two cores.
const SLOTS: u8 = 8;
/// Where slots live. Below `/var/tmp`, because overlay mounts need a real filesystem.
const BASE: &str = "/var/tmp/skerry-test";
/// How long to wait for a free slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(300);

/// See the module documentation.
#[derive(Debug)]
pub struct Containerd {
    runtime: Option<PrivateRuntime>,
    slot: PathBuf,
    /// Held for the life of the value.
    _lock: Flock<File>,
}

impl Containerd {
    /// Starts a containerd with the images `skerry.test/pause:2` and `skerry.test/busybox:1`.
    ///
    /// # Errors
    /// When the packages are missing, this is not root, or containerd does not start.
    pub async fn start() -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!(
                "this test needs root and the packages containerd, runc, containernetworking-plugins, busybox-static, catatonit"
            );
        }
        let (index, lock) = free_slot().await?;
        let options = options(index);
        let slot = slot_dir(index);
        fs::create_dir_all(&slot).with_context(|| slot.display().to_string())?;
        let runtime = PrivateRuntime::start(options).await?;
        Ok(Self { runtime: Some(runtime), slot, _lock: lock })
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.as_ref().map(PrivateRuntime::socket).unwrap_or_default()
    }

    /// The control group above all pods of this runtime.
    pub fn cgroup_root(&self) -> String {
        self.runtime.as_ref().map(|r| r.options().cgroup_root.clone()).unwrap_or_default()
    }

    /// A directory of this runtime that is removed with it, for the root of an agent.
    pub fn dir(&self) -> &Path {
        &self.slot
    }

    /// What a reboot does beside the daemon's end: every process of every pod, and every tmpfs of the
    /// agent in [`Self::dir`], is gone.
    pub fn lose_processes(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.lose_processes();
        }
        unmount_below(&self.slot.join("edged"));
    }

    /// The runtime, to kill, freeze or restart its daemon.
    ///
    /// # Errors
    /// Never while the value lives; an error spares the caller an `expect`.
    pub fn runtime(&mut self) -> anyhow::Result<&mut PrivateRuntime> {
        self.runtime.as_mut().context("the runtime was stopped")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.runtime.take());
        remove_slot(&self.slot);
    }
}

fn slot_dir(index: u8) -> PathBuf {
    Path::new(BASE).join(index.to_string())
}

fn options(index: u8) -> RuntimeOptions {
    let dir = slot_dir(index);
    let mut options = RuntimeOptions::new(dir.join("root"), dir.join("state"));
    options.bridge = format!("skt{index}");
    options.subnet = format!("10.213.{index}.0/24");
    options.cgroup_root = format!("skt{index}pods");
    options.left_overs = LeftOvers::Remove;
    options
}

/// An agent that died may have left mounts in the slot beside the runtime's own.
fn remove_slot(dir: &Path) {
    unmount_below(dir);
    let _ = fs::remove_dir_all(dir);
}

fn unmount_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).collect::<Vec<_>>();
    for point in points.iter().rev().filter(|p| Path::new(p).starts_with(dir)) {
        let _ = nix::mount::umount2(*point, nix::mount::MntFlags::MNT_DETACH);
    }
}

async fn free_slot() -> anyhow::Result<(u8, Flock<File>)> {
    fs::create_dir_all(BASE).context(BASE)?;
    let deadline = tokio::time::Instant::now() + SLOT_TIMEOUT;
    loop {
        let mut mine = None;
        for index in 0..SLOTS {
            let path = Path::new(BASE).join(format!("{index}.lock"));
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            if slot_dir(index).exists() {
                let options = options(index);
                tokio::task::spawn_blocking(move || PrivateRuntime::remove(&options)).await??;
                remove_slot(&slot_dir(index));
            }
            if mine.is_none() {
                mine = Some((index, lock));
            }
        }
        if let Some(found) = mine {
            return Ok(found);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("no free slot for a runtime in {} s", SLOT_TIMEOUT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
