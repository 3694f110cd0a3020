//! A containerd of our own: started, filled with images and taken away again without a trace.
//!
//! `skerry up` uses it on a machine that has the packages containerd and runc but no configured
//! service, and every test that needs a real runtime uses it too. The system's own containerd, if
//! there is one, is never touched: root, state, sockets, network, bridge and address pool are private.
//!
//! Invariants: whatever the daemon or its pods created can be found from the two directories and the
//! bridge name alone, so that [`PrivateRuntime::remove`] works in another process and after a crash;
//! removal is idempotent; nothing outside these names is ever removed.
//!
//! Limits: one runtime per state directory; socket paths must fit [`MAX_SOCKET_PATH`] bytes; the
//! daemon has [`START_TIMEOUT`] to answer and [`STOP_TIMEOUT`] to end before it is killed.
//!
//! On crash the pods go on running; the next start adopts or removes them, as [`LeftOvers`] says.
//! Dropping the value removes everything unless [`PrivateRuntime::detach`] was called.
#![allow(clippy::disallowed_methods, reason = "std::thread::sleep: all of this runs on blocking threads or in drop")]

mod image;
mod render;
mod sweep;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use image::{FileContent, Image, ImageFile};
pub use render::Snapshotter;

use crate::error::Error;

/// The kernel's limit for the path of a unix socket, less the terminating zero and the suffix of
/// containerd's second socket.
pub const MAX_SOCKET_PATH: usize = 100;
/// A cold start on a slow disk takes some seconds; a minute means that it will not come.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// containerd ends at once when told; after this it hangs.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the start looks whether the daemon answers.
const START_POLL: Duration = Duration::from_millis(50);
/// The namespace that the CRI plugin of containerd keeps everything in.
pub(crate) const CRI_NAMESPACE: &str = "k8s.io";

/// What to do with pods that an earlier run left behind in the same state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOvers {
    /// Keep them running and manage them again.
    Adopt,
    /// Kill and remove them before the start.
    Remove,
}

/// Where a private runtime lives and what it offers.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Images and snapshots; may be kept between runs.
    pub root: PathBuf,
    /// Sockets, configuration, address leases and the log. Lost at a reboot without harm.
    pub state: PathBuf,
    /// Name of the bridge for pods, at most 15 bytes; also the name of the network.
    pub bridge: String,
    /// IPv4 subnet of the pods, for example `10.88.0.0/24`.
    pub subnet: String,
    /// Let pods reach other networks through this machine (iptables rules of the bridge plugin).
    pub masquerade: bool,
    /// Publish host ports (rules of the portmap plugin); on where the plugin and iptables are installed.
    pub host_ports: bool,
    /// Image of the sandbox container; it must be among `images` or pullable.
    pub sandbox_image: String,
    /// Images to build and import when they are missing.
    pub images: Vec<Image>,
    /// Control group above all pods of this runtime, as the agent is configured with.
    pub cgroup_root: String,
    /// What to do with pods of an earlier run.
    pub left_overs: LeftOvers,
}

impl RuntimeOptions {
    /// Options with the pause and the busybox image, a bridge `skerry0`, host ports where they are
    /// possible, and no masquerading.
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        let pause = Image::pause("skerry.test/pause:2");
        Self {
            root: root.into(),
            state: state.into(),
            bridge: "skerry0".into(),
            subnet: "10.88.0.0/24".into(),
            masquerade: false,
            host_ports: render::can_publish_ports(),
            sandbox_image: pause.name.clone(),
            images: vec![pause, Image::busybox("skerry.test/busybox:1")],
            cgroup_root: crate::config::DEFAULT_CGROUP_ROOT.into(),
            left_overs: LeftOvers::Adopt,
        }
    }

    /// The path of the CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    fn config_path(&self) -> PathBuf {
        self.state.join("config.toml")
    }

    fn check(&self) -> Result<(), Error> {
        let bad = |why: &str| Err(Error::Options(why.to_owned()));
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return bad("the state directory's path is too long for a unix socket");
        }
        if !self.root.is_absolute() || !self.state.is_absolute() {
            return bad("root and state must be absolute paths");
        }
        let name_ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.bridge.is_empty() || self.bridge.len() > 15 || !self.bridge.chars().all(name_ok) {
            return bad("the bridge name must have 1 to 15 letters, digits, '-' or '_'");
        }
        render::parse_subnet(&self.subnet)?;
        for path in [&self.root, &self.state] {
            let plain = path.to_str().is_some_and(|p| !p.contains(['"', '\\', '\n', ',', ':']));
            if !plain {
                return bad("the directories' names contain characters that a mount cannot take");
            }
        }
        Ok(())
    }
}

/// A running containerd. See the module documentation.
#[derive(Debug)]
pub struct PrivateRuntime {
    options: RuntimeOptions,
    daemon: Option<Child>,
    snapshotter: Snapshotter,
    keep: bool,
}

impl PrivateRuntime {
    /// Starts containerd, waits until it answers, and imports the images that are missing.
    ///
    /// # Errors
    /// When the packages are missing, the options cannot work, or the daemon does not answer within
    /// [`START_TIMEOUT`]; then the last lines of its log are in the error and nothing is left.
    pub async fn start(options: RuntimeOptions) -> Result<Self, Error> {
        tokio::task::spawn_blocking(move || Self::start_blocking(options))
            .await
            .map_err(|_| Error::Runtime("the starting task ended".into()))?
    }

    fn start_blocking(options: RuntimeOptions) -> Result<Self, Error> {
        options.check()?;
        sweep::stop_daemon(&options);
        if options.left_overs == LeftOvers::Remove {
            sweep::sweep(&options)?;
        }
        let made = |path: &Path| fs::create_dir_all(path).map_err(|e| Error::io(path, e));
        made(&options.root)?;
        made(&options.state)?;
        let snapshotter = render::pick_snapshotter(&options.root);
        render::write_files(&options, snapshotter)?;
        sweep::note_forwarding(&options)?;
        let mut runtime = Self { options, daemon: None, snapshotter, keep: false };
        runtime.start_daemon()?;
        let missing: Vec<Image> = runtime.missing_images()?;
        import(&runtime.options, snapshotter, &missing)?;
        Ok(runtime)
    }

    /// The path of the CRI socket, for `runtime_endpoint`.
    pub fn socket(&self) -> PathBuf {
        self.options.socket()
    }

    /// The options in force.
    pub fn options(&self) -> &RuntimeOptions {
        &self.options
    }

    /// How layers are kept on disk.
    pub fn snapshotter(&self) -> Snapshotter {
        self.snapshotter
    }

    /// Whether the daemon process is alive.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts the daemon again after it ended or after [`Self::kill_daemon`]. Pods are not touched.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_daemon(&mut self) -> Result<(), Error> {
        let log_path = self.options.state.join("containerd.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|e| Error::io(&log_path, e))?;
        let err = log.try_clone().map_err(|e| Error::io(&log_path, e))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.options.config_path())
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(err))
            .spawn()
            .map_err(|source| Error::Program { program: "containerd", source })?;
        self.daemon = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if self.ctr(&["version"]).is_ok() && self.cri_ready() {
                return Ok(());
            }
            if !self.is_running() || Instant::now() > deadline {
                let tail = sweep::tail(&log_path, 1_000);
                return Err(Error::Runtime(format!("containerd did not start: {tail}")));
            }
            std::thread::sleep(START_POLL);
        }
    }

    /// The CRI plugin is there when its images can be listed; the socket alone comes earlier.
    fn cri_ready(&self) -> bool {
        self.ctr(&["plugins", "ls"]).is_ok_and(|out| {
            out.lines().any(|l| {
                let mut w = l.split_whitespace();
                w.next() == Some("io.containerd.grpc.v1") && w.next() == Some("cri") && l.trim_end().ends_with("ok")
            })
        })
    }

    /// Ends the daemon with a signal and leaves the pods running, as a crash or an upgrade would.
    pub fn kill_daemon(&mut self, signal: Signal) {
        if let Some(mut child) = self.daemon.take() {
            let _ = kill(pid_of(&child), signal);
            sweep::wait_or_kill(&mut child, STOP_TIMEOUT);
        }
    }

    /// Ends every process of every pod, as a reboot would; what is on disk stays. The daemon must have
    /// been ended before.
    pub fn lose_processes(&self) {
        sweep::lose_processes(&self.options);
    }

    /// Stops (`true`) or continues (`false`) the daemon's process: what a hung runtime looks like.
    pub fn freeze_daemon(&self, frozen: bool) {
        if let Some(child) = &self.daemon {
            let _ = kill(pid_of(child), if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Builds and imports images; existing ones with the same name are replaced.
    ///
    /// # Errors
    /// When a file of the image cannot be read or containerd refuses the archive.
    pub async fn import(&self, images: Vec<Image>) -> Result<(), Error> {
        let (options, snapshotter) = (self.options.clone(), self.snapshotter);
        tokio::task::spawn_blocking(move || import(&options, snapshotter, &images))
            .await
            .map_err(|_| Error::Runtime("the importing task ended".into()))?
    }

    fn missing_images(&self) -> Result<Vec<Image>, Error> {
        let have = self.ctr(&["images", "ls", "-q"])?;
        let have: Vec<&str> = have.lines().collect();
        Ok(self.options.images.iter().filter(|i| !have.contains(&i.name.as_str())).cloned().collect())
    }

    fn ctr(&self, args: &[&str]) -> Result<String, Error> {
        let out = ctr_command(&self.options, args)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Program { program: "ctr", source })?;
        if !out.status.success() {
            return Err(Error::Runtime(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Ends the daemon and leaves the pods running; a later start adopts them.
    pub fn detach(mut self) {
        self.keep = true;
        self.kill_daemon(Signal::SIGTERM);
    }

    /// Kills all pods and removes everything but the images in the root directory.
    ///
    /// # Errors
    /// When something could not be removed; what could be removed is gone.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.keep = true;
        self.kill_daemon(Signal::SIGTERM);
        let options = self.options.clone();
        tokio::task::spawn_blocking(move || sweep::sweep(&options))
            .await
            .map_err(|_| Error::Runtime("the stopping task ended".into()))?
    }

    /// Removes what a runtime with these options left behind, also after a crash and from another
    /// process: daemon, pods, mounts, network, rules, control groups, the state directory, and the
    /// root directory with the images. Blocking.
    ///
    /// # Errors
    /// When something could not be removed; what could be removed is gone.
    pub fn remove(options: &RuntimeOptions) -> Result<(), Error> {
        sweep::stop_daemon(options);
        sweep::sweep(options)?;
        sweep::remove_dir(&options.root)
    }
}

impl Drop for PrivateRuntime {
    fn drop(&mut self) {
        if !self.keep {
            self.kill_daemon(Signal::SIGTERM);
            if let Err(e) = Self::remove(&self.options) {
                tracing::warn!(error = %skerry_common::chain(&e), "private runtime not fully removed");
            }
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

fn ctr_command(options: &RuntimeOptions, args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(options.socket()).args(["--namespace", CRI_NAMESPACE]).args(args);
    command
}

fn import(options: &RuntimeOptions, snapshotter: Snapshotter, images: &[Image]) -> Result<(), Error> {
    let failed = |source| Error::Program { program: "ctr", source };
    for image in images {
        let archive = image.archive()?;
        let mut child = ctr_command(options, &["images", "import", "--snapshotter", snapshotter.name(), "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A refused archive shows up as a broken pipe; the exit status below says more.
            let _ = stdin.write_all(&archive);
        }
        let out = child.wait_with_output().map_err(failed)?;
        if !out.status.success() {
            let message = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            return Err(Error::Runtime(format!("image {} was not imported: {message}", image.name)));
        }
    }
    Ok(())
}
