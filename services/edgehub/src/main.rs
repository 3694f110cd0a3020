//! `skerry-edgehub`: the edge end of the connection as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ProcessOptions};
use skerry_edgehub::{Config, EdgeHub, Listen};
use skerry_telemetry::{LogConfig, LogFormat};

/// Keeps the node's connection to the cloud and its store.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML)
    #[arg(long, env = "SKERRY_CONFIG")]
    config: PathBuf,
    /// Socket for the services of the node
    #[arg(long, default_value = "/run/skerry/edgehub.sock")]
    socket: PathBuf,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9095")]
    admin: SocketAddr,
    /// Log filter, as in info,skerry_edgehub=debug
    #[arg(long, env = "SKERRY_LOG")]
    log: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let format = if args.log_json { LogFormat::Json } else { LogFormat::Pretty };
    let log = LogConfig { format, filter: args.log, service: "edgehub".to_owned() };
    process::run(&ProcessOptions { log, admin: Some(args.admin) }, |process| async move {
        let config: Config = skerry_common::load(&args.config)?;
        let hub = EdgeHub::build(config, Listen::Socket(args.socket), &process.registry);
        hub.await.map_err(Failure::failed)?.run(process.stop).await.map_err(Failure::failed)
    })
}
