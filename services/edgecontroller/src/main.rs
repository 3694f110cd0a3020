//! `skerry-edgecontroller`: EdgeController as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_edgecontroller::{Config, ControllerError, EdgeController, kube_client};
use skerry_rpc::Listen;

/// Connects the Kubernetes API with CloudHub: objects down, reports up, leases, certificates.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML); without it the defaults
    #[arg(long, env = "SKERRY_CONFIG")]
    config: Option<PathBuf>,
    /// Address for cloudhub, instead of the file's
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Kubeconfig, instead of the file's
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Keep a certificate in a folder, as SERVICE=FOLDER; may be repeated
    #[arg(long, value_parser = folder)]
    credentials: Vec<(String, PathBuf)>,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9092")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("edgecontroller", Some(args.admin));
    process::run(&options, |process| async move {
        // The admin server answers already; it must not say ready before the parts have said what they wait for.
        let starting = process.readiness.task("start");
        let mut config: Config = match &args.config {
            Some(path) => skerry_common::load(path)?,
            None => Config::default(),
        };
        config.listen = args.listen.unwrap_or(config.listen);
        config.kubeconfig = args.kubeconfig.or(config.kubeconfig);
        config.credentials.extend(args.credentials);
        let client = kube_client(&config).await.map_err(Failure::usage)?;
        let listen = Listen::Tcp(config.listen);
        let controller = EdgeController::build(&config, listen, client, &process.registry, &process.readiness);
        let controller = controller.await.map_err(|error| match error {
            ControllerError::Setting { .. } => Failure::usage(error),
            other => Failure::failed(other),
        })?;
        tracing::info!(address = ?controller.local_addr(), "edgecontroller listens");
        starting.ready();
        controller.run(process.stop).await.map_err(Failure::failed)
    })
}

fn folder(text: &str) -> Result<(String, PathBuf), String> {
    let (service, folder) = text.split_once('=').ok_or("write it as SERVICE=FOLDER")?;
    Ok((service.to_owned(), folder.into()))
}
