//! The life of a service process: logs, admin server, signals, drain, exit code.
//!
//! Every binary's `main` is arguments and one call of [`run`]. The first SIGTERM or SIGINT begins the
//! drain, which may take [`DRAIN_DEADLINE`]; a second one ends the process after [`SECOND_SIGNAL_GRACE`].

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use skerry_telemetry::admin::Admin;
use skerry_telemetry::{LogConfig, LogFormat, Readiness, Registry};

use crate::{ConfigError, chain, drain, exit, notify, shutdown};

/// How long a process may take to stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take after a second signal.
pub const SECOND_SIGNAL_GRACE: Duration = Duration::from_millis(500);

/// The arguments that every service has.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs {
    /// Log filter, as in info,skerry_rpc=debug
    #[arg(long, env = "SKERRY_LOG")]
    log: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

impl ServiceArgs {
    /// The options of the process of this service.
    #[must_use]
    pub fn options(&self, service: &str, admin: Option<SocketAddr>) -> ProcessOptions {
        let format = if self.log_json { LogFormat::Json } else { LogFormat::Pretty };
        ProcessOptions { log: LogConfig { format, filter: self.log.clone(), service: service.to_owned() }, admin }
    }
}

/// What a process is made with.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// Logs and traces.
    pub log: LogConfig,
    /// Address of the admin server; none without.
    pub admin: Option<SocketAddr>,
}

/// What the process gives to its service.
#[derive(Debug, Clone)]
pub struct Process {
    /// Where to count.
    pub registry: Registry,
    /// What must happen before the process is ready.
    pub readiness: Readiness,
    /// When to stop.
    pub stop: drain::Watch,
}

/// An error with the exit code that it stands for.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Wrong usage or configuration: exit code 64.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: exit::USAGE, error: error.into() }
    }

    /// Anything else that ended the process: exit code 1.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code: exit::FAILED, error: error.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

/// Runs a service until it ends or a signal comes, and returns the process's exit code.
pub fn run<F, Fut>(options: &ProcessOptions, service: F) -> ExitCode
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    notify::close_handed_over();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, exit::FAILED),
    };
    runtime.block_on(async {
        let _logs = match skerry_telemetry::init(&options.log) {
            Ok(guard) => guard,
            Err(error) => return complain(&error, exit::USAGE),
        };
        tracing::info!(service = options.log.service, version = skerry_telemetry::VERSION, "starting");
        match lifetime(options.admin, service).await {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::from(exit::OK)
            }
            Err(failure) => {
                tracing::error!(error = chain(failure.error.as_ref()), "failed");
                ExitCode::from(failure.code)
            }
        }
    })
}

async fn lifetime<F, Fut>(admin: Option<SocketAddr>, service: F) -> Result<(), Failure>
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let (trigger, stop) = drain::channel(DRAIN_DEADLINE);
    let process = Process { registry: Registry::new(), readiness: Readiness::new(), stop };
    if let Some(address) = admin {
        let admin = Admin::bind(address, process.registry.clone(), process.readiness.clone());
        let admin = admin.await.map_err(Failure::usage)?;
        tracing::info!(address = %admin.address(), "admin server listens");
        let mut stop = process.stop.clone();
        tokio::spawn(admin.serve(async move { stop.forced().await }));
    }
    let readiness = process.readiness.clone();
    let service = service(process);
    tokio::pin!(service);
    let signal = tokio::select! {
        ended = &mut service => return ended,
        signal = shutdown::requested() => signal.map_err(Failure::failed)?,
    };
    tracing::info!(signal, "stopping");
    readiness.drain();
    let stopping = async {
        let (drained, ended) = tokio::join!(trigger.drain(), service);
        if drained == drain::Drained::Forced {
            tracing::warn!("stopped by force after the deadline");
        }
        ended
    };
    tokio::select! {
        ended = stopping => ended,
        again = second_signal() => {
            tracing::warn!(signal = again, "second signal, stopping at once");
            Ok(())
        }
    }
}

async fn second_signal() -> &'static str {
    match shutdown::requested().await {
        Ok(signal) => {
            tokio::time::sleep(SECOND_SIGNAL_GRACE).await;
            signal
        }
        // The handler was there a moment ago.
        Err(_) => std::future::pending().await,
    }
}

/// Before there are logs, standard error is all there is.
#[expect(clippy::print_stderr, reason = "logging is not set up")]
fn complain(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::from(code)
}
