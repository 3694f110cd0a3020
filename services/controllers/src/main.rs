//! `skerry-controllers`: the scheduler and the controllers as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_controllers::{Controllers, Metrics, connect};

/// The scheduler and the controllers of a Skerry control plane.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The cluster to work for; without it $KUBECONFIG, ~/.kube/config or the pod's own account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The CA certificate (PEM) to publish in every namespace; without it the one of the kubeconfig
    #[arg(long, value_name = "FILE")]
    root_ca: Option<PathBuf>,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9094")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("controllers", Some(args.admin));
    process::run(&options, |process| async move {
        let (client, ca) = connect(args.kubeconfig.as_deref()).await.map_err(Failure::usage)?;
        let ca = match &args.root_ca {
            Some(path) => tokio::fs::read_to_string(path).await.map_err(Failure::usage)?,
            None => ca,
        };
        let mut controllers = Controllers::new(client, ca);
        controllers.metrics = process.registry.register(Metrics::new);
        controllers.readiness = process.readiness;
        controllers.run(process.stop).await.map_err(Failure::failed)
    })
}
