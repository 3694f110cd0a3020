//! EdgeHub as a whole: built, then run until told to stop.

use std::path::PathBuf;
use std::sync::Arc;

use skerry_common::{chain, drain};
use skerry_identity::{CredentialOptions, CredentialStore, CredentialWatch, Identity, TrustDomain};
use skerry_proto::edge::v1::edge_server::EdgeServer;
use skerry_proto::review::v1::reviews_server::ReviewsServer;
use skerry_proto::sync::v1::sink_server::SinkServer;
use skerry_proto::sync::v1::source_server::SourceServer;
use skerry_rpc::{Bound, Caller, Policy, Server, ServerConfig, Target};
use skerry_store::{Opened, Store, StoreOptions};
use tonic::service::Routes;

use crate::config::Listen;
use crate::link::Link;
use crate::listeners::Listeners;
use crate::local_sink::LocalSink;
use crate::local_source::LocalSource;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::renew::Renewal;
use crate::reviews::{Cloud, LocalReviews};
use crate::status::EdgeStatus;
use crate::uplink::{Traffic, Uplink};
use crate::upreports::Outbox;
use crate::{Config, EdgeHubError};

/// Name of the store's file in its folder.
const STORE_FILE: &str = "edge.db";

/// Only root may speak for the node.
const SOCKET_MODE: u32 = 0o600;

/// EdgeHub, with its store open and its socket bound.
pub struct EdgeHub {
    bound: Bound,
    socket: Option<PathBuf>,
    objects: Arc<Objects>,
    outbox: Arc<Outbox>,
    status: EdgeStatus,
    reviews: LocalReviews,
    uplink: Uplink,
}

impl EdgeHub {
    /// Opens the store, reads the credentials and binds the socket. Nothing is dialled yet.
    ///
    /// # Errors
    /// See [`EdgeHubError`].
    pub async fn build(
        config: Config,
        listen: Listen,
        telemetry: &skerry_telemetry::Registry,
    ) -> Result<Self, EdgeHubError> {
        let metrics = Metrics::new(telemetry);
        let (credentials, publisher, watch) = open_credentials(&config)?;
        let path = config.store.join(STORE_FILE);
        let options =
            StoreOptions { metrics: telemetry.register(skerry_store::Metrics::new), ..StoreOptions::default() };
        let open = tokio::task::spawn_blocking(move || Store::open(path, options)).await;
        let (store, opened) = open.map_err(|_| EdgeHubError::TaskEnded("store"))?.map_err(EdgeHubError::Store)?;

        let listeners = Arc::new(Listeners::default());
        let link = Arc::new(Link::new(listeners.clone(), metrics.clone()));
        if let Opened::Recovered { reason } = &opened {
            tracing::error!(reason, "the store was damaged and begins anew");
            link.store_problem(&format!("the store was damaged and is rebuilt from the cloud: {reason}"));
        }
        let objects =
            Objects::load(store.clone(), skerry_common::kinds::down(), listeners, link.clone(), metrics.clone());
        let objects = Arc::new(objects.await.map_err(EdgeHubError::Store)?);
        let outbox = Outbox::load(store, metrics.clone()).await.map_err(EdgeHubError::Store)?;

        let (listen, socket) = match listen {
            Listen::Socket(path) => (skerry_rpc::Listen::Unix { path: path.clone(), mode: SOCKET_MODE }, Some(path)),
            Listen::Pipe(pipe) => (skerry_rpc::Listen::Pipe(pipe), None),
        };
        let server = ServerConfig::new("edgehub", listen, policy()).metrics(skerry_rpc::Metrics::new(telemetry));
        let bound = Server::bind(server).await.map_err(EdgeHubError::Serve)?;
        let target = Target::tcp(config.hubs.clone(), "cloudhub", watch.clone()).map_err(EdgeHubError::Hub)?;
        let traffic = Arc::new(Traffic::default());
        let status = EdgeStatus {
            node: config.node_name.clone(),
            objects: objects.clone(),
            outbox: outbox.clone(),
            credentials: watch.clone(),
            traffic: traffic.clone(),
        };
        let renewal = Renewal {
            store: credentials,
            publisher: Arc::new(publisher),
            watch,
            metrics: metrics.clone(),
            jitter: rand::random(),
        };
        let cloud = Cloud::default();
        let reviews = LocalReviews(cloud.clone());
        let uplink = Uplink {
            node: config.node_name,
            target,
            services: config.services,
            devices: config.devices,
            times: config.times,
            objects: objects.clone(),
            outbox: outbox.clone(),
            renewal,
            traffic,
            cloud,
            metrics,
        };
        Ok(Self { bound, socket, objects, outbox, status, reviews, uplink })
    }

    /// Where the services of the node connect to, when it is a socket.
    pub fn socket(&self) -> Option<&std::path::Path> {
        self.socket.as_deref()
    }

    /// Serves the node and keeps the link until told to stop.
    ///
    /// # Errors
    /// When the store failed: the process must end and start again, which reads what is on disk.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), EdgeHubError> {
        let limit = skerry_rpc::limits::SYNC_MESSAGE_BYTES;
        let link = self.objects.link.clone();
        let store = self.objects.store.clone();
        let source = SourceServer::new(LocalSource(self.objects)).max_decoding_message_size(limit);
        let sink = SinkServer::new(LocalSink { outbox: self.outbox, link }).max_decoding_message_size(limit);
        let routes = Routes::new(source)
            .add_service(sink)
            .add_service(EdgeServer::new(self.status))
            .add_service(ReviewsServer::new(self.reviews));
        let serve = self.bound.serve(routes, stop.clone());
        let uplink = self.uplink.run(stop.clone());
        tokio::pin!(serve);
        tokio::pin!(uplink);
        let ended = tokio::select! {
            served = &mut serve => served.map(drop).map_err(EdgeHubError::Serve),
            ended = &mut uplink => match ended {
                Ok(()) if stop.is_stopping() => serve.await.map(drop).map_err(EdgeHubError::Serve),
                Ok(()) => Err(EdgeHubError::TaskEnded("link")),
                Err(error) => Err(EdgeHubError::Store(error)),
            },
            reason = store.failed() => Err(EdgeHubError::Store(skerry_store::StoreError::Stopped { reason })),
        };
        // Whoever starts next may open it at once, whatever still holds a handle here.
        store.close().await;
        ended?;
        drop(stop.stopped().await);
        Ok(())
    }
}

type OpenCredentials = (CredentialStore, skerry_identity::CredentialPublisher, CredentialWatch);

fn open_credentials(config: &Config) -> Result<OpenCredentials, EdgeHubError> {
    let store = CredentialStore::open(&config.credentials).map_err(EdgeHubError::Credentials)?;
    let trust_domain = TrustDomain::parse(&config.trust_domain).map_err(EdgeHubError::Credentials)?;
    let options = CredentialOptions::new(trust_domain);
    let loaded = store.load(&options.trust_domain, &options.clock);
    for (path, error) in &loaded.rejected {
        tracing::warn!(path = %path.display(), error = chain(error), "credentials not usable");
    }
    let Some((credentials, _, identity)) = loaded.newest else {
        // With a reason at hand the person should see it rather than "join first".
        return Err(match loaded.rejected.into_iter().next() {
            Some((_, error)) => EdgeHubError::Credentials(error),
            None => EdgeHubError::NotJoined,
        });
    };
    match &identity {
        Identity::Node(name) if *name == config.node_name => {}
        other => {
            return Err(EdgeHubError::OtherNode {
                certificate: other.to_string(),
                configured: config.node_name.to_string(),
            });
        }
    }
    let (publisher, watch) = CredentialWatch::channel(options).map_err(EdgeHubError::Credentials)?;
    publisher.publish(credentials).map_err(EdgeHubError::Credentials)?;
    Ok((store, publisher, watch))
}

/// Who may call what. The socket's mode lets only root in.
fn policy() -> Policy {
    Policy::new()
        .allow("skerry.sync.v1.Source", &[Caller::Local])
        .allow("skerry.sync.v1.Sink", &[Caller::Local])
        .allow("skerry.edge.v1.Edge", &[Caller::Local])
        .allow("skerry.review.v1.Reviews", &[Caller::Local])
}
