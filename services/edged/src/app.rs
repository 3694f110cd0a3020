//! edged as a whole: built, then run until told to stop.
//!
//! [`Edged::build`] checks the configuration and finds the runtime's socket; nothing is connected.
//! [`Edged::run`] starts the tasks — relist, EdgeHub's two streams, the node's status, the agent with
//! its workers, eviction, logs — and ends when it is told to, or with an error when one of them ends.
//! Stopping touches no pod, unless the machine goes down and a time for that is configured; the last
//! reports get [`FLUSH`] to reach EdgeHub.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use skerry_common::{drain, kinds};
use skerry_hubclient::{Client, FLUSH, Outbox, Report};
use skerry_rpc::Channel;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::admission::Kernel;
use crate::agent::Agent;
use crate::cgroups::Cgroups;
use crate::config::{Config, Connect};
use crate::context::{Context, FAILURES, Learned};
use crate::error::Error;
use crate::events::{Events, Kind, Subject};
use crate::eviction::{EvictionTask, Pressure};
use crate::images::Pulls;
use crate::logs::LogTask;
use crate::metrics::Metrics;
use crate::node::{self, NodeTask};
use crate::node_config::span;
use crate::objects::{KINDS, Objects};
use crate::pod::failure::Failure;
use crate::pod::statuses::Statuses;
use crate::runtime::dns::ClusterDns;
use crate::runtime::relist::{Health, NEWS_LIMIT, Relist};
use crate::runtime::{Cri, find, forget_earlier_agents};
use crate::server::{Server, Shared, Streams};
use crate::starts::Starts;
use crate::static_pods::StaticPods;
use crate::userns::UserNamespaces;

/// edged, ready to run.
pub struct Edged {
    context: Arc<Context>,
    channel: Channel,
    health: watch::Sender<Health>,
    server: Option<Server>,
    registry: skerry_telemetry::Registry,
    config: Config,
    failures: mpsc::Receiver<(String, Failure)>,
    pressure: watch::Sender<Pressure>,
}

impl std::fmt::Debug for Edged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edged({})", self.context.node)
    }
}

impl Edged {
    /// Checks the configuration, makes the directories and finds the container runtime.
    ///
    /// # Errors
    /// See [`Error`]; a runtime that does not answer yet is not one.
    pub async fn build(
        config: Config,
        connect: Connect,
        telemetry: &skerry_telemetry::Registry,
    ) -> Result<Self, Error> {
        config.check()?;
        let kernel = Kernel::new(&config.node.allowed_unsafe_sysctls).map_err(Error::Options)?;
        let socket = find::socket(config.runtime_endpoint.as_deref())?;
        for dir in [&config.root_dir, &config.pod_log_dir] {
            tokio::fs::create_dir_all(dir).await.map_err(|e| Error::io(dir, e))?;
        }
        // Secrets lie below; the kubelet's mode.
        let pods = config.root_dir.join("pods");
        tokio::fs::create_dir_all(&pods).await.map_err(|e| Error::io(&pods, e))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        tokio::fs::set_permissions(&pods, mode).await.map_err(|e| Error::io(&pods, e))?;
        let channel = match connect {
            Connect::Socket(path) => Channel::unix(path),
            Connect::Pipe(connector) => Channel::pipe(connector),
        };
        let server = match &config.api {
            Some(api) => Some(Server::bind(api).await?),
            None => None,
        };
        tracing::info!(runtime = %socket.display(), "container runtime");
        let node = config.node_name.to_string();
        let (health, health_rx) =
            watch::channel(Health { answers: false, trouble: "container runtime was not asked yet".into() });
        let (pressure, pressure_rx) = watch::channel(Pressure::default());
        let outbox = Outbox::default();
        let (failures, failures_rx) = mpsc::channel(FAILURES);
        let throttling = config.node.memory_qos.then_some(config.node.memory_throttling_factor);
        let cgroups = Cgroups::new(&config.cgroup_root, config.node.pod_pids_limit);
        let objects = Objects::default();
        match &config.static_pod_path {
            Some(dir) => tokio::fs::create_dir_all(dir).await.map_err(|e| Error::io(dir, e))?,
            None => drop(objects.set_statics(Vec::new())),
        }
        let context = Context {
            node: node.clone(),
            root: config.root_dir.clone(),
            log_dir: config.pod_log_dir.clone(),
            cluster_dns: ClusterDns {
                servers: config.node.cluster_dns.iter().map(ToString::to_string).collect(),
                domain: config.node.cluster_domain.clone(),
            },
            cri: Cri::new(&socket, &node),
            objects,
            statuses: Statuses::default(),
            events: Events::new(outbox.clone(), &node),
            outbox,
            metrics: telemetry.sub("edged", Metrics::new),
            health: health_rx,
            hurry: Arc::new(Notify::new()),
            failures,
            pulls: Pulls::new(config.node.pulls(), span(config.node.image_pull_progress_deadline)),
            going_down: watch::Sender::new(false),
            log_links: config.log_links(),
            pressure: pressure_rx,
            starts: Starts::of_machine(),
            resources: cgroups.node(node::memory_capacity(), throttling),
            cgroups,
            kernel,
            user_namespaces: UserNamespaces::load(&config.root_dir, config.node.max_pods),
            started: tokio::time::Instant::now(),
            streams: telemetry.sub("edged", Streams::new),
            api_port: server.as_ref().map(Server::port),
            learned: RwLock::new(Learned { facts: node::facts(&config), ..Learned::default() }),
            stats: crate::stats::Collector::default(),
        };
        Ok(Self {
            context: Arc::new(context),
            channel,
            health,
            server,
            registry: telemetry.clone(),
            config,
            failures: failures_rx,
            pressure,
        })
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When a part of it ended, which the supervisor answers with a restart; pods go on meanwhile.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), Error> {
        let Self { context, channel, health, server, registry, config, failures, pressure } = self;
        let eviction =
            EvictionTask::new(Arc::clone(&context), config.node.clone(), config.node.thresholds()?, pressure);
        let (news_tx, news_rx) = mpsc::channel(NEWS_LIMIT);
        let (batch_tx, batch_rx) = mpsc::channel(skerry_hubclient::BATCHES);
        let (present_tx, present_rx) = watch::channel(BTreeSet::new());
        let (static_tx, static_rx) = mpsc::channel(1);
        let node_news = Arc::new(Notify::new());
        let relist = Relist { context: Arc::clone(&context), news: news_tx, health, present: present_tx };
        let files = config.static_pod_path.clone();
        let files = files.map(|dir| StaticPods { context: Arc::clone(&context), dir, news: static_tx });
        let logs = LogTask::new(Arc::clone(&context), &config.node);
        let node_config = config.node.clone();
        let asked = Shared::new(Arc::clone(&context), channel.clone(), registry, config.clone());
        let node = NodeTask::new(Arc::clone(&context), config, Arc::clone(&node_news));
        let agent = Agent::new(Arc::clone(&context), present_rx, node_news, failures, static_rx);

        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            relist.run().await;
            Error::Runtime("the relist ended".into())
        });
        let client = Client {
            node: context.node.clone(),
            service: "edged",
            channel,
            reconnects: context.metrics.hub_reconnects.clone(),
        };
        let follow = skerry_hubclient::follow(client.clone(), &KINDS, batch_tx);
        tasks.spawn(async move {
            follow.await;
            Error::Hub("its task ended".into())
        });
        let shared = Arc::clone(&context);
        let mut reports = JoinSet::new();
        reports.spawn(skerry_hubclient::report(client, context.outbox.clone(), move |report, reason| {
            refused(&shared, report, reason);
        }));
        tasks.spawn(async move {
            node.run().await;
            Error::Runtime("the node's status ended".into())
        });
        if let Some(server) = server {
            tasks.spawn(async move {
                server.run(asked).await;
                Error::Runtime("the kubelet api ended".into())
            });
        }
        if let Some(files) = files {
            tasks.spawn(async move {
                files.run().await;
                Error::Runtime("the static pods ended".into())
            });
        }
        tasks.spawn(async move {
            logs.run().await;
            Error::Runtime("the rotation of logs ended".into())
        });
        tasks.spawn(async move {
            eviction.run().await;
            Error::Runtime("the eviction ended".into())
        });
        tasks.spawn(agent.run(batch_rx, news_rx));
        let mut earlier = JoinSet::new();
        earlier.spawn(forget_earlier_agents());

        let result = tokio::select! {
            ended = tasks.join_next() => Err(match ended {
                Some(Ok(error)) => error,
                _ => Error::Runtime("a task failed".into()),
            }),
            _guard = stop.stopped() => {
                node::end_pods(&context, &node_config).await;
                // Workers first: after this nothing new is reported.
                tasks.shutdown().await;
                let _ = tokio::time::timeout(FLUSH, context.outbox.flushed()).await;
                Ok(())
            }
        };
        tasks.shutdown().await;
        reports.shutdown().await;
        result
    }
}

/// A report will never be taken.
fn refused(context: &Context, report: &Report, reason: &str) {
    context.metrics.reports_rejected.inc();
    // An Event about a refused Event would only be refused again.
    if report.kind != kinds::EVENT {
        let message = format!("the {} of {} was refused: {reason}", report.kind, report.key);
        context.events.record(&Subject::node(&context.node), Kind::Warning, "ReportRejected", &message);
    }
}
