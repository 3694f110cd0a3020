//! The Kubernetes API as the commands use it: which cluster, and a client for it.
//!
//! The cluster is the one of `--kubeconfig`; else of a system that `skerry up` started in this
//! directory; else what kubectl would use (`KUBECONFIG`, `~/.kube/config`, the pod's service account).

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use skerry_common::exit;

use crate::failure::{Failure, Result};
use crate::places;

/// A control plane that does not answer within this time counts as unreachable.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
const READ: Duration = Duration::from_secs(30);

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClusterArgs {
    /// The cluster's kubeconfig; without it, of `.skerry` here, or what kubectl would use.
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl ClusterArgs {
    /// The kubeconfig file, when it is not left to kubectl's rules.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let here = Path::new(places::UP_DIR).join(places::KUBECONFIG);
        self.kubeconfig.clone().or_else(|| here.is_file().then_some(here))
    }

    /// A client for the cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        match self.file() {
            Some(file) => client(&file).await,
            None => {
                let config = Config::infer().await.map_err(|error| {
                    Failure::usage("cannot find a cluster")
                        .because(&error)
                        .cure("name its kubeconfig with --kubeconfig")
                })?;
                connect(config)
            }
        }
    }
}

/// A client for the cluster of one kubeconfig.
pub(crate) async fn client(file: &Path) -> Result<Client> {
    let unusable = || Failure::usage(format!("cannot use the kubeconfig {}", file.display()));
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable().because(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable().because(&error))?;
    connect(config)
}

/// The CA of the cluster's API, as the kubeconfig has it, in PEM.
pub(crate) fn ca_pem(file: &Path) -> Result<String> {
    let unusable = || Failure::usage(format!("cannot use the kubeconfig {}", file.display()));
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable().because(&error))?;
    let cluster = kubeconfig.clusters.into_iter().find_map(|named| named.cluster);
    let data = cluster.and_then(|c| c.certificate_authority_data).ok_or_else(|| unusable().cause("it has no CA"))?;
    let pem = BASE64.decode(data).map_err(|error| unusable().because(&error))?;
    String::from_utf8(pem).map_err(|error| unusable().because(&error))
}

fn connect(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Client::try_from(config).map_err(|error| Failure::usage("cannot use the kubeconfig").because(&error))
}

/// A failed request as a failure: what was asked for, why not, and what to do.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Failure {
    let what = what.into();
    move |error| match &error {
        kube::Error::Api(status) => {
            let failure = Failure::new(what).cause(status.message.clone());
            match status.code {
                401 | 403 => failure.code(exit::REFUSED).cure("use a kubeconfig whose user may do this"),
                404 => failure.code(exit::NOT_FOUND),
                _ => failure,
            }
        }
        _ => Failure::new(what).because(&error).code(exit::UNREACHABLE).cure("check that the control plane runs"),
    }
}
