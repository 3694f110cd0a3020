//! The Skerry command line and the all-in-one process.
//!
//! Arguments, telemetry, the command, the exit code: everything else is in the modules. A wrong
//! command line ends with 64, a failed command with the code of its [`failure::Failure`].
//!
//! Without the feature `cloud` this is the program for nodes: the same commands, less those that need
//! a cluster.

#![cfg_attr(not(feature = "cloud"), allow(dead_code, reason = "ports and words of the commands for clusters"))]

mod check;
mod cli;
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(feature = "cloud")]
mod cluster;
mod devices;
mod dial;
#[cfg(feature = "cloud")]
mod down;
mod edge;
mod failure;
mod files;
#[cfg(feature = "cloud")]
mod hub;
mod join;
#[cfg(feature = "cloud")]
mod kubernetes;
mod mapper;
#[cfg(feature = "cloud")]
mod net;
#[cfg(feature = "cloud")]
mod node;
mod places;
mod pods;
#[cfg(feature = "cloud")]
mod process;
mod reset;
#[cfg(feature = "cloud")]
mod runtime;
mod status;
#[cfg(feature = "cloud")]
mod supervise;
mod systemd;
mod tasks;
#[cfg(feature = "cloud")]
mod token;
mod ui;
#[cfg(feature = "cloud")]
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use skerry_common::exit;
use skerry_telemetry::{LogConfig, LogFormat};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the tools log unless they are asked for more: only trouble.
const TOOL_FILTER: &str = "warn";

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&failure::Failure::new("cannot start the runtime").because(&error)),
    };
    runtime.block_on(run(cli))
}

async fn run(cli: cli::Cli) -> ExitCode {
    let tool = (!cli.command.is_service()).then(|| TOOL_FILTER.to_owned());
    let config = LogConfig {
        format: if cli.log_json { LogFormat::Json } else { LogFormat::Pretty },
        filter: cli.log_filter.or(tool),
        service: "skerry".into(),
    };
    let _guard = match skerry_telemetry::init(&config) {
        Ok(guard) => guard,
        Err(error) => return failed(&failure::Failure::usage("cannot start logging").because(&error)),
    };
    // For the libraries that take the process's provider (kube); ours name theirs. An error means that
    // there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command.run().await {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &failure::Failure) -> ExitCode {
    ui::note(failure.to_string());
    ExitCode::from(failure.code)
}
