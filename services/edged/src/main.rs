//! `skerry-edged`: pods of this node as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_edged::{Config, Connect, Edged};

/// Runs the pods of this node.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML)
    #[arg(long, env = "SKERRY_CONFIG")]
    config: PathBuf,
    /// Socket of the container runtime, in place of the one in the configuration
    #[arg(long)]
    runtime_endpoint: Option<String>,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9096")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("edged", Some(args.admin));
    process::run(&options, |process| async move {
        let mut config: Config = skerry_common::load(&args.config)?;
        if args.runtime_endpoint.is_some() {
            config.runtime_endpoint = args.runtime_endpoint;
        }
        let connect = Connect::Socket(config.edgehub.clone());
        let edged = Edged::build(config, connect, &process.registry).await.map_err(|e| match e {
            skerry_edged::Error::Options(_) => Failure::usage(e),
            other => Failure::failed(other),
        })?;
        edged.run(process.stop).await.map_err(Failure::failed)
    })
}
