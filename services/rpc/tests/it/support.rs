//! A CA, servers that stop at the end of a test, and clients.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::{NodeName, drain};
use skerry_identity::{
    Ca, CredentialOptions, CredentialPublisher, CredentialWatch, Credentials, RevocationList, TrustDomain,
};
use skerry_proto::hub::v1::hub_client::HubClient;
use skerry_proto::hub::v1::{ListSessionsRequest, ListSessionsResponse};
use skerry_proto::sync::v1::SubscribeRequest;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::{
    Bound, Caller, Channel, ClientLimits, Connection, Listen, Metrics, Policy, Served, Server, ServerConfig,
    ServerLimits, Target, connect_once,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

use crate::echo::{Echo, hello};

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// One installation's CA.
pub struct Pki {
    pub ca: Ca,
}

impl Pki {
    pub fn new() -> Self {
        Self { ca: Ca::generate(&TrustDomain::default()).unwrap() }
    }

    pub fn options(&self) -> CredentialOptions {
        CredentialOptions::new(TrustDomain::default())
    }

    pub fn node_credentials(&self, name: &str) -> Credentials {
        self.ca.node_credentials(&NodeName::parse(name).unwrap(), DAY, jiff::Timestamp::now()).unwrap()
    }

    pub fn service_credentials(&self, name: &str) -> Credentials {
        self.ca.service_credentials(name, &[], DAY, jiff::Timestamp::now()).unwrap()
    }

    pub fn node(&self, name: &str) -> CredentialWatch {
        CredentialWatch::fixed(self.options(), self.node_credentials(name)).unwrap()
    }

    pub fn service(&self, name: &str) -> CredentialWatch {
        CredentialWatch::fixed(self.options(), self.service_credentials(name)).unwrap()
    }

    /// A service's credential that is not there yet.
    pub fn empty(&self) -> (CredentialPublisher, CredentialWatch) {
        CredentialWatch::channel(self.options()).unwrap()
    }

    pub fn service_with(&self, name: &str, revocations: RevocationList) -> CredentialWatch {
        let options = CredentialOptions { revocations, ..self.options() };
        CredentialWatch::fixed(options, self.service_credentials(name)).unwrap()
    }

    /// Someone who trusts the CA and has no certificate.
    pub fn stranger(&self) -> rustls::ClientConfig {
        skerry_identity::pin::client_config(self.ca.spki_hash()).unwrap()
    }
}

/// Nodes and processes of this machine may subscribe; service `admin` and this machine may ask the hub;
/// anybody may ask for its usage.
pub fn policy() -> Policy {
    Policy::new()
        .allow("skerry.sync.v1.Source", &[Caller::Node, Caller::Service("cloudhub"), Caller::Local])
        .allow("skerry.hub.v1.Hub", &[Caller::Service("admin"), Caller::Local])
        .allow("skerry.hub.v1.Hub/GetUsage", &[Caller::Anonymous])
}

/// Everybody may call everything: for attacks without TLS.
pub fn open_policy() -> Policy {
    Policy::new()
        .allow("skerry.sync.v1.Source", &[Caller::Anonymous])
        .allow("skerry.hub.v1.Hub", &[Caller::Anonymous])
        .allow("grpc.health.v1.Health", &[Caller::Anonymous])
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub echo: Echo,
    pub metrics: Metrics,
    pub health: skerry_rpc::Health,
    trigger: Option<drain::Trigger>,
    task: JoinHandle<Served>,
}

impl Running {
    pub fn start(bound: Bound, metrics: Metrics, deadline: Duration) -> Self {
        let echo = Echo::default();
        let address = bound.local_addr().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
        let health = bound.health();
        let (trigger, watch) = drain::channel(deadline);
        let routes = echo.routes();
        let task = tokio::spawn(async move { bound.serve(routes, watch).await.unwrap() });
        Self { address, echo, metrics, health, trigger: Some(trigger), task }
    }

    pub async fn drain(&mut self) -> Served {
        if let Some(trigger) = self.trigger.take() {
            trigger.drain().await;
        }
        (&mut self.task).await.unwrap()
    }

    /// Starts draining and does not wait.
    pub fn begin_drain(&mut self) {
        tokio::spawn(self.trigger.take().unwrap().drain());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn localhost() -> Listen {
    Listen::Tcp(([127, 0, 0, 1], 0).into())
}

pub async fn serve(policy: Policy, tls: Option<CredentialWatch>, limits: ServerLimits) -> Running {
    let metrics = Metrics::default();
    let mut config = ServerConfig::new("test", localhost(), policy).limits(limits).metrics(metrics.clone());
    config.tls = tls;
    Running::start(Server::bind(config).await.unwrap(), metrics, Duration::from_secs(30))
}

/// TLS with the usual table.
pub async fn serve_tls(pki: &Pki, limits: ServerLimits) -> Running {
    serve(policy(), Some(pki.service("cloudhub")), limits).await
}

/// No TLS, open to all: for raw frames.
pub async fn serve_open(limits: ServerLimits) -> Running {
    serve(open_policy(), None, limits).await
}

/// tonic's own server with default settings.
pub struct Control {
    pub address: SocketAddr,
    pub echo: Echo,
    pub stop: tokio::sync::oneshot::Sender<()>,
    pub task: JoinHandle<()>,
}

/// The control of the attacks.
#[expect(clippy::disallowed_methods, reason = "the control: this is what we do not want")]
pub async fn serve_default() -> Control {
    let echo = Echo::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let routes = echo.routes();
    let task = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, stopped)
            .await
            .unwrap();
    });
    Control { address, echo, stop, task }
}

pub fn target(address: SocketAddr, tls: impl Into<skerry_rpc::ClientTls>) -> Target {
    Target::tcp([address.to_string()], "cloudhub", tls).unwrap()
}

pub async fn connect(address: SocketAddr, tls: impl Into<skerry_rpc::ClientTls>) -> Connection {
    connect_once(&target(address, tls), &ClientLimits::node()).await.unwrap()
}

pub fn sessions(node: &str) -> ListSessionsRequest {
    ListSessionsRequest { node: node.to_owned(), ..Default::default() }
}

pub async fn list(channel: Channel, node: &str) -> Result<ListSessionsResponse, Status> {
    HubClient::new(channel).list_sessions(sessions(node)).await.map(tonic::Response::into_inner)
}

/// An open stream and the sender of its requests.
pub struct Open {
    pub requests: mpsc::Sender<SubscribeRequest>,
    pub answers: Streaming<skerry_proto::sync::v1::SubscribeResponse>,
}

impl Open {
    pub async fn new(channel: Channel) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(4);
        requests.send(hello("")).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = SourceClient::new(channel).subscribe(stream).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// The agent of the next answer: who the server thinks we are.
    pub async fn next(&mut self) -> Result<String, Status> {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.answers.message()).await;
        Ok(crate::echo::agent(answer.expect("an answer")?.expect("a message")))
    }

    pub async fn ask(&mut self) -> Result<String, Status> {
        self.requests.send(hello("")).await.map_err(|_| Status::unavailable("gone"))?;
        self.next().await
    }

    /// Waits for the end of the stream.
    pub async fn end(&mut self) -> Status {
        loop {
            match tokio::time::timeout(Duration::from_secs(40), self.answers.message()).await.expect("an end") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

/// Waits until something is so.
pub async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !so() {
        assert!(started.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
