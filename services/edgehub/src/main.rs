//! `skerry-edgehub`: the edge end of the connection as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_edgehub::{Config, EdgeHub, Listen};

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
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("edgehub", Some(args.admin));
    process::run(&options, |process| async move {
        let config: Config = skerry_common::load(&args.config)?;
        let hub = EdgeHub::build(config, Listen::Socket(args.socket), &process.registry);
        hub.await.map_err(Failure::failed)?.run(process.stop).await.map_err(Failure::failed)
    })
}
