//! Hubs, nodes and their certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use skerry_cloudhub::{CloudHub, Config as HubConfig, SourceConfig};
use skerry_common::{Key, NodeName, drain};
use skerry_edgehub::{Config as EdgeConfig, EdgeHub, LinkTimes, Listen};
use skerry_identity::{Ca, CredentialOptions, CredentialStore, CredentialWatch, Credentials, NodeKey, TrustDomain};
use skerry_proto::edge::v1::edge_client::EdgeClient;
use skerry_proto::edge::v1::{GetStatusRequest, GetStatusResponse};
use skerry_proto::hub::v1::registry_server::RegistryServer;
use skerry_proto::identity::v1::issuer_server::IssuerServer;
use skerry_proto::review::v1::reviews_server::ReviewsServer;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_server::SinkServer;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::source_server::SourceServer;
use skerry_rpc::{Caller, Channel, Policy, Server, ServerConfig};
use skerry_telemetry::{Readiness, Registry};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::Cloud;

const DOMAIN: &str = "skerry.test";
const LIFE: Duration = Duration::from_secs(3600);

/// A CA, a cloud, and a folder for everything.
pub struct Fixture {
    ca: Arc<Ca>,
    folder: tempfile::TempDir,
    /// The cloud in memory.
    pub cloud: Cloud,
    source: SocketAddr,
    _source: Running,
}

/// A hub that runs.
pub struct Hub {
    /// Where nodes connect to.
    pub address: SocketAddr,
    running: Running,
}

/// A node's EdgeHub that runs.
pub struct Edge {
    channel: Channel,
    running: Running,
}

/// The objects of a kind as a service of the node sees them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Local {
    /// Keys and bodies.
    pub objects: std::collections::BTreeMap<Key, Vec<u8>>,
    /// Whether the node says that this is all.
    pub in_sync: bool,
}

/// A service that is cut when it is dropped.
struct Running {
    trigger: Option<drain::Trigger>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(trigger) = self.trigger.take() {
            trigger.drain().await;
        }
        (&mut self.task).await.context("the service did not end well")
    }
}

fn run<E: std::error::Error + 'static>(
    service: impl Future<Output = Result<(), E>> + Send + 'static,
    trigger: drain::Trigger,
) -> Running {
    let task = tokio::spawn(async move {
        let ended = service.await;
        assert!(
            ended.is_ok(),
            "a service failed: {}",
            ended.err().map(|e| skerry_common::chain(&e)).unwrap_or_default()
        );
    });
    Running { trigger: Some(trigger), task }
}

impl Fixture {
    /// Makes the CA and starts the cloud.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn start() -> anyhow::Result<Self> {
        let ca = Arc::new(Ca::generate(&TrustDomain::parse(DOMAIN)?)?);
        let folder = tempfile::tempdir()?;
        let cloud = Cloud::default();
        let tls = watch(service(&ca, "edgecontroller")?)?;
        let hubs = &[Caller::Service("cloudhub")];
        let policy = Policy::new()
            .allow("skerry.sync.v1.Source", hubs)
            .allow("skerry.sync.v1.Sink", hubs)
            .allow("skerry.hub.v1.Registry", hubs)
            .allow("skerry.identity.v1.Issuer", hubs)
            .allow("skerry.review.v1.Reviews", hubs);
        let config = ServerConfig::new("cloud", skerry_rpc::Listen::Tcp(([127, 0, 0, 1], 0).into()), policy).tls(tls);
        let bound = Server::bind(config).await?;
        let source = bound.local_addr().context("bound to TCP")?;
        let routes = Routes::new(SourceServer::new(cloud.clone()))
            .add_service(SinkServer::new(cloud.clone()))
            .add_service(RegistryServer::new(cloud.clone()))
            .add_service(IssuerServer::new(cloud.clone()))
            .add_service(ReviewsServer::new(cloud.clone()));
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        let served = async move { bound.serve(routes, stop).await.map(drop) };
        Ok(Self { ca, folder, cloud, source, _source: run(served, trigger) })
    }

    /// Starts a hub.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn hub(&self, name: &str) -> anyhow::Result<Hub> {
        self.hub_at(name, ([127, 0, 0, 1], 0).into()).await
    }

    /// Starts a hub at an address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn hub_at(&self, name: &str, listen: SocketAddr) -> anyhow::Result<Hub> {
        let credentials = self.folder.path().join(name);
        CredentialStore::open(&credentials)?.save(&service(&self.ca, "cloudhub")?)?;
        let config = HubConfig {
            name: name.to_owned(),
            listen,
            credentials,
            trust_domain: DOMAIN.to_owned(),
            sources: vec![SourceConfig::edgecontroller(vec![self.source.to_string()])],
            registry: "edgecontroller".to_owned(),
        };
        let readiness = Readiness::new();
        let hub = CloudHub::build(config, &Registry::new(), &readiness).await?;
        let address = hub.local_addr().context("bound to TCP")?;
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        let running = run(hub.run(stop), trigger);
        crate::eventually("the hub is ready", || readiness.is_ready()).await?;
        Ok(Hub { address, running })
    }

    /// Starts a node whose store is kept under its name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn edge(&self, name: &str, hub: SocketAddr) -> anyhow::Result<Edge> {
        let folder = self.folder.path().join(name);
        let credentials = folder.join("credentials");
        std::fs::create_dir_all(&folder)?;
        CredentialStore::open(&credentials)?.save(&self.node(name)?)?;
        let config = EdgeConfig {
            node_name: NodeName::parse(name)?,
            hubs: vec![hub.to_string()],
            trust_domain: DOMAIN.to_owned(),
            credentials,
            store: folder.join("store"),
            services: true,
            devices: false,
            times: LinkTimes { retry_soon: Duration::from_millis(500), ..LinkTimes::default() },
        };
        let (listener, connector) = skerry_rpc::pipe();
        let edge = EdgeHub::build(config, Listen::Pipe(listener), &Registry::new()).await?;
        let (trigger, stop) = drain::channel(Duration::from_secs(5));
        Ok(Edge { channel: Channel::pipe(connector), running: run(edge.run(stop), trigger) })
    }

    /// The folder of a node's store.
    pub fn store(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name).join("store")
    }

    /// A certificate for a node.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub fn node(&self, name: &str) -> anyhow::Result<Credentials> {
        let key = NodeKey::generate()?;
        let issued = self.ca.issue_node(&key.csr()?, &NodeName::parse(name)?, LIFE, jiff::Timestamp::now())?;
        Ok(Credentials::from_answer(&issued.pem(), &self.ca.certificate_pem(), &key)?)
    }

    /// A certificate for a service.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub fn service(&self, name: &str) -> anyhow::Result<Credentials> {
        service(&self.ca, name)
    }

    /// Hash of the CA's key, as in a join token.
    pub fn ca_hash(&self) -> &str {
        self.ca.spki_hash()
    }

    /// A folder for the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn service(ca: &Ca, name: &str) -> anyhow::Result<Credentials> {
    let key = NodeKey::generate()?;
    let issued = ca.issue_service(&key.csr()?, name, &[], LIFE, jiff::Timestamp::now())?;
    Ok(Credentials::from_answer(&issued.pem(), &ca.certificate_pem(), &key)?)
}

/// Credentials as clients and servers take them.
///
/// # Errors
/// When they cannot be used.
pub fn watch(credentials: Credentials) -> anyhow::Result<CredentialWatch> {
    Ok(CredentialWatch::fixed(CredentialOptions::new(TrustDomain::parse(DOMAIN)?), credentials)?)
}

impl Hub {
    /// Stops it in good order.
    ///
    /// # Errors
    /// When it failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.running.stop().await
    }
}

impl Edge {
    /// What the node says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<GetStatusResponse> {
        Ok(EdgeClient::new(self.channel.clone()).get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// Waits until the link is up or down.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn link(&self, up: bool) -> anyhow::Result<GetStatusResponse> {
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        loop {
            let status = self.status().await?;
            if (status.link() == skerry_proto::edge::v1::LinkState::Connected) == up {
                return Ok(status);
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "link up {up} in vain: {}", status.reason);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads what the node holds of a kind, until the condition holds.
    ///
    /// # Errors
    /// When it does not hold in time.
    pub async fn view(&self, kind: &str, condition: impl Fn(&Local) -> bool) -> anyhow::Result<Local> {
        let mut local = Local::default();
        let watching = async {
            let (requests, queue) = mpsc::channel(16);
            let hello = pb::Hello { protocols: vec![1], ..pb::Hello::default() };
            let open = pb::Open { subscription: 1, kind: kind.to_owned(), ..pb::Open::default() };
            for message in [pb::subscribe_request::Message::Hello(hello), pb::subscribe_request::Message::Open(open)] {
                requests.send(pb::SubscribeRequest { message: Some(message) }).await?;
            }
            let mut client = SourceClient::new(self.channel.clone());
            let mut stream = client.subscribe(ReceiverStream::new(queue)).await?.into_inner();
            while !condition(&local) {
                match stream.message().await?.context("the stream ended")?.message {
                    Some(pb::subscribe_response::Message::Delta(delta)) => {
                        for upsert in delta.upserts {
                            let key = upsert.key.context("a key")?;
                            local.objects.insert(Key::new(&*key.namespace, &*key.name), upsert.body.to_vec());
                        }
                        for tombstone in delta.tombstones {
                            let key = tombstone.key.context("a key")?;
                            local.objects.remove(&Key::new(&*key.namespace, &*key.name));
                        }
                        let ack = pb::Ack { subscription: 1, nonce: delta.nonce };
                        let message = Some(pb::subscribe_request::Message::Ack(ack));
                        requests.send(pb::SubscribeRequest { message }).await?;
                    }
                    Some(pb::subscribe_response::Message::InSync(_)) => local.in_sync = true,
                    _ => {}
                }
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(crate::PATIENCE, watching).await {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("in vain: the view of {kind} stays {local:?}"),
        }
        Ok(local)
    }

    /// A channel to the node's services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.running.stop().await
    }
}
