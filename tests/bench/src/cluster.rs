//! The cloud under measurement: API server, EdgeController and CloudHub as processes of their own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use skerry_cloudhub::SourceConfig;
use skerry_common::NodeName;
use skerry_identity::{Ca, CredentialOptions, CredentialStore, CredentialWatch, Credentials, NodeKey, TrustDomain};
use tokio::time::Instant;

use crate::proc::{Process, binaries};

/// How long a process may take to start.
const START: Duration = Duration::from_secs(30);

/// How long values of one device wait for each other by default, seconds.
pub const VALUE_SECONDS: u64 = 10;

const DOMAIN: &str = "bench.skerry";
const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Ports of loopback that the processes listen on, from a base that each benchmark chooses.
#[derive(Debug, Clone, Copy)]
pub struct Ports(pub u16);

impl Ports {
    fn at(self, offset: u16) -> String {
        format!("127.0.0.1:{}", self.0 + offset)
    }
}

/// The processes, ended in reverse order on drop.
pub struct Cluster {
    /// The hub.
    pub hub: Process,
    /// DeviceController, where there are devices.
    pub devicecontroller: Option<Process>,
    /// How long values of one device wait for each other, seconds; the default where there are none.
    pub value_seconds: u64,
    /// The controllers of the embedded control plane.
    pub controllers: Process,
    /// EdgeController.
    pub edgecontroller: Process,
    /// The API server.
    pub apiserver: Process,
    /// A client with all rights.
    pub client: kube::Client,
    /// The CA of the nodes.
    pub ca: Arc<Ca>,
    /// Where nodes connect to.
    pub hub_address: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts everything and waits until the hub accepts.
    ///
    /// # Errors
    /// When a process does not start in time; its log is named.
    pub async fn start(ports: Ports) -> anyhow::Result<Self> {
        Self::begin(ports, None).await
    }

    /// As [`Cluster::start`], with DeviceController; values of one device wait so many seconds for each other, there
    /// and on the node.
    ///
    /// # Errors
    /// When a process does not start in time; its log is named.
    pub async fn with_devices(ports: Ports, value_seconds: u64) -> anyhow::Result<Self> {
        Self::begin(ports, Some(value_seconds)).await
    }

    async fn begin(ports: Ports, value_seconds: Option<u64>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let binaries = binaries()?;
        let kubeconfig = path.join("kubeconfig");
        let data = path.join("apiserver");
        let api = ports.at(0);
        let arguments =
            ["--data-dir", text(&data)?, "--listen", &api, "--kubeconfig-out", text(&kubeconfig)?, "--log", "warn"];
        let apiserver = Process::start(&binaries.join("skerry-apiserver"), &arguments, path)?;
        wait("the kubeconfig", path, || kubeconfig.exists()).await?;
        let config = kube::config::Kubeconfig::read_from(&kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
        config.read_timeout = Some(Duration::from_secs(120));
        let client = kube::Client::try_from(config)?;
        let deadline = Instant::now() + START;
        while client.apiserver_version().await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the API server does not answer; logs in {}", keep(folder));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        // Made here, so that certificates of ten thousand nodes need no ten thousand calls.
        let ca = Arc::new(skerry_edgecontroller::ca(client.clone(), &TrustDomain::parse(DOMAIN)?).await?);
        let (hub_credentials, source) = (path.join("hub"), ports.at(1));
        CredentialStore::open(&hub_credentials)?.save(&service(&ca, "cloudhub")?)?;
        let admin = ports.at(10);
        let arguments = ["--listen", &source, "--kubeconfig", text(&kubeconfig)?, "--admin", &admin, "--log", "warn"];
        let edgecontroller = Process::start(&binaries.join("skerry-edgecontroller"), &arguments, path)?;

        let admin = ports.at(12);
        let arguments = ["--kubeconfig", text(&kubeconfig)?, "--admin", &admin, "--log", "warn"];
        let controllers = Process::start(&binaries.join("skerry-controllers"), &arguments, path)?;

        let mut sources = vec![SourceConfig::edgecontroller(vec![source])];
        let mut devicecontroller = None;
        if let Some(value_seconds) = value_seconds {
            let (credentials, source) = (path.join("devicecontroller"), ports.at(3));
            CredentialStore::open(&credentials)?.save(&service(&ca, "devicecontroller")?)?;
            let config = serde_json::json!({
                "listen": source, "webhook": ports.at(4), "credentials": credentials, "trustDomain": DOMAIN,
                "valueSeconds": value_seconds,
            });
            let file = path.join("devicecontroller.yaml");
            std::fs::write(&file, config.to_string())?;
            let (admin, config) = (ports.at(13), text(&file)?);
            let kubeconfig = text(&kubeconfig)?;
            let arguments = ["--config", config, "--kubeconfig", kubeconfig, "--admin", &admin, "--log", "warn"];
            devicecontroller = Some(Process::start(&binaries.join("skerry-devicecontroller"), &arguments, path)?);
            sources.push(SourceConfig::devicecontroller(vec![source]));
        }

        let hub_address = ports.at(2);
        let source = |source: &SourceConfig| {
            serde_json::json!({
                "name": source.name,
                "addresses": source.addresses,
                "kinds": source.kinds,
                "reports": source.reports,
            })
        };
        let config = serde_json::json!({
            "name": "hub-0",
            "listen": hub_address,
            "credentials": hub_credentials,
            "trustDomain": DOMAIN,
            "sources": sources.iter().map(source).collect::<Vec<_>>(),
            "registry": "edgecontroller",
        });
        let file = path.join("hub.yaml");
        std::fs::write(&file, config.to_string())?;
        let admin = ports.at(11);
        let arguments = ["--config", text(&file)?, "--admin", &admin, "--log", "warn"];
        let hub = Process::start(&binaries.join("skerry-cloudhub"), &arguments, path)?;
        let deadline = Instant::now() + START;
        while tokio::net::TcpStream::connect(&hub_address).await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "the hub does not listen; logs in {}", keep(folder));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The lanes to EdgeController connect within their first retries.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let value_seconds = value_seconds.unwrap_or(VALUE_SECONDS);
        Ok(Self {
            hub,
            devicecontroller,
            value_seconds,
            controllers,
            edgecontroller,
            apiserver,
            client,
            ca,
            hub_address,
            folder,
        })
    }

    /// Credentials of a node, as clients take them.
    ///
    /// # Errors
    /// When they cannot be issued.
    pub fn node(&self, name: &NodeName) -> anyhow::Result<CredentialWatch> {
        watch(self.node_credentials(name)?)
    }

    /// Credentials of a node.
    ///
    /// # Errors
    /// When they cannot be issued.
    pub fn node_credentials(&self, name: &NodeName) -> anyhow::Result<Credentials> {
        let key = NodeKey::generate()?;
        let issued = self.ca.issue_node(&key.csr()?, name, CERTIFICATE_LIFE, jiff::Timestamp::now())?;
        Ok(Credentials::from_answer(&issued.pem(), &self.ca.certificate_pem(), &key)?)
    }

    /// Credentials of an operator, as clients take them.
    ///
    /// # Errors
    /// When they cannot be issued.
    pub fn admin(&self) -> anyhow::Result<CredentialWatch> {
        watch(service(&self.ca, "admin")?)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &'static str {
        DOMAIN
    }

    /// Where the logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn watch(credentials: Credentials) -> anyhow::Result<CredentialWatch> {
    Ok(CredentialWatch::fixed(CredentialOptions::new(TrustDomain::parse(DOMAIN)?), credentials)?)
}

fn service(ca: &Ca, name: &str) -> anyhow::Result<Credentials> {
    let key = NodeKey::generate()?;
    let issued = ca.issue_service(&key.csr()?, name, &[], CERTIFICATE_LIFE, jiff::Timestamp::now())?;
    Ok(Credentials::from_answer(&issued.pem(), &ca.certificate_pem(), &key)?)
}

/// Leaves the folder for people.
fn keep(folder: tempfile::TempDir) -> String {
    folder.keep().display().to_string()
}

async fn wait(what: &str, logs: &Path, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    while !done() {
        anyhow::ensure!(Instant::now() < deadline, "{what} did not come; logs were in {}", logs.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is text")
}
