//! The handle of the mesh's network: starting it, opening streams, and telling it what changes.
//!
//! Handles are cheap to clone; they talk to the engine's task through one bounded channel. When the last handle is gone,
//! the engine closes all connections and ends.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, UdpSocket},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::upgrade::Version,
    multiaddr::Protocol,
    swarm::{self, SwarmEvent},
};
use skerry_common::NodeName;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    Accepted, Config, NetError, OpenError, PeerStatus, RecordError, Relay, Stream,
    behaviour::Behaviour,
    engine::{Command, Engine, Outlets},
    key, limits,
    status::Snapshot,
    streams::{MAX_STREAMS, Refused, Streams},
    transport,
};

/// Commands that wait for the engine. It takes them at once; callers wait when it cannot.
const COMMANDS: usize = 1_024;

/// Times a stream is opened again when its connection was just lost.
const OPEN_TRIES: usize = 3;

/// Binding sockets takes no time; an interface that never comes must not hold up the start.
const BIND: Duration = Duration::from_secs(5);

/// Streams of one connection that are being negotiated: all may be, because one whose opener has written nothing yet must
/// not hold up those after it.
const NEGOTIATING: usize = MAX_STREAMS;

/// Streams asked of one connection that its task has not taken; when it is full, the engine waits for that connection.
const HANDLER_QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// Connections that carry nothing are ended by us, not by libp2p.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The network of this node.
#[derive(Clone, Debug)]
pub struct Net {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<[Snapshot]>>,
    record: watch::Receiver<Option<Arc<[u8]>>>,
    addresses: watch::Receiver<Arc<[Multiaddr]>>,
    peer_id: PeerId,
    listening: Arc<[Multiaddr]>,
}

/// The streams that other nodes open to this one. They must be taken; see [`crate::MAX_ACCEPTED`].
#[derive(Debug)]
pub struct Inbound(mpsc::Receiver<Accepted>);

impl Inbound {
    /// The next stream. `None` when the network has stopped.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.0.recv().await
    }
}

impl Net {
    /// Binds the sockets and starts the network. It knows nobody before [`Net::set_records`].
    ///
    /// # Errors
    /// [`NetError`]: the key, a socket, or a transport.
    pub async fn start(config: Config) -> Result<(Self, Inbound), NetError> {
        let key = key::load_or_create(&config.key_file)?;
        let peer_id = key.public().to_peer_id();
        let (transport, circuits) = transport::build(&key)?;
        let (streams, accepted) = Streams::new();
        let behaviour = Behaviour::new(&config, &key, circuits, streams)?;
        let settings = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(NEVER)
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_notify_handler_buffer_size(HANDLER_QUEUE)
            .with_max_negotiating_inbound_streams(NEGOTIATING)
            .with_dial_concurrency_factor(limits::DIAL_CONCURRENCY);
        let mut swarm = Swarm::new(transport, behaviour, peer_id, settings);
        for address in &config.external {
            swarm.add_external_address(address.clone());
        }
        let bound = bind(&mut swarm, &config.listen).await?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (status_sender, status) = watch::channel(Arc::from([]));
        let (record_sender, record) = watch::channel(None);
        let (addresses_sender, addresses) = watch::channel(Arc::from([]));
        let outlets = Outlets { status: status_sender, record: record_sender, addresses: addresses_sender };
        let mut engine = Engine::new(swarm, key, config, outlets);
        let listening: Arc<[Multiaddr]> = bound.iter().cloned().collect();
        engine.bound(bound);
        tokio::spawn(engine.run(receiver));
        Ok((Self { commands, status, record, addresses, peer_id, listening }, Inbound(accepted)))
    }

    /// This node's PeerId.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The addresses that were bound at the start.
    pub fn listening(&self) -> &[Multiaddr] {
        &self.listening
    }

    /// This node's own record, signed, for its Node; it changes with its addresses and its certificate. `None` before
    /// there is a certificate.
    pub fn own_record(&self) -> watch::Receiver<Option<Arc<[u8]>>> {
        self.record.clone()
    }

    /// The addresses in the own record.
    pub fn own_addresses(&self) -> watch::Receiver<Arc<[Multiaddr]>> {
        self.addresses.clone()
    }

    /// Opens a stream to a node over the best path there is, which is made if there is none.
    ///
    /// # Errors
    /// [`OpenError`], at `deadline` at the latest, and sooner when every way has failed.
    pub async fn open(&self, node: &NodeName, deadline: Duration) -> Result<Stream, OpenError> {
        timeout(deadline, self.try_open(node)).await.unwrap_or_else(|_| {
            let reason = self.reason(node).unwrap_or_else(|| "no answer yet".into());
            Err(OpenError::Deadline { node: node.clone(), reason })
        })
    }

    async fn try_open(&self, node: &NodeName) -> Result<Stream, OpenError> {
        for _ in 0..OPEN_TRIES {
            let opening = self.ask(|reply| Command::Open { node: node.clone(), reply }).await??;
            match opening.await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(Refused::Limit)) => return Err(OpenError::Limit(node.clone())),
                // The connection went away in this moment: the next best one is used.
                Ok(Err(Refused::Lost)) | Err(_) => {}
            }
        }
        Err(OpenError::Lost(node.clone()))
    }

    /// Connects to a node without opening a stream, so that its path is known; see [`Net::status`].
    ///
    /// # Errors
    /// [`OpenError::Stopped`].
    pub async fn connect(&self, node: &NodeName) -> Result<(), OpenError> {
        self.tell(Command::Connect(node.clone())).await
    }

    /// Takes the records of all Nodes, by node. Nodes that were there before and are missing now are disconnected at
    /// once. Returns the records that were refused, and why; a refused record leaves the one before it in force.
    ///
    /// # Errors
    /// [`OpenError::Stopped`].
    pub async fn set_records(
        &self,
        records: BTreeMap<NodeName, Vec<u8>>,
    ) -> Result<Vec<(NodeName, RecordError)>, OpenError> {
        self.ask(|reply| Command::SetRecords { records, reply }).await
    }

    /// Disconnects a node at once and does not let it in before its record comes with [`Net::set_records`] again.
    ///
    /// # Errors
    /// [`OpenError::Stopped`].
    pub async fn revoke(&self, node: &NodeName) -> Result<(), OpenError> {
        self.ask(|reply| Command::Revoke { node: node.clone(), reply }).await
    }

    /// Replaces the operator's list of relays.
    ///
    /// # Errors
    /// [`OpenError::Stopped`].
    pub async fn set_relays(&self, relays: Vec<Relay>) -> Result<(), OpenError> {
        self.tell(Command::SetRelays(relays)).await
    }

    /// Says that addresses or routes of the host have changed: all paths are tried again.
    ///
    /// # Errors
    /// [`OpenError::Stopped`].
    pub async fn network_changed(&self) -> Result<(), OpenError> {
        self.tell(Command::NetworkChanged).await
    }

    /// All peers, by node.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.status.borrow().iter().map(Snapshot::now).collect()
    }

    /// One peer.
    pub fn peer(&self, node: &NodeName) -> Option<PeerStatus> {
        self.status.borrow().iter().find(|snapshot| snapshot.status.node == *node).map(Snapshot::now)
    }

    /// Wakes whenever a peer comes, goes, or has another path.
    pub fn subscribe(&self) -> StatusChanges {
        StatusChanges(self.status.clone())
    }

    /// Closes all connections. Streams fail, and so does everything that is asked of any handle afterwards.
    pub async fn stop(&self) {
        if self.tell(Command::Stop).await.is_ok() {
            self.commands.closed().await;
        }
    }

    fn reason(&self, node: &NodeName) -> Option<String> {
        self.peer(node)?.reason
    }

    async fn tell(&self, command: Command) -> Result<(), OpenError> {
        self.commands.send(command).await.map_err(|_| OpenError::Stopped)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, OpenError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| OpenError::Stopped)
    }
}

/// Changes of peers' paths.
#[derive(Clone, Debug)]
pub struct StatusChanges(watch::Receiver<Arc<[Snapshot]>>);

impl StatusChanges {
    /// Waits for a change since the last call and returns all peers. `None` when the network has stopped.
    pub async fn changed(&mut self) -> Option<Vec<PeerStatus>> {
        self.0.changed().await.ok()?;
        Some(self.current())
    }

    /// All peers now.
    pub fn current(&mut self) -> Vec<PeerStatus> {
        self.0.borrow_and_update().iter().map(Snapshot::now).collect()
    }
}

/// Listens on all addresses and waits until each is bound.
async fn bind(swarm: &mut Swarm<Behaviour>, wanted: &[Multiaddr]) -> Result<Vec<Multiaddr>, NetError> {
    let mut open = BTreeMap::new();
    let ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    for address in wanted {
        if !ipv6 && address.iter().next() == Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) {
            tracing::info!(%address, "not listened on: this machine has no IPv6");
            continue;
        }
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| NetError::Listen { address: address.clone(), source };
        let listener = swarm.listen_on(address.clone()).map_err(|error| failed(Box::new(error)))?;
        open.insert(listener.to_string(), address.clone());
    }
    let mut bound = Vec::new();
    let all_bound = async {
        while !open.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    open.remove(&listener_id.to_string());
                    bound.push(address);
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(source), .. } => {
                    if let Some(address) = open.remove(&listener_id.to_string()) {
                        return Err(NetError::Listen { address, source: Box::new(source) });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    };
    match timeout(BIND, all_bound).await {
        Ok(result) => result?,
        Err(_) => tracing::warn!(?open, "no interface to listen on yet"),
    }
    Ok(bound)
}
