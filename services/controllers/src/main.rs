//! The binary `skerry-controllers`: the controllers as a process of their own.
//!
//! Only wires: arguments, logging, client, admin server, signal. Exit codes: 0 stopped as asked, 1 failed,
//! 64 wrong arguments or kubeconfig.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use skerry_common::process::{self, Failure, ProcessOptions};
use skerry_controllers::{Controllers, Metrics};
use skerry_telemetry::{LogConfig, LogFormat};

/// The scheduler and the controllers of a Skerry control plane.
#[derive(Debug, Parser)]
#[command(name = "skerry-controllers", version)]
struct Args {
    /// The cluster to work for; without it $KUBECONFIG, ~/.kube/config or the pod's own account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The CA certificate (PEM) to publish in every namespace; without it the one of the kubeconfig.
    #[arg(long, value_name = "FILE")]
    root_ca: Option<PathBuf>,
    /// Address of the admin server.
    #[arg(long, default_value = "127.0.0.1:9094")]
    admin: SocketAddr,
    /// What to log, for example `info,skerry_controllers=debug`.
    #[arg(long, env = "SKERRY_LOG")]
    log: Option<String>,
    /// Log as JSON.
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let format = if args.log_json { LogFormat::Json } else { LogFormat::Pretty };
    let log = LogConfig { format, filter: args.log.clone(), service: "controllers".to_owned() };
    process::run(&ProcessOptions { log, admin: Some(args.admin) }, |process| async move {
        let mut controllers = build(&args).await.map_err(Failure::usage)?;
        controllers.metrics = process.registry.register(Metrics::new);
        controllers.run(process.stop).await.map_err(Failure::failed)
    })
}

async fn build(args: &Args) -> Result<Controllers, String> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| skerry_common::chain(&e))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| skerry_common::chain(&e))?
        }
        None => kube::Config::infer().await.map_err(|e| skerry_common::chain(&e))?,
    };
    let root_ca = match &args.root_ca {
        Some(path) => tokio::fs::read_to_string(path).await.map_err(|e| format!("{}: {e}", path.display()))?,
        None => config.root_cert.iter().flatten().map(|der| pem(der)).collect(),
    };
    let client = kube::Client::try_from(config).map_err(|e| skerry_common::chain(&e))?;
    Ok(Controllers::new(client, root_ca))
}

/// A certificate as PEM.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
