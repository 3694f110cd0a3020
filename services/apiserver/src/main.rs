//! `skerry-apiserver`: the embedded Kubernetes API as a process. Only wires; see the library.

use clap::Parser;
use skerry_apiserver::{Config, KubeletConfig, ServerError};
use skerry_common::exit;
use skerry_common::process::{self, Failure, ServiceArgs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The Kubernetes API on SQLite, for one site, a laptop and the tests.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file (YAML); without it the defaults
    #[arg(long, env = "SKERRY_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the database and the keys, instead of the file's
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address to listen on, instead of the file's
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Range of cluster IPs, instead of the file's
    #[arg(long)]
    service_cidr: Option<String>,
    /// A further name or address for the serving certificate; may be repeated
    #[arg(long)]
    advertise: Vec<String>,
    /// Folder of the credentials of the service apiserver, to reach the kubelets of nodes
    #[arg(long, requires = "trust_domain")]
    kubelet_credentials: Option<PathBuf>,
    /// The trust domain of these credentials
    #[arg(long)]
    trust_domain: Option<String>,
    /// Write an administrator's kubeconfig here, instead of where the file says
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
    /// Address of the admin server; none without
    #[arg(long)]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let options = args.service.options("apiserver", args.admin);
    process::run(&options, |process| async move {
        let starting = process.readiness.task("apiserver");
        let mut config: Config = match &args.config {
            Some(path) => skerry_common::load(path)?,
            None => Config::default(),
        };
        config.data_dir = args.data_dir.unwrap_or(config.data_dir);
        config.listen = args.listen.unwrap_or(config.listen);
        config.service_cidr = args.service_cidr.unwrap_or(config.service_cidr);
        config.kubeconfig_out = args.kubeconfig_out.or(config.kubeconfig_out);
        if let (Some(credentials), Some(trust_domain)) = (args.kubelet_credentials, args.trust_domain) {
            config.kubelet = Some(KubeletConfig { credentials, trust_domain });
        }
        config.advertise.extend(args.advertise);
        config.registry = process.registry;
        let server = config.build().await.map_err(|error| match error {
            ServerError::Config(_) => Failure::usage(error),
            other => Failure::failed(other),
        })?;
        starting.ready();
        server.run(process.stop).await.map_err(Failure::failed)
    })
}
