//! `skerry-devicecontroller`: DeviceController as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use skerry_common::process::{self, Failure, ServiceArgs};
use skerry_devicecontroller::{Config, DeviceController, DeviceControllerError, Sockets, kube_client};

/// Connects the Kubernetes API with CloudHub for devices: models and devices down, what they report up.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML); without it the defaults
    #[arg(long, env = "SKERRY_CONFIG")]
    config: Option<PathBuf>,
    /// Kubeconfig, instead of the file's
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Address of the admin server
    #[arg(long, default_value = "127.0.0.1:9098")]
    admin: SocketAddr,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = args.service.options("devicecontroller", Some(args.admin));
    process::run(&options, |process| async move {
        // The admin server answers already; it must not say ready before the parts have said what they wait for.
        let starting = process.readiness.task("start");
        let mut config: Config = match &args.config {
            Some(path) => skerry_common::load(path)?,
            None => Config::default(),
        };
        config.kubeconfig = args.kubeconfig.or(config.kubeconfig);
        let client = kube_client(&config).await.map_err(Failure::usage)?;
        let sockets = Sockets::tcp(&config);
        let controller = DeviceController::build(&config, sockets, client, &process.registry, &process.readiness);
        let controller = controller.await.map_err(|error| match error {
            DeviceControllerError::Setting { .. } => Failure::usage(error),
            other => Failure::failed(other),
        })?;
        tracing::info!(address = ?controller.local_addr(), "devicecontroller listens");
        starting.ready();
        controller.run(process.stop).await.map_err(Failure::failed)
    })
}
