//! The task that owns the swarm: takes commands and events, asks the state machines what to do, and does it.
//!
//! It never waits for anything but the next event, so no peer, caller or exchange can hold up another; what takes time
//! (opening a stream, exchanging a record) happens in the connections' tasks or in short tasks of its own. When it ends
//! — told to, or because every handle is gone — all connections are closed and callers get an error.

mod callers;
mod events;
mod exchanges;
mod own;
mod relaying;
mod shown;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    identity::Keypair,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use skerry_common::NodeName;
use skerry_identity::{CredentialWatch, RevocationList};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use callers::Caller;
pub use callers::MAX_WAITING;
use exchanges::Exchanged;

use crate::{
    Config, OpenError, RecordError, Relay,
    behaviour::Behaviour,
    directory::{Changes, Directory},
    exchange,
    paths::{self, Class, Paths},
    relays::Relays,
    status::Snapshot,
    streams::{Protocol, Refused, Stream},
};

/// Where the answer to an opened stream will come from.
pub(crate) type Opening = oneshot::Receiver<Result<Stream, Refused>>;

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Open { node: NodeName, reply: oneshot::Sender<Result<Opening, OpenError>> },
    Connect(NodeName),
    SetRecords { records: BTreeMap<NodeName, Vec<u8>>, reply: oneshot::Sender<Vec<(NodeName, RecordError)>> },
    Revoke { node: NodeName, reply: oneshot::Sender<()> },
    SetRelays(Vec<Relay>),
    NetworkChanged,
    Stop,
}

/// What the engine tells all handles.
pub(crate) struct Outlets {
    pub(crate) status: watch::Sender<Arc<[Snapshot]>>,
    pub(crate) record: watch::Sender<Option<Arc<[u8]>>>,
    pub(crate) addresses: watch::Sender<Arc<[Multiaddr]>>,
}

struct Stranger {
    peer: PeerId,
    since: Instant,
}

/// The task's state.
pub(crate) struct Engine {
    swarm: Swarm<Behaviour>,
    key: Keypair,
    node: NodeName,
    credentials: CredentialWatch,
    revocations: RevocationList,
    directory: Directory,
    paths: Paths,
    relays: Relays,
    relaying: relaying::Relaying,
    own: own::Own,
    waiting: HashMap<PeerId, Vec<Caller>>,
    strangers: HashMap<ConnectionId, Stranger>,
    /// Peers that were found near but are not known, and when they were asked to introduce themselves.
    asked: HashMap<PeerId, Instant>,
    exchanges: JoinSet<Exchanged>,
    outlets: Outlets,
    /// A relay without other addresses is reachable where it listens, or it would be no relay.
    tells_listeners: bool,
    /// When [`Engine::work`] is to be done.
    due: Instant,
    /// The same time by both clocks, so that users see dates.
    epoch: (Instant, SystemTime),
}

impl Engine {
    pub(crate) fn new(swarm: Swarm<Behaviour>, key: Keypair, config: Config, outlets: Outlets) -> Self {
        let peer = key.public().to_peer_id();
        Self {
            swarm,
            key,
            tells_listeners: config.relay && config.external.is_empty(),
            directory: Directory::new(config.node.clone()),
            node: config.node,
            revocations: config.credentials.revocations().clone(),
            credentials: config.credentials,
            paths: Paths::new(peer, config.relay),
            relays: Relays::default(),
            relaying: relaying::Relaying::new(config.relay, config.relays),
            own: own::Own::new(config.relay),
            waiting: HashMap::new(),
            strangers: HashMap::new(),
            asked: HashMap::new(),
            exchanges: JoinSet::new(),
            outlets,
            due: Instant::now(),
            epoch: (Instant::now(), SystemTime::now()),
        }
    }

    /// The addresses that were bound before the task began.
    pub(crate) fn bound(&mut self, addresses: Vec<Multiaddr>) {
        for address in addresses {
            self.listens(address, Instant::now());
        }
    }

    fn listens(&mut self, address: Multiaddr, now: Instant) {
        if self.tells_listeners && !paths::is_circuit(&address) {
            self.swarm.add_external_address(address.clone());
        }
        self.own.listens(address, now);
    }

    /// Runs until told to stop, or until all handles are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let now = Instant::now();
            if now >= self.due {
                self.work(now);
                self.due = self.paths.next(now).min(self.own.next(now));
            }
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event, Instant::now()),
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => break,
                    Some(command) => self.on_command(command, Instant::now()),
                },
                Some(Ok(done)) = self.exchanges.join_next(), if !self.exchanges.is_empty() => self.on_exchanged(done, Instant::now()),
                () = self.credentials.changed() => self.recheck(Instant::now()),
                () = self.revocations.changed() => self.recheck(Instant::now()),
                () = tokio::time::sleep_until(self.due.into()) => {}
            }
        }
        self.close_all().await;
        // Sockets are free when whoever asked for the end is told.
        drop(self);
        drop(commands);
    }

    /// Says goodbye to the peers, so that they need not wait for silence.
    async fn close_all(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let goodbye = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), goodbye).await;
    }

    /// Does whatever is due.
    fn work(&mut self, now: Instant) {
        self.end_strangers(now);
        self.plan_relays(now);
        let streams = &self.swarm.behaviour().gate.streams;
        let used = |connection| streams.load(connection).map_or((0, 0), |load| (load.streams(), load.reads()));
        for action in self.paths.plan(now, used) {
            match action {
                paths::Action::Dial { peer, class, addresses } => self.dial(peer, class, addresses, now),
                paths::Action::Exchange { peer, connection } => self.ask(peer, connection, Protocol::Candidates),
                paths::Action::Close { connection, .. } => {
                    self.swarm.close_connection(connection);
                }
            }
        }
        self.give_up_hopeless();
        self.publish_record(now);
        self.publish_status();
    }

    fn dial(&mut self, peer: PeerId, class: Class, addresses: Vec<Multiaddr>, now: Instant) {
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        let connection = options.connection_id();
        self.paths.dialling(&peer, class, connection);
        if let Err(error) = self.swarm.dial(options) {
            self.paths.dial_failed(&peer, connection, reason_of(&error), now);
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        self.due = now;
        match command {
            Command::Open { node, reply } => self.open(node, reply, now),
            Command::Connect(node) => {
                if let Some(peer) = self.directory.record(&node).map(|record| record.peer_id) {
                    self.paths.want(&peer, now);
                }
            }
            Command::SetRecords { records, reply } => {
                let (changes, refused) = self.directory.set(&records, &self.credentials);
                self.apply(changes, now);
                let _ = reply.send(refused);
            }
            Command::Revoke { node, reply } => {
                let changes = self.directory.revoke(&node);
                self.apply(changes, now);
                let _ = reply.send(());
            }
            Command::SetRelays(relays) => self.relaying.set(relays),
            Command::NetworkChanged => self.paths.network_changed(now),
            Command::Stop => {}
        }
    }

    /// The certificate, the CAs or the revocations have changed.
    fn recheck(&mut self, now: Instant) {
        let changes = self.directory.recheck(&self.credentials);
        self.apply(changes, now);
        self.own.touch(now);
        self.due = now;
    }

    /// Makes connections follow the directory: those of peers that are not known any more end now.
    fn apply(&mut self, changes: Changes, now: Instant) {
        for peer in changes.gone {
            self.swarm.behaviour_mut().gate.expel(&peer);
            self.paths.forget(&peer);
            self.relays.disconnected(&peer);
            let _ = self.swarm.disconnect_peer_id(peer);
            self.waiting.remove(&peer).unwrap_or_default().into_iter().for_each(Caller::unknown);
            tracing::info!(%peer, "peer is not known any more");
        }
        for peer in changes.come {
            let Some(record) = self.directory.node(&peer).and_then(|node| self.directory.record(node)) else {
                continue;
            };
            self.swarm.behaviour_mut().gate.admit(peer, record.node.clone());
            self.paths.know(peer, record.addresses.clone(), now);
            let strange: Vec<ConnectionId> =
                self.strangers.iter().filter(|(_, stranger)| stranger.peer == peer).map(|(id, _)| *id).collect();
            for connection in strange {
                // It stays a stranger's; the next one is a member's.
                self.swarm.close_connection(connection);
                self.paths.want(&peer, now);
            }
        }
        self.relaying.touch();
    }

    fn end_strangers(&mut self, now: Instant) {
        let late = self.strangers.iter().filter(|(_, stranger)| now >= stranger.since + exchange::DEADLINE);
        let late: Vec<ConnectionId> = late.map(|(id, _)| *id).collect();
        for connection in late {
            self.swarm.close_connection(connection);
        }
    }
}

/// Why a dial failed, in one line.
fn reason_of(error: &DialError) -> String {
    let text = match error {
        DialError::Transport(errors) => errors
            .iter()
            .map(|(address, error)| format!("{address}: {}", skerry_common::chain(error)))
            .collect::<Vec<_>>()
            .join("; "),
        other => skerry_common::chain(other).to_string(),
    };
    text.chars().take(MAX_REASON).collect()
}

/// Longest reason that is kept, in characters; a dial of many addresses has many.
const MAX_REASON: usize = 400;
