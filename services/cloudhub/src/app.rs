//! The hub as a whole: built, then run until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use skerry_common::{drain, kinds as known};
use skerry_identity::{CredentialFolder, CredentialOptions, RevocationPublisher, TrustDomain};
use skerry_proto::hub::v1::hub_server::HubServer;
use skerry_proto::identity::v1::identity_server::IdentityServer;
use skerry_proto::review::v1::reviews_server::ReviewsServer;
use skerry_proto::sync::v1::sink_server::SinkServer;
use skerry_proto::sync::v1::source_server::SourceServer;
use skerry_rpc::{Bound, Caller, Channel, ClientLimits, Listen, Policy, Server, ServerConfig, ServerLimits};
use skerry_telemetry::Readiness;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::admin::HubAdmin;
use crate::join::Join;
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::node_sink::NodeSink;
use crate::node_source::{NodeSource, Shared};
use crate::registry::Registry;
use crate::report_lane::ReportLane;
use crate::reviews::NodeReviews;
use crate::routes::Routes as KindRoutes;
use crate::sessions::Sessions;
use crate::upstream;
use crate::usage::Usage;
use crate::{Config, HubError};

/// A hub that is bound and does not serve yet.
pub struct CloudHub {
    bound: Bound,
    lanes: Vec<Arc<Lane>>,
    report_lanes: Vec<Arc<ReportLane>>,
    registry: Registry,
    shared: Arc<Shared>,
    join: Join,
    reviews: NodeReviews,
    admin: HubAdmin,
    credentials: CredentialFolder,
}

impl CloudHub {
    /// Reads the credentials and binds the port. Nothing is accepted yet. The process is ready when every
    /// source was connected once.
    ///
    /// # Errors
    /// When the configuration, the credentials or the port cannot be used.
    pub async fn build(
        config: Config,
        telemetry: &skerry_telemetry::Registry,
        readiness: &Readiness,
    ) -> Result<Self, HubError> {
        config.validate()?;
        let metrics = Metrics::new(telemetry);
        let (revocations, list) = RevocationPublisher::new();
        let mut options =
            CredentialOptions::new(TrustDomain::parse(&config.trust_domain).map_err(HubError::Credentials)?);
        options.revocations = list;
        let folder = CredentialFolder::open(&config.credentials, options).map_err(HubError::Credentials)?;
        let credentials = folder.watch();
        if credentials.current().is_none() {
            return Err(HubError::NoCredentials(config.credentials.display().to_string()));
        }
        let sessions = Sessions::new(metrics.clone());
        let totals = Arc::new(Usage::default());
        let mut routes = KindRoutes::new();
        let (mut lanes, mut report_lanes, mut registry_channel) = (Vec::new(), Vec::new(), None);
        for source in &config.sources {
            let limits = ClientLimits::default();
            let channel = Channel::tcp(source.addresses.clone(), &source.name, credentials.clone(), limits)
                .map_err(|error| HubError::Source { name: source.name.clone(), source: error })?;
            let (bulk, control): (Vec<&String>, Vec<&String>) =
                source.kinds.iter().partition(|kind| known::BULK.contains(&kind.as_str()));
            for (class, kinds) in [("control", control), ("bulk", bulk)] {
                if kinds.is_empty() {
                    continue;
                }
                let pending = readiness.task(&format!("{class} kinds of {}", source.name));
                let lane = Lane::new(&source.name, channel.clone(), pending, totals.clone(), metrics.clone());
                kinds.into_iter().for_each(|kind| routes.add_down(kind, lane.clone()));
                lanes.push(lane);
            }
            let (bulk, control): (Vec<&String>, Vec<&String>) =
                source.reports.iter().partition(|kind| known::is_bulk_report(kind));
            for (class, kinds) in [("reports", control), ("bulk reports", bulk)] {
                if kinds.is_empty() {
                    continue;
                }
                let pending = readiness.task(&format!("{class} to {}", source.name));
                let lane = ReportLane::new(&source.name, channel.clone(), pending);
                kinds.into_iter().for_each(|kind| routes.add_up(kind, lane.clone()));
                report_lanes.push(lane);
            }
            if source.name == config.registry {
                registry_channel = Some(channel);
            }
        }
        let channel = registry_channel.ok_or_else(|| HubError::Config("the registry is not a source".to_owned()))?;
        let server = ServerConfig::new("cloudhub", Listen::Tcp(config.listen), policy())
            .tls(credentials)
            .limits(ServerLimits::hub())
            .metrics(skerry_rpc::Metrics::new(telemetry));
        let bound = Server::bind(server).await.map_err(HubError::Serve)?;
        let shared = Arc::new(Shared { routes, sessions: sessions.clone(), totals, metrics: metrics.clone() });
        Ok(Self {
            bound,
            lanes,
            report_lanes,
            registry: Registry { hub: config.name.clone(), channel: channel.clone(), sessions, revocations },
            reviews: NodeReviews::new(channel.clone()),
            join: Join::new(channel, metrics),
            admin: HubAdmin { hub: config.name, shared: shared.clone() },
            shared,
            credentials: folder,
        })
    }

    /// The address that nodes connect to.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.bound.local_addr()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When a part of the hub ended by itself.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), HubError> {
        let mut tasks = JoinSet::new();
        for lane in self.lanes {
            tasks.spawn(upstream::keep(lane, stop.clone()));
        }
        for lane in self.report_lanes {
            tasks.spawn(upstream::keep(lane, stop.clone()));
        }
        tasks.spawn(upstream::keep(Arc::new(self.registry), stop.clone()));
        tasks.spawn(self.credentials.run());
        let limit = skerry_rpc::limits::SYNC_MESSAGE_BYTES;
        let source = SourceServer::new(NodeSource(self.shared.clone())).max_decoding_message_size(limit);
        let sink = SinkServer::new(NodeSink(self.shared)).max_decoding_message_size(limit);
        let routes = Routes::new(source)
            .add_service(sink)
            .add_service(IdentityServer::new(self.join))
            .add_service(ReviewsServer::new(self.reviews))
            .add_service(HubServer::new(self.admin));
        let serve = self.bound.serve(routes, stop.clone());
        tokio::pin!(serve);
        let ended = tokio::select! {
            served = &mut serve => served.map(drop).map_err(HubError::Serve),
            Some(_) = tasks.join_next() => {
                if stop.is_stopping() {
                    serve.await.map(drop).map_err(HubError::Serve)
                } else {
                    Err(HubError::TaskEnded("relay"))
                }
            }
        };
        if ended.is_ok() {
            drop(stop.stopped().await);
        }
        ended
    }
}

/// Who may call what.
fn policy() -> Policy {
    Policy::new()
        .allow("skerry.sync.v1.Source", &[Caller::Node])
        .allow("skerry.sync.v1.Sink", &[Caller::Node])
        .allow("skerry.identity.v1.Identity/Join", &[Caller::Anonymous])
        .allow("skerry.identity.v1.Identity/Renew", &[Caller::Node])
        .allow("skerry.review.v1.Reviews", &[Caller::Node])
        .allow("skerry.hub.v1.Hub", &[Caller::Service("admin")])
}
