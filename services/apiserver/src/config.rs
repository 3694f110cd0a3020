//! What an API server needs to know, and how it is built.
//!
//! `main` and `skerry up` fill a [`Config`] and call [`Config::build`], which checks it, opens the
//! database, makes the keys and binds the listener before anything is spawned.
//! Invariant: a configuration that does not hold together changes nothing on disk.
//! Limits: defaults below. A crash during `build` is repaired by the next one.

use crate::auth::{Rbac, Tokens};
use crate::bootstrap;
use crate::error::ServerError;
use crate::kubelet::{KubeletConfig, Kubelets};
use crate::metrics::Metrics;
use crate::pki::{Pki, Serving};
use crate::server::{ApiServer, KEY_ID};
use crate::services::{Allocator, Cidr};
use crate::snapshots::Snapshots;
use crate::state::{Api, MAX_REQUESTS, MAX_WATCHERS};
use crate::storage::Storage;
use serde::Deserialize;
use skerry_apimachinery::{RING_EVENTS, Registry};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Kubernetes' usual range for Services.
pub const DEFAULT_SERVICE_CIDR: &str = "10.96.0.0/16";
/// Loopback: nothing outside the machine reaches the API unless the operator says so.
pub const DEFAULT_LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 6443);
/// Issuer and default audience of service account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Where the data is when nobody says otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/skerry/apiserver";

/// Configuration of the API server, as in its YAML file. Unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// Where the database and the keys live; made with mode 0700 when missing.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes any free port.
    pub listen: SocketAddr,
    /// IPv4 range of cluster IPs, /8 to /30.
    pub service_cidr: String,
    /// Further names and addresses in the serving certificate.
    pub advertise: Vec<String>,
    /// Where an administrator's kubeconfig is written at start, with mode 0600.
    pub kubeconfig_out: Option<PathBuf>,
    /// Events kept per resource for watches to resume from.
    pub ring_events: usize,
    /// How the kubelets of nodes are reached, for logs, exec and the like; without it they are not.
    pub kubelet: Option<KubeletConfig>,
    /// Where counters are registered.
    #[serde(skip)]
    pub registry: skerry_telemetry::Registry,
}

impl Default for Config {
    fn default() -> Self {
        Self::new(DEFAULT_DATA_DIR)
    }
}

impl Config {
    /// The defaults, with this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: DEFAULT_LISTEN.into(),
            service_cidr: DEFAULT_SERVICE_CIDR.into(),
            advertise: Vec::new(),
            kubeconfig_out: None,
            ring_events: RING_EVENTS,
            kubelet: None,
            registry: skerry_telemetry::Registry::new(),
        }
    }

    /// Opens the database, makes what is missing, binds the listener.
    ///
    /// # Errors
    /// [`ServerError`] says what is wrong and what to do.
    pub async fn build(self) -> Result<ApiServer, ServerError> {
        let cidr = Cidr::parse(&self.service_cidr).ok_or_else(|| {
            ServerError::Config(format!("service CIDR {} is not an IPv4 range from /8 to /30", self.service_cidr))
        })?;
        make_private_dir(&self.data_dir)?;
        let pki = Arc::new(Pki::load(&self.data_dir.join("pki"))?);
        let (path, ring) = (self.data_dir.join("objects.db"), self.ring_events);
        let storage = tokio::task::spawn_blocking(move || Storage::open(&path, ring))
            .await
            .map_err(|error| ServerError::Config(format!("opening the database failed: {error}")))??;
        let listener = TcpListener::bind(self.listen)
            .await
            .map_err(|source| ServerError::Listen { address: self.listen, source })?;
        let address = listener.local_addr().map_err(|source| ServerError::Listen { address: self.listen, source })?;
        let (private, public) = pki.signing_pems();
        let tokens = Tokens::new(ISSUER, KEY_ID, &private, &public)
            .map_err(|why| ServerError::Pki { file: "service-account.pem".into(), why })?;
        let metrics = Metrics::new(&self.registry);
        let (kubelets, folder) = match &self.kubelet {
            Some(kubelet) => {
                let (kubelets, folder) = Kubelets::open(kubelet, metrics.streams.clone())?;
                (Some(kubelets), Some(folder))
            }
            None => (None, None),
        };
        let names = serving_names(&self.advertise, address, cidr);
        let serving = Arc::new(Serving::new(pki.clone(), names)?);
        let api = Arc::new(Api {
            storage,
            registry: RwLock::new(Arc::new(Registry::new([]))),
            schemas: RwLock::default(),
            pki,
            tokens,
            rbac: Rbac::default(),
            addresses: Allocator::new(cidr),
            snapshots: Snapshots::default(),
            metrics,
            kubelets,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            stopping: CancellationToken::new(),
        });
        api.reload_registry();
        crate::sweep::orphans(&api).await;
        bootstrap::note_services(&api);
        bootstrap::run(&api, address, jiff::Timestamp::now()).await.map_err(ServerError::Bootstrap)?;
        let server = ApiServer::new(api, serving, listener, address, folder)?;
        if let Some(path) = &self.kubeconfig_out {
            server.write_kubeconfig(path)?;
        }
        Ok(server)
    }
}

fn serving_names(advertise: &[String], address: SocketAddr, cidr: Cidr) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ]
    .map(str::to_owned)
    .into();
    names.push(cidr.nth(1).to_string());
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    names.extend(advertise.iter().cloned());
    names.sort();
    names.dedup();
    names
}

fn make_private_dir(dir: &std::path::Path) -> Result<(), ServerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(ServerError::io(dir))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_sets_what_it_says_and_nothing_unknown() {
        let config: Config =
            skerry_common::parse("dataDir: /d\nlisten: 127.0.0.1:1\nadvertise: [api.example]\n", "test").unwrap();
        assert_eq!((config.data_dir.to_str(), config.listen.port()), (Some("/d"), 1));
        assert_eq!(config.service_cidr, DEFAULT_SERVICE_CIDR);
        assert!(skerry_common::parse::<Config>("datadir: /d\n", "test").is_err());
    }

    #[tokio::test]
    async fn a_wrong_range_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("data"));
        config.service_cidr = "10.0.0.0/40".into();
        assert!(matches!(config.build().await, Err(ServerError::Config(_))));
        assert!(!dir.path().join("data").exists());
    }
}
