//! Processes under measurement: started by argument vector, measured through `/proc`, ended on drop.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks per second of `/proc/<pid>/stat`; fixed by the kernel's user interface.
const TICKS: f64 = 100.0;

/// A process that ends when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a program; its output goes to a file in `logs`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, args: &[&str], logs: &Path) -> anyhow::Result<Self> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let log = std::fs::File::create(logs.join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_kib(&self) -> anyhow::Result<f64> {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory that it ever had, in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak_kib(&self) -> anyhow::Result<f64> {
        self.status_kib("VmHWM:")
    }

    /// The part of the resident memory that is not the program's own pages, in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn anonymous_kib(&self) -> anyhow::Result<f64> {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .with_context(|| format!("{} is gone", self.name))?;
        let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("no {field}"))?;
        Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
    }

    /// Processor time since its start, in seconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .with_context(|| format!("{} is gone", self.name))?;
        // The name may contain spaces; the fields after it do not.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("short stat");
        Ok((field(11)? + field(12)?) / TICKS)
    }

    /// Threads that it has.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn threads(&self) -> anyhow::Result<usize> {
        self.count("task")
    }

    /// File descriptors that it has open.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        self.count("fd")
    }

    fn count(&self, what: &str) -> anyhow::Result<usize> {
        let entries = std::fs::read_dir(format!("/proc/{}/{what}", self.pid()));
        Ok(entries.with_context(|| format!("{} is gone", self.name))?.count())
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Share of one core that it uses over a time.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn cpu_share(&self, over: Duration) -> anyhow::Result<f64> {
        let before = self.cpu_seconds()?;
        tokio::time::sleep(over).await;
        Ok((self.cpu_seconds()? - before) / over.as_secs_f64())
    }
}

impl Drop for Process {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await, and the benchmark is over")]
    fn drop(&mut self) {
        // Its id may belong to another process by now.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the binaries of this build are: beside the benchmark itself.
///
/// # Errors
/// When the benchmark does not know where it is.
pub fn binaries() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program is in a folder")?.to_owned())
}
