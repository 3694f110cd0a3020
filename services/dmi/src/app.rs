//! dmi as a whole: built, then run until told to stop.
//!
//! [`Dmi::build`] checks the configuration, opens the store and binds the socket; nothing is called yet.
//! [`Dmi::run`] starts the tasks and ends when told to, or with an error when one of them ends. At a stop the
//! last values are saved, and the last statuses get a moment to reach edgehub.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skerry_common::drain;
use skerry_hubclient::{Client, FLUSH};
use skerry_proto::dmi::v1::devices_server::DevicesServer;
use skerry_proto::dmi::v1::mappers_server::MappersServer;
use skerry_proto::dmi::v1beta1::device_manager_service_server::DeviceManagerServiceServer;
use skerry_rpc::limits::DMI_MESSAGE_BYTES;
use skerry_rpc::{Bound, Caller, Channel, Listen, Policy, Server, ServerConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::access::Access;
use crate::config::{Config, Connect};
use crate::error::Error;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::persist::{Persist, SavedMapper};
use crate::v1::{Connected, Questions, Shown};
use crate::v1beta1::{Managed, Workers};
use crate::{bus, follow, status};

/// Root and one group may use the socket.
const SOCKET_MODE: u32 = 0o660;
/// KubeEdge's mode of the folder of the socket.
const FOLDER_MODE: u32 = 0o750;

/// dmi, with its store open and its socket bound.
pub struct Dmi {
    node: Arc<Node>,
    access: Arc<Access>,
    bound: Bound,
    channel: Channel,
    mappers: Vec<SavedMapper>,
    config: Config,
}

impl std::fmt::Debug for Dmi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dmi({})", self.node.name)
    }
}

impl Dmi {
    /// Checks the configuration, opens the store and binds the socket.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn build(
        config: Config,
        connect: Connect,
        telemetry: &skerry_telemetry::Registry,
    ) -> Result<Self, Error> {
        config.check()?;
        let group = config.dmi.socket_group.as_deref().map(group).transpose()?;
        let persist = Persist::open(&config.store, telemetry).await?;
        let loaded = persist.load().await?;
        let mut fleet = Fleet::new(config.settings());
        fleet.load(loaded.twins, loaded.overlays);
        let metrics = telemetry.sub("dmi", Metrics::new);
        let node = Node::new(config.node_name.to_string(), fleet, persist, metrics);

        folder(&config.dmi.socket)?;
        let listen = Listen::Unix { path: config.dmi.socket.clone(), mode: SOCKET_MODE };
        let server = ServerConfig::new("dmi", listen, policy()).metrics(skerry_rpc::Metrics::new(telemetry));
        let bound = Server::bind(server).await.map_err(Error::Serve)?;
        if let Some(group) = group {
            // Wider only now: until here it was root's alone.
            std::os::unix::fs::chown(&config.dmi.socket, None, Some(group))
                .map_err(|source| Error::Io { path: config.dmi.socket.clone(), source })?;
        }
        let access = Arc::new(Access::new(config.dmi.allowed_uids.clone(), group));
        let channel = match connect {
            Connect::Socket(path) => Channel::unix(path),
            Connect::Pipe(connector) => Channel::pipe(connector),
        };
        Ok(Self { node, access, bound, channel, mappers: loaded.mappers, config })
    }

    /// Where mappers connect to.
    pub fn socket(&self) -> &Path {
        &self.config.dmi.socket
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When a part of it ended, which the supervisor answers with a restart; mappers go on meanwhile.
    pub async fn run(self, stop: drain::Watch) -> Result<(), Error> {
        let Self { node, access, bound, channel, mappers, config } = self;
        let dirs: Arc<[PathBuf]> = config.mapper_dirs().into();
        let managed = Managed {
            node: Arc::clone(&node),
            access: Arc::clone(&access),
            workers: Arc::new(Workers::default()),
            dirs,
        };
        managed.resume(mappers);
        let client = Client {
            node: node.name.clone(),
            service: "dmi",
            channel,
            reconnects: node.metrics.hub_reconnects.clone(),
        };
        let (batch_tx, batch_rx) = mpsc::channel(skerry_hubclient::BATCHES);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::run(Arc::clone(&node), batch_rx));
        let following = skerry_hubclient::follow(client.clone(), &follow::KINDS, batch_tx);
        tasks.spawn(async move {
            following.await;
            Error::TaskEnded("subscription to edgehub")
        });
        let telling = status::tell(Arc::clone(&node));
        tasks.spawn(async move {
            telling.await;
            Error::TaskEnded("statuses")
        });
        let saving = status::save(Arc::clone(&node), Duration::from_secs(config.dmi.checkpoint_seconds));
        tasks.spawn(async move {
            saving.await;
            Error::TaskEnded("checkpoints")
        });
        if let Some(mqtt) = config.dmi.mqtt.clone() {
            let running = bus::run(Arc::clone(&node), mqtt);
            tasks.spawn(async move {
                running.await;
                Error::TaskEnded("event bus")
            });
        }
        let rejected = node.metrics.reports_rejected.clone();
        let mut reports = JoinSet::new();
        reports.spawn(skerry_hubclient::report(client, node.outbox.clone(), move |_, _| {
            rejected.inc();
        }));

        let questions = Arc::new(Questions::default());
        let connected =
            Connected { node: Arc::clone(&node), access: Arc::clone(&access), questions: Arc::clone(&questions) };
        let routes = Routes::new(DeviceManagerServiceServer::new(managed.clone()))
            .add_service(MappersServer::new(connected).max_decoding_message_size(DMI_MESSAGE_BYTES))
            .add_service(DevicesServer::new(Shown::new(Arc::clone(&node), access, questions)));
        let serve = bound.serve(routes, stop.clone());
        let result = tokio::select! {
            served = serve => served.map(drop).map_err(Error::Serve),
            ended = tasks.join_next() => Err(match ended {
                Some(Ok(error)) => error,
                _ => Error::TaskEnded("dmi"),
            }),
            error = node.persist.failed() => Err(error),
        };
        let _guard = stop.guard();
        drop(managed);
        tasks.shutdown().await;
        if result.is_ok() {
            status::tell_once(&node).await;
            status::save_once(&node).await;
            let _ = tokio::time::timeout(FLUSH, node.outbox.flushed()).await;
        }
        reports.shutdown().await;
        node.persist.close().await;
        result
    }
}

/// Who may call what. The socket's mode lets only root and one group in, and each call looks again.
fn policy() -> Policy {
    Policy::new()
        .allow("v1beta1.DeviceManagerService", &[Caller::Local])
        .allow("skerry.dmi.v1.Mappers", &[Caller::Local])
        .allow("skerry.dmi.v1.Devices", &[Caller::Local])
}

fn group(name: &str) -> Result<u32, Error> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(Error::Options(format!("socketGroup: there is no group {name:?}"))),
    }
}

/// Makes the folder of the socket.
fn folder(socket: &Path) -> Result<(), Error> {
    let Some(dir) = socket.parent() else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(dir);
    made.map_err(|source| Error::Io { path: dir.to_owned(), source })
}
