//! `skerry-dmi`: devices of this node as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_dmi::{Config, Connect, Dmi};

/// Keeps the devices of this node.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML)
    #[arg(long, env = "SKERRY_CONFIG")]
    config: PathBuf,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9097")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("dmi", Some(args.admin));
    process::run(&options, |process| async move {
        let config: Config = skerry_common::load(&args.config)?;
        let connect = Connect::Socket(config.edgehub.clone());
        let dmi = Dmi::build(config, connect, &process.registry).await.map_err(|e| match e {
            skerry_dmi::Error::Options(_) => Failure::usage(e),
            other => Failure::failed(other),
        })?;
        dmi.run(process.stop).await.map_err(Failure::failed)
    })
}
