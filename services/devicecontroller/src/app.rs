//! DeviceController as a whole: built, then run until told to stop.
//!
//! `build` reads the sessions that are fenced, and binds. `run` starts every task; a task that ends by itself
//! ends the service, which a supervisor starts again. All state is rebuilt from the Kubernetes API and from
//! what nodes say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use skerry_common::{NodeName, drain};
use skerry_identity::{ClientAuth, CredentialFolder, CredentialOptions};
use skerry_kubesync::{
    ApiError, Cache, Confirm, Confirmer, HUB_SERVICE, Informer, Kind, KubeApi, Other, RateLimit, SESSION, Sessions,
    SinkService, SourceService, Subs, Tasks, Tell, Told,
};
use skerry_proto::sync::v1::sink_server::SinkServer;
use skerry_proto::sync::v1::source_server::SourceServer;
use skerry_rpc::{Bound, Caller, Listen, Policy, Server, ServerConfig};
use skerry_telemetry::{Readiness, Registry, Task};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::apply::{self, Applier};
use crate::config::Config;
use crate::error::DeviceControllerError;
use crate::known::Known;
use crate::metrics::Metrics;
use crate::register;
use crate::webhook::{self, Webhook};
use crate::writer::{self, Memory, Writer};

/// DeviceController's service name.
const SERVICE: &str = "devicecontroller";

/// What the API server sees as the writer.
const MANAGER: &str = "skerry-devicecontroller";

/// What is watched. Nodes, because a device is only as well known as its node.
const WATCHED: [Kind; 3] = [Kind::Node, Kind::DeviceModel, Kind::Device];

/// How often parked keys are looked at again.
const RECHECK: Duration = Duration::from_secs(60);

/// Devices that are looked at at a time.
const RECONCILERS: usize = 8;

/// When a device is looked at again after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Status writes at once after a pause.
const BURST: u32 = 100;

/// How often the first lists are looked for.
const FIRST_LISTS: Duration = Duration::from_millis(50);

/// Where DeviceController listens.
#[derive(Debug)]
pub struct Sockets {
    /// For cloudhub.
    pub sync: Listen,
    /// For the API server's admission reviews; without it there is no webhook.
    pub webhook: Option<SocketAddr>,
}

impl Sockets {
    /// As configured.
    pub fn tcp(config: &Config) -> Self {
        Self { sync: Listen::Tcp(config.listen), webhook: Some(config.webhook) }
    }
}

/// DeviceController, bound, not serving yet.
pub struct DeviceController {
    bound: Bound,
    api: KubeApi,
    informer: Informer,
    confirmer: Confirmer,
    applier: Arc<Applier>,
    sessions: Arc<Sessions>,
    told: mpsc::Receiver<Told>,
    folders: Vec<CredentialFolder>,
    webhook: Option<Webhook>,
    webhook_url: Option<String>,
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// A client of the configured Kubernetes API.
///
/// # Errors
/// When there is no configuration of a cluster, or it is wrong.
pub async fn kube_client(config: &Config) -> Result<Client, DeviceControllerError> {
    skerry_kubesync::kube_client(config.kubeconfig.as_deref()).await.map_err(DeviceControllerError::KubeConfig)
}

impl DeviceController {
    /// Prepares everything and binds. Nothing is accepted yet.
    ///
    /// # Errors
    /// When a setting is wrong, an address cannot be bound, the credentials are damaged, or the API server
    /// does not answer within a minute.
    pub async fn build(
        config: &Config,
        sockets: Sockets,
        client: Client,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, DeviceControllerError> {
        let checked = config.check()?;
        let metrics = Arc::new(Metrics::new(registry));
        let api = KubeApi::new(client, MANAGER, Arc::clone(&metrics.sync));
        let cache = Cache::new(Kind::Device);
        let subs = Arc::new(Subs::default());
        let sessions = Arc::new(Sessions::new(Arc::clone(&subs), cache.clone(), None, Arc::clone(&metrics.sync)));
        seed(&api, &sessions).await.map_err(DeviceControllerError::Api)?;

        let known = Arc::new(Known::default());
        let confirm = Arc::new(Confirm::default());
        let (tell, told) = Tell::channel();
        let confirmer = Confirmer {
            confirm: Arc::clone(&confirm),
            api: api.clone(),
            cache: cache.clone(),
            subs: Arc::clone(&subs),
            observer: known.clone(),
            metrics: Arc::clone(&metrics.sync),
        };
        let informer = Informer {
            api: api.clone(),
            cache: cache.clone(),
            confirm,
            subs,
            observer: known.clone(),
            metrics: Arc::clone(&metrics.sync),
        };
        let writer = Arc::new(Writer {
            api: api.clone(),
            known: Arc::clone(&known),
            tell: tell.clone(),
            metrics: Arc::clone(&metrics),
            statuses: RateLimit::new(checked.writes_per_second, BURST.min(checked.writes_per_second)),
            interval: checked.value_interval,
            current: Mutex::new(Memory::default()),
        });
        let applier = Arc::new(Applier {
            api: api.clone(),
            cache,
            confirmer: confirmer.clone(),
            sessions: Arc::clone(&sessions),
            known: Arc::clone(&known),
            writer,
            tell,
            metrics: Arc::clone(&metrics),
            nodes: apply::rate(),
            proven: Mutex::default(),
        });
        let Sockets { sync, webhook } = sockets;
        let address = if let Listen::Tcp(address) = sync { address.to_string() } else { "the socket".to_owned() };
        let mut server = ServerConfig::new(SERVICE, sync, policy()).metrics(skerry_rpc::Metrics::new(registry));
        let mut folders = Vec::new();
        let webhook = match webhook {
            Some(address) => {
                let wrong = |source: std::io::Error| DeviceControllerError::Bind {
                    address: address.to_string(),
                    source: source.into(),
                };
                let listener = TcpListener::bind(address).await.map_err(wrong)?;
                // The API server shows no certificate.
                let options = CredentialOptions::new(checked.trust_domain.clone());
                let folder = CredentialFolder::open(&config.credentials, options);
                let folder = folder.map_err(DeviceControllerError::Credentials)?;
                let credentials = folder.watch();
                folders.push(folder);
                Some(Webhook { listener, credentials, known, metrics: Arc::clone(&metrics) })
            }
            None => None,
        };
        if matches!(server.listen, Listen::Tcp(_)) {
            let mut options = CredentialOptions::new(checked.trust_domain);
            options.client_auth = ClientAuth::Required;
            let kept = CredentialFolder::open(&config.credentials, options);
            let kept = kept.map_err(DeviceControllerError::Credentials)?;
            server = server.tls(kept.watch());
            folders.push(kept);
        }
        let bound = Server::bind(server).await;
        let bound = bound.map_err(|source| DeviceControllerError::Bind { address, source: source.into() })?;
        Ok(Self {
            bound,
            api,
            informer,
            confirmer,
            applier,
            sessions,
            told,
            folders,
            webhook,
            webhook_url: config.webhook_url.clone(),
            readiness: readiness.clone(),
            metrics,
        })
    }

    /// The address that hubs connect to; `None` for a socket or pipe.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.bound.local_addr()
    }

    /// The address of the webhook, when there is one.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.webhook.as_ref().and_then(Webhook::local_addr)
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When a part ended by itself.
    pub async fn run(self, stop: drain::Watch) -> Result<(), DeviceControllerError> {
        let mut tasks = Tasks::default();
        for kind in WATCHED {
            let task = self.readiness.task(&format!("list {}", kind.as_str()));
            tasks.spawn("informer", self.informer.clone().run(kind, task));
        }
        let first = self.readiness.task("read DeviceStatuses");
        tasks.spawn("confirmer", skerry_kubesync::confirm(self.confirmer.clone()));
        tasks.spawn("events", skerry_kubesync::tell(self.api.clone(), self.informer.cache.clone(), self.told));
        tasks.spawn("reconciler", reconcile(Arc::clone(&self.applier.writer), self.informer.cache.clone(), first));
        tasks.spawn("clock", clock(self.confirmer.clone()));
        for folder in self.folders {
            tasks.spawn("credentials", folder.run());
        }
        if let Some(webhook) = self.webhook {
            if let Some(url) = self.webhook_url {
                let url = format!("{}{}", url.trim_end_matches('/'), webhook::PATH);
                tasks.spawn("registration", register::run(self.api.clone(), url, webhook.credentials.clone()));
            }
            tasks.spawn("webhook", webhook.run());
        }
        let source = SourceService {
            service: SERVICE,
            kinds: &Kind::DEVICES,
            cache: self.informer.cache.clone(),
            confirm: Arc::clone(&self.informer.confirm),
            derived: None,
            subs: Arc::clone(&self.informer.subs),
            sessions: self.sessions,
            tell: self.applier.tell.clone(),
            metrics: Arc::clone(&self.metrics.sync),
            stop: stop.clone(),
        };
        let metrics = Arc::clone(&self.metrics.sync);
        let sink = SinkService { service: SERVICE, applier: self.applier, metrics, stop: stop.clone() };
        let limit = skerry_rpc::limits::SYNC_MESSAGE_BYTES;
        let routes = Routes::new(SourceServer::new(source).max_decoding_message_size(limit))
            .add_service(SinkServer::new(sink).max_decoding_message_size(limit));
        let serve = self.bound.serve(routes, stop.clone());
        Ok(tasks.serve(serve, stop, &self.metrics.sync).await?)
    }
}

/// Takes over which sessions are fenced: EdgeController keeps the newest on each node's Lease.
async fn seed(api: &KubeApi, sessions: &Sessions) -> Result<(), ApiError> {
    let list = || api.list(Other::Lease, apply::LEASES);
    let leases = skerry_kubesync::patiently(list, |error: &ApiError| match error {
        ApiError::Unavailable { .. } => Some("list the leases of nodes"),
        _ => None,
    });
    for lease in leases.await? {
        let session = lease.metadata.annotations.as_ref().and_then(|a| a.get(SESSION)).and_then(|s| s.parse().ok());
        let node = lease.metadata.name.as_deref().and_then(|name| NodeName::parse(name).ok());
        if let (Some(node), Some(session)) = (node, session) {
            sessions.seed(&node, session);
        }
    }
    Ok(())
}

/// Looks at devices once all that they depend on is known.
async fn reconcile(writer: Arc<Writer>, cache: Cache, first: Task) {
    while !WATCHED.into_iter().all(|kind| cache.is_synced(kind)) {
        tokio::time::sleep(FIRST_LISTS).await;
    }
    while let Err(error) = writer.seed().await {
        tracing::warn!(error = skerry_common::chain(&error), "cannot read what devices reported");
        tokio::time::sleep(RETRY).await;
    }
    first.ready();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..RECONCILERS {
        tasks.spawn(writer::reconcile(Arc::clone(&writer), RETRY));
    }
    // None of them ends by itself.
    drop(tasks.join_next().await);
}

/// What happens by time alone.
async fn clock(confirmer: Confirmer) {
    let mut recheck = tokio::time::interval(RECHECK);
    loop {
        recheck.tick().await;
        confirmer.subs.recheck_all();
        confirmer.metrics.unproven.set(i64::try_from(confirmer.confirm.waiting()).unwrap_or(i64::MAX));
    }
}

/// Who may call what.
fn policy() -> Policy {
    let hub = [Caller::Service(HUB_SERVICE), Caller::Local];
    Policy::new().allow("skerry.sync.v1.Source", &hub).allow("skerry.sync.v1.Sink", &hub)
}
