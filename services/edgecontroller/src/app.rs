//! EdgeController as a whole: built, then run until told to stop.
//!
//! `build` finds or makes the CA, reads what must be known before anybody is let in (revocations, fenced
//! sessions), and binds the port. `run` starts every task; a task that ends by itself ends the service,
//! which a supervisor starts again. All state is rebuilt from the Kubernetes API and from what nodes say.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use skerry_common::{Key, drain};
use skerry_identity::{ClientAuth, CredentialOptions, CredentialWatch, RevocationPublisher};
use skerry_kubesync::{
    ApiError, Cache, Confirm, Confirmer, HUB_SERVICE, Informer, Kind, KubeApi, Sessions, SinkService, SourceService,
    Subs, TaskEnded, Tasks, Tell, Told,
};
use skerry_proto::hub::v1::registry_server::RegistryServer;
use skerry_proto::identity::v1::issuer_server::IssuerServer;
use skerry_proto::review::v1::reviews_server::ReviewsServer;
use skerry_proto::sync::v1::sink_server::SinkServer;
use skerry_proto::sync::v1::source_server::SourceServer;
use skerry_rpc::{Bound, Caller, Listen, Policy, Server, ServerConfig};
use skerry_telemetry::{Readiness, Registry};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::apply::{self, Applier};
use crate::config::Config;
use crate::credentials::{Keeper, SERVICE};
use crate::error::ControllerError;
use crate::hubs::Hubs;
use crate::issuer::{self, IssuerService};
use crate::lease::LeaseKeeper;
use crate::metrics::Metrics;
use crate::mint::{self, Mint, Minter};
use crate::presence::Presence;
use crate::registry::RegistryService;
use crate::reviews::ReviewService;
use crate::revive::{self, Revive, UnknownNodes};
use crate::revocations;
use crate::system::{self, MANAGER};

/// How often parked keys are looked at again.
const RECHECK: Duration = Duration::from_secs(60);

/// How often tokens are checked for their age.
const TOKEN_LOOK: Duration = Duration::from_secs(5);

/// Nodes that became Unknown and wait to be looked at.
const UNKNOWN_QUEUE: usize = 1_024;

/// EdgeController, bound, not serving yet.
pub struct EdgeController {
    bound: Bound,
    api: KubeApi,
    informer: Informer,
    confirmer: Confirmer,
    minter: Minter,
    applier: Arc<Applier>,
    leases: Arc<LeaseKeeper>,
    sessions: Arc<Sessions>,
    hubs: Arc<Hubs>,
    revive: Revive,
    unknown: mpsc::Receiver<Key>,
    told: mpsc::Receiver<Told>,
    revocations: RevocationPublisher,
    issuer: IssuerService,
    keeper: Keeper,
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// A client of the configured Kubernetes API.
///
/// # Errors
/// When there is no configuration of a cluster, or it is wrong.
pub async fn kube_client(config: &Config) -> Result<Client, ControllerError> {
    skerry_kubesync::kube_client(config.kubeconfig.as_deref()).await.map_err(ControllerError::KubeConfig)
}

impl EdgeController {
    /// Prepares everything and binds `listen`. Nothing is accepted yet.
    ///
    /// # Errors
    /// When a setting is wrong, the port cannot be bound, the CA is damaged, or the API server does not
    /// answer within a minute.
    pub async fn build(
        config: &Config,
        listen: Listen,
        client: Client,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, ControllerError> {
        let checked = config.check()?;
        let metrics = Arc::new(Metrics::new(registry));
        let api = KubeApi::new(client, MANAGER, Arc::clone(&metrics.sync));
        let ca = Arc::new(patiently(|| system::ensure_ca(&api, &checked.trust_domain)).await?);

        let (revocations, list) = RevocationPublisher::new();
        patiently(|| async {
            revocations::load(&api, &revocations).await.map_err(ControllerError::api("read the revoked keys"))
        })
        .await?;

        let mut options = CredentialOptions::new(ca.trust_domain().clone());
        options.client_auth = ClientAuth::Required;
        options.revocations = list.clone();
        let (own, watch) = CredentialWatch::channel(options).map_err(ControllerError::identity("cannot set up TLS"))?;
        let keeper = Keeper { ca: Arc::clone(&ca), own, folders: checked.credentials, metrics: Arc::clone(&metrics) };
        keeper.issue()?;

        let cache = Cache::new(Kind::Pod);
        let subs = Arc::new(Subs::default());
        let hubs = Arc::new(Hubs::default());
        let sessions =
            Arc::new(Sessions::new(Arc::clone(&subs), cache.clone(), Some(hubs.clone()), Arc::clone(&metrics.sync)));
        let presence = Arc::new(Mutex::new(Presence::default()));
        let leases = Arc::new(LeaseKeeper::new(api.clone(), Arc::clone(&sessions), presence, Arc::clone(&metrics)));
        patiently(|| async { leases.seed().await.map_err(ControllerError::api("read the leases of nodes")) }).await?;

        let confirm = Arc::new(Confirm::default());
        let (unknown_nodes, unknown) = mpsc::channel(UNKNOWN_QUEUE);
        let (tell, told) = Tell::channel();
        let observer = Arc::new(UnknownNodes(unknown_nodes));
        let revive = Revive::new(cache.clone());
        let confirmer = Confirmer {
            confirm: Arc::clone(&confirm),
            api: api.clone(),
            cache: cache.clone(),
            subs: Arc::clone(&subs),
            observer: observer.clone(),
            metrics: Arc::clone(&metrics.sync),
        };
        let minter = Minter {
            mint: Arc::new(Mint::new()),
            api: api.clone(),
            cache: cache.clone(),
            subs: Arc::clone(&subs),
            metrics: Arc::clone(&metrics),
        };
        let informer = Informer {
            api: api.clone(),
            cache: cache.clone(),
            confirm,
            subs: Arc::clone(&subs),
            metrics: Arc::clone(&metrics.sync),
            observer,
        };
        let (statuses, events, nodes) = apply::rates(checked.status_per_second);
        let applier = Arc::new(Applier {
            api: api.clone(),
            cache,
            subs,
            sessions: Arc::clone(&sessions),
            leases: Arc::clone(&leases),
            confirmer: confirmer.clone(),
            tell,
            revive: revive.clone(),
            metrics: Arc::clone(&metrics),
            statuses,
            events,
            nodes,
            written: apply::Written::default(),
        });
        let issuer = IssuerService {
            api: api.clone(),
            ca,
            lifetime: checked.node_lifetime,
            revocations: list,
            rate: Arc::new(issuer::rate()),
            metrics: Arc::clone(&metrics),
        };
        let address = if let Listen::Tcp(address) = listen { address } else { SocketAddr::from(([0, 0, 0, 0], 0)) };
        let mut server =
            ServerConfig::new("edgecontroller", listen, policy()).metrics(skerry_rpc::Metrics::new(registry));
        if matches!(server.listen, Listen::Tcp(_)) {
            server = server.tls(watch);
        }
        let bound = Server::bind(server).await.map_err(ControllerError::bind(address))?;
        Ok(Self {
            bound,
            api,
            informer,
            confirmer,
            minter,
            applier,
            leases,
            sessions,
            hubs,
            revive,
            unknown,
            told,
            revocations,
            issuer,
            keeper,
            readiness: readiness.clone(),
            metrics,
        })
    }

    /// The address that hubs connect to; `None` for a socket or pipe.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.bound.local_addr()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When a part ended by itself.
    pub async fn run(self, stop: drain::Watch) -> Result<(), ControllerError> {
        let mut tasks = Tasks::default();
        for kind in Kind::CORE.into_iter().filter(|kind| kind.resource().is_some()) {
            let task = self.readiness.task(&format!("list {}", kind.as_str()));
            tasks.spawn("informer", self.informer.clone().run(kind, task));
        }
        let subs = Arc::clone(&self.confirmer.subs);
        let mint = Arc::clone(&self.minter.mint);
        tasks.spawn("confirmer", skerry_kubesync::confirm(self.confirmer.clone()));
        tasks.spawn("minter", mint::run(self.minter.clone()));
        tasks.spawn("revocations", revocations::run(self.api.clone(), self.revocations));
        tasks.spawn("credentials", self.keeper.run());
        tasks.spawn("events", skerry_kubesync::tell(self.api.clone(), self.informer.cache.clone(), self.told));
        tasks.spawn("revive", revive::run(self.revive.clone(), Arc::clone(&self.applier), self.unknown));
        tasks.spawn("clock", clock(Arc::clone(&subs), mint, self.confirmer.clone()));
        let leases = Arc::clone(&self.leases);
        tasks.spawn("leases", async move { leases.run().await });

        let source = SourceService {
            service: SERVICE,
            kinds: &Kind::CORE,
            cache: self.informer.cache.clone(),
            confirm: Arc::clone(&self.informer.confirm),
            derived: Some(self.minter.mint.clone()),
            subs,
            sessions: Arc::clone(&self.sessions),
            tell: self.applier.tell.clone(),
            metrics: Arc::clone(&self.metrics.sync),
            stop: stop.clone(),
        };
        let metrics = Arc::clone(&self.metrics.sync);
        let sink = SinkService { service: SERVICE, applier: Arc::clone(&self.applier), metrics, stop: stop.clone() };
        let registry = RegistryService {
            sessions: self.sessions,
            leases: self.leases,
            hubs: self.hubs,
            revocations: self.issuer.revocations.clone(),
            revive: self.revive,
            connections: Arc::new(AtomicU64::new(1)),
            stop: stop.clone(),
        };
        let limit = skerry_rpc::limits::SYNC_MESSAGE_BYTES;
        let routes = Routes::new(SourceServer::new(source).max_decoding_message_size(limit))
            .add_service(SinkServer::new(sink).max_decoding_message_size(limit))
            .add_service(RegistryServer::new(registry))
            .add_service(IssuerServer::new(self.issuer))
            .add_service(ReviewsServer::new(ReviewService::new(self.api)));
        let serve = self.bound.serve(routes, stop.clone());
        let ended = tasks.serve(serve, stop, &self.metrics.sync).await;
        ended.map_err(|TaskEnded { task, reason }| ControllerError::TaskEnded { task, reason })
    }
}

/// What happens by time alone.
async fn clock(subs: Arc<Subs>, mint: Arc<Mint>, confirmer: Confirmer) {
    let mut tokens = tokio::time::interval(TOKEN_LOOK);
    let mut recheck = tokio::time::interval(RECHECK);
    loop {
        tokio::select! {
            _ = tokens.tick() => {
                let waiting = confirmer.confirm.waiting();
                confirmer.metrics.unproven.set(i64::try_from(waiting).unwrap_or(i64::MAX));
                for (node, key) in mint.take_due(jiff::Timestamp::now().as_second()) {
                    subs.wake(&node, Kind::ServiceAccountToken, &key);
                }
            }
            _ = recheck.tick() => subs.recheck_all(),
        }
    }
}

/// Waits for an API server that does not serve yet.
async fn patiently<T, F, Fut>(call: F) -> Result<T, ControllerError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ControllerError>>,
{
    skerry_kubesync::patiently(call, |error| match error {
        ControllerError::Api { what, source: ApiError::Unavailable { .. } } => Some(what),
        _ => None,
    })
    .await
}

/// Who may call what.
fn policy() -> Policy {
    let hub = [Caller::Service(HUB_SERVICE), Caller::Local];
    Policy::new()
        .allow("skerry.sync.v1.Source", &hub)
        .allow("skerry.sync.v1.Sink", &hub)
        .allow("skerry.hub.v1.Registry", &hub)
        .allow("skerry.identity.v1.Issuer", &hub)
        .allow("skerry.review.v1.Reviews", &hub)
}
