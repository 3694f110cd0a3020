//! A mapper: the devices of one protocol between their lines and the node.
//!
//! [`run`] is all of a mapper's `main`. Tests and programs that run several in one process use [`Mapper`]: `build`
//! binds, `run` serves until it is told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use skerry_telemetry::admin::Admin;
use skerry_telemetry::{LogConfig, LogFormat, Readiness, Registry};
use tokio_util::sync::CancellationToken;

use crate::Driver;
use crate::config::{About, Checked, Config};
use crate::data_plane::{DataPlane, DataPlaneConfig};
use crate::engine::Engine;
use crate::error::Error;
use crate::fault::chain;
use crate::metrics::Metrics;
use crate::node::{self, Link};
use crate::plane::Plane;
use crate::report::Outbox;
use crate::rest;

/// How long a mapper may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Exit code of wrong usage and configuration.
const USAGE: u8 = 64;
/// Where KubeEdge's mappers look for their configuration.
const DEFAULT_CONFIG: &str = "config.yaml";

// The arguments of every mapper; the first two are KubeEdge's. Who the mapper is comes with its `About`.
#[derive(Debug, Parser)]
struct Args {
    /// Configuration file (YAML); without it, ./config.yaml if it is there
    #[arg(long)]
    config_file: Option<PathBuf>,
    /// Log level as KubeEdge has it: 4 and more is debug, 6 and more is trace
    #[arg(long = "v", default_value_t = 1)]
    verbosity: u8,
    /// Log filter, as in info,skerry_mapper_sdk=debug
    #[arg(long, env = "SKERRY_LOG")]
    log: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
    /// Address of the admin server, in place of the one in the configuration
    #[arg(long)]
    admin: Option<SocketAddr>,
}

impl Args {
    /// The process's; ends it where clap has said all.
    fn of(about: &About) -> Self {
        let what = format!("Serves devices of the protocol {}", about.protocol);
        let command = Self::command().name(about.name).version(about.version).about(what);
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// Opens the data plane of a mapper of this name.
pub type OpenDataPlane = fn(&DataPlaneConfig, &str, &Registry) -> Arc<dyn DataPlane>;

/// A mapper that is bound and does not serve yet.
pub struct Mapper<D: Driver> {
    engine: Arc<Engine<D>>,
    link: Link,
    rest: Option<rest::Bound>,
    metrics: Metrics,
}

/// Counters of a mapper, for tests and for programs that run one.
#[derive(Debug, Clone)]
pub struct Counters(Metrics);

impl Counters {
    /// Devices that were set up, also again.
    pub fn devices_set(&self) -> u64 {
        self.0.devices_set.get()
    }

    /// Values that were handed to the driver to be written.
    pub fn writes(&self) -> u64 {
        self.0.writes.get()
    }

    /// Reads of devices.
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    /// Sessions with the node.
    pub fn node_sessions(&self) -> u64 {
        self.0.node_sessions.get()
    }
}

impl<D: Driver> Mapper<D> {
    /// Binds what the configuration asks for.
    ///
    /// # Errors
    /// When the configuration is wrong or an address is taken.
    pub async fn build(
        config: &Config,
        about: &About,
        driver: D,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, Error> {
        let Checked { identity, node_socket, own_socket, rest } = config.checked(about)?;
        let metrics = Metrics::register(registry);
        let outbox = Arc::new(Outbox::default());
        let engine = Arc::new(Engine::new(driver, Arc::clone(&outbox), metrics.clone()));
        let rest = match rest {
            Some((address, options)) => Some(rest::Bound::bind(address, &options).await?),
            None => None,
        };
        let plant = Arc::clone(&engine) as _;
        let (own_metrics, readiness) = (metrics.clone(), readiness.clone());
        let link = Link { identity, node_socket, own_socket, plant, outbox, metrics: own_metrics, readiness };
        Ok(Self { engine, link, rest, metrics })
    }

    /// Hands the good values of all devices to a data plane too.
    #[must_use]
    pub fn with_data_plane(self, plane: Arc<dyn DataPlane>) -> Self {
        self.engine.set_plane(Plane::new(plane));
        self
    }

    /// The address of the REST server, if there is one.
    pub fn rest_address(&self) -> Option<SocketAddr> {
        self.rest.as_ref().map(rest::Bound::address)
    }

    /// What the mapper counts, also while it runs.
    pub fn counters(&self) -> Counters {
        Counters(self.metrics.clone())
    }

    /// Serves until `stop`, then closes all lines.
    pub async fn run(self, stop: CancellationToken) {
        let Self { engine, link, rest, metrics } = self;
        let rest = async {
            match rest {
                Some(bound) => bound.serve(Arc::clone(&engine) as _, metrics.clone(), stop.clone()).await,
                None => stop.cancelled().await,
            }
        };
        tokio::join!(node::run(link, stop.clone()), rest);
        if tokio::time::timeout(STOP_DEADLINE, engine.stop()).await.is_err() {
            tracing::warn!("some lines did not close in time");
        }
        if tokio::time::timeout(STOP_DEADLINE, engine.close_plane()).await.is_err() {
            tracing::warn!("the data plane did not close in time: some values are lost");
        }
    }
}

/// The life of a mapper as a process: arguments, configuration, logs, signals, exit code.
pub fn run<D: Driver>(about: &About, driver: D) -> ExitCode {
    live(about, driver, None)
}

/// Like [`run`], with a data plane: it is opened with its section of the configuration and the mapper's name.
pub fn run_with<D: Driver>(about: &About, driver: D, open: OpenDataPlane) -> ExitCode {
    live(about, driver, Some(open))
}

fn live<D: Driver>(about: &About, driver: D, open: Option<OpenDataPlane>) -> ExitCode {
    let args = Args::of(about);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, 1),
    };
    runtime.block_on(async {
        let verbosity = match args.verbosity {
            0..=3 => "info",
            4..=5 => "debug",
            6.. => "trace",
        };
        let format = if args.log_json { LogFormat::Json } else { LogFormat::Pretty };
        let filter = Some(args.log.clone().unwrap_or_else(|| verbosity.to_owned()));
        let _logs = match skerry_telemetry::init(&LogConfig { format, filter, service: about.name.to_owned() }) {
            Ok(guard) => guard,
            Err(error) => return complain(&error, USAGE),
        };
        tracing::info!(mapper = about.name, version = about.version, "starting");
        match serve(about, driver, open, &args).await {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "failed");
                let usage = matches!(error, Error::Config(_) | Error::ReadConfig { .. } | Error::ParseConfig { .. });
                ExitCode::from(if usage { USAGE } else { 1 })
            }
        }
    })
}

async fn serve<D: Driver>(about: &About, driver: D, open: Option<OpenDataPlane>, args: &Args) -> Result<(), Error> {
    let config = match &args.config_file {
        Some(path) => Config::load(path)?,
        None if Path::new(DEFAULT_CONFIG).exists() => Config::load(Path::new(DEFAULT_CONFIG))?,
        None => Config::default(),
    };
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let stop = CancellationToken::new();
    if let Some(address) = args.admin.or(config.admin) {
        let admin = Admin::bind(address, registry.clone(), readiness.clone()).await?;
        tracing::info!(address = %admin.address(), "admin server listens");
        tokio::spawn(admin.serve(stop.clone().cancelled_owned()));
    }
    let mut mapper = Mapper::build(&config, about, driver, &registry, &readiness).await?;
    if let Some(open) = open {
        let name = mapper.link.identity.name.clone();
        mapper = mapper.with_data_plane(open(&config.data_plane, &name, &registry));
    }
    let stopping = stop.clone();
    let signals = async move {
        match requested().await {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "no signals can be received, stopping"),
        }
        readiness.drain();
        stopping.cancel();
    };
    tokio::join!(mapper.run(stop), signals);
    Ok(())
}

/// Resolves with the first signal that asks to stop.
async fn requested() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Before there are logs, standard error is all there is.
#[expect(clippy::print_stderr, reason = "logging is not set up")]
fn complain(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::from(code)
}

impl<D: Driver> std::fmt::Debug for Mapper<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapper").field("name", &self.link.identity.name).finish_non_exhaustive()
    }
}
