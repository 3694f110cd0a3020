//! The server as a whole: built, which binds its sockets, then run until told to stop.
//!
//! Nothing here knows of the tunnel: what the mesh does to connections does not touch names. Several UDP sockets for
//! each address, one TCP listener, and one task that keeps the list of name servers true.
//!
//! Stopping ends every task; a question that waits then is not answered, and its client asks somebody else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skerry_common::drain;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::answerer::Answerer;
use crate::bind;
use crate::config::Config;
use crate::error::DnsError;
use crate::metrics::Metrics;
use crate::upstream::forward::Forwarder;
use crate::upstream::probe::{self, Probes};
use crate::upstream::resolv::{self, Follow};
use crate::upstream::servers::ServerStatus;
use crate::zone::Zone;
use crate::{tcp, udp};

/// The node's DNS, with its sockets bound.
pub struct Dns {
    addresses: Vec<SocketAddr>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    answerer: Arc<Answerer>,
    forwarder: Forwarder,
    probes: Arc<Probes>,
    follow: Option<PathBuf>,
    metrics: Metrics,
}

/// Sees into a server that runs. Cheap to clone.
#[derive(Clone)]
pub struct DnsHandle(Forwarder);

impl DnsHandle {
    /// The name servers of the node, in the order in which they are asked.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.0.status()
    }
}

impl Dns {
    /// Checks the configuration and binds the sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// See [`DnsError`].
    pub fn build(
        config: &Config,
        zone: Arc<dyn Zone>,
        telemetry: &skerry_telemetry::Registry,
    ) -> Result<Self, DnsError> {
        let metrics = telemetry.sub("dns", Metrics::new);
        let forwarder = Forwarder::new(metrics.clone());
        let probes = Arc::new(Probes::default());
        let answerer = Answerer::new(config, zone, forwarder.clone(), probes.clone(), metrics.clone())?;
        let mut addresses = Vec::new();
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for wanted in &config.listen {
            let bound = bind::both(*wanted, config.sockets())?;
            addresses.push(bound.address);
            udp.extend(bound.udp);
            tcp.push(bound.tcp);
        }
        let follow = config.upstream.is_empty().then(|| config.resolv_conf.clone());
        forwarder.set_servers(&config.upstream, &addresses);
        Ok(Self { addresses, udp, tcp, answerer: Arc::new(answerer), forwarder, probes, follow, metrics })
    }

    /// Where it listens, as configured; with the port that the system chose when that was 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sees into the server while it runs.
    pub fn handle(&self) -> DnsHandle {
        DnsHandle(self.forwarder.clone())
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When a task ended by itself: the process must end and start again.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), DnsError> {
        let end = CancellationToken::new();
        let mut tasks: JoinSet<&'static str> = JoinSet::new();
        for socket in self.udp {
            let serve = udp::serve(socket, self.answerer.clone(), self.metrics.clone(), end.clone());
            tasks.spawn(async move {
                if let Err(error) = serve.await {
                    tracing::error!(%error, "a socket of dns cannot be read");
                }
                "udp"
            });
        }
        for listener in self.tcp {
            let serve = tcp::serve(listener, self.answerer.clone(), self.metrics.clone(), end.clone());
            tasks.spawn(async move {
                serve.await;
                "tcp"
            });
        }
        let keep = keep_servers(self.follow, self.forwarder.clone(), self.probes, self.addresses.clone());
        let stopped = end.clone();
        tasks.spawn(async move {
            stopped.run_until_cancelled(keep).await;
            "name servers"
        });
        let ended = tokio::select! {
            _guard = stop.stopped() => Ok(()),
            ended = tasks.join_next() => Err(DnsError::TaskEnded(ended.and_then(Result::ok).unwrap_or("dns"))),
        };
        end.cancel();
        self.forwarder.stop().await;
        while tasks.join_next().await.is_some() {}
        ended
    }
}

/// Keeps the list of name servers true: the file that names them, and whether they lead back here.
async fn keep_servers(path: Option<PathBuf>, forwarder: Forwarder, probes: Arc<Probes>, own: Vec<SocketAddr>) {
    let mut follow = path.map(Follow::new);
    let mut look = tokio::time::interval(resolv::LOOK);
    let mut probe = tokio::time::interval(probe::EVERY);
    loop {
        tokio::select! {
            _ = look.tick(), if follow.is_some() => {
                let Some(servers) = follow.as_mut().and_then(Follow::look) else {
                    continue;
                };
                tracing::info!(?servers, "name servers of this node");
                forwarder.set_servers(&servers, &own);
                probe.reset_immediately();
            }
            _ = probe.tick() => probes.look(&forwarder).await,
        }
    }
}
