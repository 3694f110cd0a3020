//! `skerry-cloudhub`: one hub replica as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_cloudhub::{CloudHub, Config, HubError};
use skerry_common::process::{self, Failure, ServiceArgs};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Ends the nodes' connections and relays them to the sources and sinks.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML)
    #[arg(long, env = "SKERRY_CONFIG")]
    config: PathBuf,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9091")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("cloudhub", Some(args.admin));
    process::run(&options, |process| async move {
        let config: Config = skerry_common::load(&args.config)?;
        let hub =
            CloudHub::build(config, &process.registry, &process.readiness).await.map_err(|error| match error {
                HubError::Config(_) => Failure::usage(error),
                other => Failure::failed(other),
            })?;
        tracing::info!(address = ?hub.local_addr(), "hub listens");
        hub.run(process.stop).await.map_err(Failure::failed)
    })
}
