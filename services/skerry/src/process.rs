//! Processes by pid and start time: a pid alone may belong to somebody else by now.
//!
//! `up`, `down` and the supervisor use it. A [`Record`] is written when a process is started and is
//! enough to find and end it later, also after a crash of the one who started it. Nothing here ends
//! a process by its name. A record whose process is gone, or whose pid has another start time, is
//! the same as no record.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::failure::{Context as _, Result};
use crate::files::write_atomically;

/// How often a process that is to end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Its name, for people.
    pub(crate) name: String,
    /// Process id.
    pub(crate) pid: i32,
    /// Clock ticks between boot and its start, from /proc.
    pub(crate) start_time: u64,
    /// The boot in which it runs.
    pub(crate) boot: String,
}

impl Record {
    /// The record of a process that runs now.
    pub(crate) fn of(name: &str, pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let (start_time, _) = stat(pid)?;
        Some(Self { name: name.into(), pid, start_time, boot: boot() })
    }

    /// Reads a record; `None` when there is none, or it is damaged.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).or_fail(|| "cannot write a pid file".into())?;
        write_atomically(path, &bytes, 0o644)
    }

    /// Whether this very process still runs. A zombie does not.
    pub(crate) fn is_running(&self) -> bool {
        self.boot == boot()
            && stat(self.pid).is_some_and(|(start, state)| start == self.start_time && state != 'Z' && state != 'X')
    }

    /// Sends a signal, if the process still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_running() {
            match kill(Pid::from_raw(self.pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => tracing::warn!(name = self.name, pid = self.pid, %error, "cannot signal a process"),
            }
        }
    }

    /// Ends the process: SIGTERM, and SIGKILL after `patience`. Says whether it is gone.
    pub(crate) async fn end(&self, patience: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        if self.gone_within(patience).await {
            return true;
        }
        self.signal(Signal::SIGKILL);
        self.gone_within(Duration::from_secs(5)).await
    }

    async fn gone_within(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// Start time and state of a process, from /proc/<pid>/stat.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; `fields` stands behind field 3.
    let start = fields.nth(18)?.parse().ok()?;
    Some((start, state))
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_process_is_ended_by_its_record_and_only_by_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = Record::of("sleep", child.id()).unwrap();
        assert!(record.is_running());
        let other = Record { start_time: record.start_time + 1, ..record.clone() };
        assert!(!other.is_running(), "another start time is another process");
        other.signal(Signal::SIGKILL);
        assert!(record.is_running());
        assert!(record.end(Duration::from_secs(5)).await);
        child.wait().unwrap();
        assert!(!record.is_running());
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        assert_eq!(Record::read(&path), None);
        fs::write(&path, "12").unwrap();
        assert_eq!(Record::read(&path), None);
        let record = Record::of("me", std::process::id()).unwrap();
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record));
    }
}
