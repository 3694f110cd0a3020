//! Network namespaces by name: entering them, and removing those that a killed process left.
//!
//! A name is `skerry-lab-<pid>-<start time of the process>-<number of the lab>-<node>`: whoever finds one can tell
//! whether its process is still there, also when the pid has been given to another one since. A sweep removes only
//! names of this form whose process is gone, after killing what still runs inside. Two sweeps at once do no harm.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LabError, command};

/// Where `ip netns` keeps them.
const PLACE: &str = "/run/netns";
const PREFIX: &str = "skerry-lab-";

/// A namespace that somebody else creates and removes.
#[derive(Debug, Clone)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(PLACE).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside. Sockets that it makes stay inside wherever they are used, programs
    /// that it starts too. A panic goes on in the caller.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let file = File::open(self.path()).map_err(LabError::io(format!("namespace {}", self.name)))?;
        let inside = || -> Result<T, LabError> {
            let entered = setns(file, CloneFlags::CLONE_NEWNET);
            entered.map_err(|errno| LabError::io(format!("entering {}", self.name))(errno.into()))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A setting of the kernel in the namespace of the calling thread; `false` if this kernel does not have it.
pub(crate) fn set(setting: &str, value: &str) -> Result<bool, LabError> {
    let path = Path::new("/proc/sys/net").join(setting);
    if !path.exists() {
        return Ok(false);
    }
    fs::write(&path, value).map_err(LabError::io(format!("net/{setting}")))?;
    Ok(true)
}

/// The first part of the names of all namespaces of this process.
pub(crate) fn owner() -> Result<String, LabError> {
    let pid = std::process::id();
    let start =
        started(pid).ok_or_else(|| LabError::io("/proc of this process")(std::io::ErrorKind::NotFound.into()))?;
    Ok(format!("{PREFIX}{pid}-{start}-"))
}

/// When a process started, in clock ticks since the start of the system; `None` if it has ended.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    if ended { None } else { fields.nth(18)?.parse().ok() }
}

/// Whether a name is ours, and its process gone.
fn is_left(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = rest.splitn(4, '-');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (Some(pid), Some(start), Some(_)) = (number(), number(), number()) else {
        return false;
    };
    parts.next().is_some() && u32::try_from(pid).is_ok_and(|pid| started(pid) != Some(start))
}

/// Removes what processes left that were killed with a laboratory: namespaces with their links and rules, and the
/// programs in them. Returns the names. Called by [`crate::Lab::build`].
///
/// # Errors
/// Without root or iproute2.
pub fn sweep() -> Result<Vec<String>, LabError> {
    let Ok(found) = fs::read_dir(PLACE) else {
        return Ok(Vec::new());
    };
    let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = names.filter(|name| is_left(name)).collect();
    remove(&left)?;
    Ok(left)
}

/// Removes namespaces, and the programs in them. One that is gone already is no error.
pub(crate) fn remove(names: &[String]) -> Result<(), LabError> {
    let there: Vec<&String> = names.iter().filter(|name| Path::new(PLACE).join(name).exists()).collect();
    if there.is_empty() {
        return Ok(());
    }
    let inside: BTreeSet<(u64, u64)> = there.iter().filter_map(|name| identity(&Path::new(PLACE).join(name))).collect();
    for pid in processes() {
        let of = identity(&PathBuf::from(format!("/proc/{pid}/ns/net")));
        if pid != std::process::id() && of.is_some_and(|of| inside.contains(&of)) {
            // It may end by itself between these two lines.
            let _ = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
    }
    let lines: Vec<String> = there.iter().map(|name| format!("netns delete {name}")).collect();
    let removed = command::ip_all(&lines);
    if there.iter().any(|name| Path::new(PLACE).join(name).exists()) { removed } else { Ok(()) }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_processes_that_are_gone_are_left() {
        let own = owner().unwrap();
        assert!(!is_left(&format!("{own}0-home")));
        let pid = std::process::id();
        let start = started(pid).unwrap();
        // The same pid, another process.
        assert!(is_left(&format!("skerry-lab-{pid}-{}-0-home", start + 1)));
        assert!(is_left("skerry-lab-4194305-1-0-home-of-somebody"));
        for other in ["home", "skerry-md-1", "skerry-lab-", "skerry-lab-4194305-1-0", "skerry-lab-x-1-0-home"] {
            assert!(!is_left(other), "{other}");
        }
    }
}
