//! The binary `skerry-controllers`: the controllers as a process of their own.
//!
//! Only wires: arguments, logging, client, admin server, signal. Exit codes: 0 stopped as asked, 1 failed,
//! 64 wrong arguments or kubeconfig.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use skerry_common::{drain, exit, shutdown};
use skerry_controllers::{Controllers, Metrics};
use skerry_telemetry as telemetry;

/// How long tasks may take to stop; they stop at their next await.
const DRAIN: Duration = Duration::from_secs(10);

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
    /// What to log, for example `info,skerry_controllers=debug`.
    #[arg(long, env = "SKERRY_LOG", default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let log = telemetry::LogConfig {
        filter: Some(args.log.clone()),
        service: "skerry-controllers".to_owned(),
        ..Default::default()
    };
    let _guard = match telemetry::init(&log) {
        Ok(guard) => guard,
        Err(_) => return ExitCode::from(exit::USAGE),
    };
    let controllers = match build(&args).await {
        Ok(controllers) => controllers,
        Err(cause) => {
            tracing::error!(%cause, "cannot start");
            return ExitCode::from(exit::USAGE);
        }
    };
    let (trigger, watch) = drain::channel(DRAIN);
    let mut running = tokio::spawn(controllers.run(watch));
    let result = tokio::select! {
        result = &mut running => result,
        signal = shutdown::requested() => {
            tracing::info!(signal = signal.unwrap_or("none"), "stopping");
            trigger.drain().await;
            running.await
        }
    };
    match result {
        Ok(Ok(())) => ExitCode::from(exit::OK),
        Ok(Err(error)) => {
            tracing::error!(cause = %skerry_common::chain(&error), "controllers failed");
            ExitCode::from(exit::FAILED)
        }
        Err(error) => {
            tracing::error!(%error, "controllers failed");
            ExitCode::from(exit::FAILED)
        }
    }
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
    let registry = telemetry::Registry::new();
    let mut controllers = Controllers::new(client, root_ca);
    controllers.metrics = registry.register(Metrics::new);
    Ok(controllers)
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
