//! `skerry up`: a whole system on this machine, from nothing to running pods.
//!
//! A supervisor in the background keeps the processes running (`<dir>/units` says which); this
//! command brings them up in order, shows what it does and how long it took, and ends when the
//! example's pods run. Nothing in it is special to one machine: the node joins over the network with
//! a token, as any other. Every step is safe to repeat, so running `up` again mends what is missing.
//! When a step fails, what runs goes on running: the logs are there, and `skerry down` removes it.

pub(crate) mod example;
pub(crate) mod state;
mod steps;
mod units;
mod wait;

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use skerry_common::{drain, shutdown};

use crate::failure::{Context as _, Failure, Result};
use crate::process::Record;
use crate::supervise::{self, Places};
use crate::ui::{self, Steps};
use crate::{places, runtime};
use state::{Ports, State};

/// Name of the supervisor's record and log.
pub(crate) const SUPERVISOR: &str = "supervisor";
/// The sum of the deadlines of the processes, and some time for the kernel.
const DRAIN: Duration = Duration::from_secs(80);

/// Time for the supervisor's first step.
const SUPERVISOR_START: Duration = Duration::from_secs(10);

/// Options of `skerry up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Where the system keeps everything; `skerry down` removes it.
    #[arg(long, default_value = places::UP_DIR)]
    pub(crate) dir: PathBuf,
    /// Folder with objects to apply; may be given several times.
    #[arg(long)]
    pub(crate) example: Vec<PathBuf>,
    /// A program to keep running beside the system, as `name=/path/to/program arguments`, for what an example
    /// talks to; may be given several times. It goes with `skerry down`.
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(crate) run: Vec<units::Command>,
    /// Every service as its own process, from its own program.
    #[arg(long)]
    pub(crate) processes: bool,
    /// CRI socket to use instead of a private containerd.
    #[arg(long)]
    pub(crate) runtime_endpoint: Option<String>,
    /// Only the control plane and the cloud services, without a node.
    #[arg(long)]
    pub(crate) cloud_only: bool,
    /// Name of the node.
    #[arg(long, default_value = places::UP_NODE)]
    pub(crate) node_name: String,
    /// Address of the hub; 127.0.0.1:10000 keeps other machines out.
    #[arg(long)]
    pub(crate) hub_listen: Option<std::net::SocketAddr>,
    /// Count all ports up from this one, on loopback: for a second system on the same machine.
    #[arg(long)]
    pub(crate) port_base: Option<u16>,
    /// Longest time until everything runs, in seconds.
    #[arg(long, default_value_t = 180)]
    pub(crate) timeout: u64,
    /// Stay in the foreground: log here, stop the services on Ctrl-C. Pods go on until `down`.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Only keep the processes running; what `up` starts in the background.
    #[arg(long, hide = true)]
    pub(crate) supervise: bool,
}

impl UpArgs {
    /// Whether this process is the supervisor.
    pub(crate) fn stays(&self) -> bool {
        self.foreground || self.supervise
    }

    fn state(&self) -> State {
        let mut ports = self.port_base.map_or_else(Ports::default, Ports::from_base);
        if let Some(hub) = self.hub_listen {
            ports.hub = hub;
        }
        State {
            processes: self.processes,
            runtime_endpoint: self.runtime_endpoint.clone(),
            cloud_only: self.cloud_only,
            node: self.node_name.clone(),
            ports,
        }
    }
}

/// Brings the system up, or only supervises it.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    let dir = places::absolute(&args.dir)?;
    if args.supervise {
        // Out of the terminal's session: closing the terminal ends nothing.
        let _ = nix::unistd::setsid();
        return supervise_until_signal(&dir).await;
    }
    preflight(&args)?;
    let mut steps = Steps::new();
    let found = supervise::prepare(&dir)?;
    let state = agree(&args, &dir)?;
    if args.foreground {
        let brought = async {
            bring_up(&args, &found, &state, &mut steps).await?;
            std::future::pending::<Result<()>>().await
        };
        return tokio::select! {
            failed = brought => failed,
            ended = supervise_until_signal(&dir) => ended,
        };
    }
    start_supervisor(&found).await?;
    steps.done(format!("supervisor started, logs are in {}", dir.join("logs").display()));
    bring_up(&args, &found, &state, &mut steps).await?;
    ui::note(format!("up after {:.1} s", steps.total()));
    Ok(())
}

async fn bring_up(args: &UpArgs, found: &Places, state: &State, steps: &mut Steps) -> Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let result = tokio::time::timeout(patience, steps::all(args, found, state, steps)).await;
    let logs = found.dir.join("logs");
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => {
            ui::note(format!(
                "logs: {}; remove everything with: skerry down --dir {}",
                logs.display(),
                args.dir.display()
            ));
            Err(failure)
        }
        Err(_) => Err(Failure::new(format!("not up after {} s", args.timeout))
            .cause(wait::last_words(&logs))
            .cure(format!("see {}; then skerry down --dir {}", logs.display(), args.dir.display()))),
    }
}

/// What nobody can mend later.
fn preflight(args: &UpArgs) -> Result<()> {
    if args.cloud_only {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("skerry up needs root for containers, mounts and namespaces")
            .cure("run it with sudo, or with --cloud-only"));
    }
    if args.runtime_endpoint.is_none() {
        let missing = runtime::missing_packages();
        if !missing.is_empty() {
            return Err(Failure::new("skerry up needs a container runtime")
                .cause(format!("missing: {}", missing.join(", ")))
                .cure(format!("apt-get install {}, or name a CRI socket with --runtime-endpoint", missing.join(" "))));
        }
    }
    Ok(())
}

/// A second `up` must want the same as the first.
fn agree(args: &UpArgs, dir: &Path) -> Result<State> {
    let wanted = args.state();
    match State::read(dir) {
        Some(there) if there != wanted => Err(Failure::usage(format!("{} was made with other options", dir.display()))
            .cure(format!("skerry down --dir {}", args.dir.display()))),
        Some(there) => Ok(there),
        None => {
            wanted.write(dir)?;
            Ok(wanted)
        }
    }
}

async fn start_supervisor(found: &Places) -> Result<()> {
    if Record::read(&found.record(SUPERVISOR)).is_some_and(|record| record.is_running()) {
        return Ok(());
    }
    let what = || "cannot start the supervisor".to_owned();
    let log = found.log(SUPERVISOR);
    let out = fs::OpenOptions::new().create(true).append(true).mode(0o640).open(&log).or_fail(what)?;
    let err = out.try_clone().or_fail(what)?;
    let child = Command::new(std::env::current_exe().or_fail(what)?)
        .args(["up", "--supervise", "--dir"])
        .arg(&found.dir)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .or_fail(what)?;
    // It writes its own record; until then another `up` would start a second one.
    let started = async {
        wait::until(async || Record::read(&found.record(SUPERVISOR)).filter(|r| r.pid.unsigned_abs() == child.id()))
            .await
    };
    match tokio::time::timeout(SUPERVISOR_START, started).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(what()).cause(wait::last_words(&found.dir.join("logs")))),
    }
}

async fn supervise_until_signal(dir: &Path) -> Result<()> {
    let found = supervise::prepare(dir)?;
    if let Some(record) = Record::of(SUPERVISOR, std::process::id()) {
        record.write(&found.record(SUPERVISOR))?;
    }
    let (trigger, watch) = drain::channel(DRAIN);
    let task = tokio::spawn(supervise::supervise(found.clone(), watch));
    let signal = shutdown::requested().await.or_fail(|| "cannot listen for signals".into())?;
    tracing::info!(signal, "stopping every process");
    trigger.drain().await;
    let ended = task.await.or_fail(|| "the supervisor failed".into())?;
    let _ = fs::remove_file(found.record(SUPERVISOR));
    ended
}
