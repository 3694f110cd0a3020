//! Our own protocols on libp2p connections: the data streams of applications, and two short exchanges.
//!
//! The part of the swarm that the rest of this crate uses to open streams on one chosen connection and that accepts
//! those of others; which connection is the best is not decided here. Instead of `libp2p-stream`, because that picks
//! the connection itself, may wait for ever for a peer that is not connected, and loses streams silently.
//!
//! A stream costs one place of its connection's [`MAX_STREAMS`] until both ends of it are dropped. An accepted stream
//! waits in one bounded queue for the application; when that is full the stream is reset, which its opener sees at once.

mod framed;
mod handler;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    PeerId,
    swarm::{ConnectionId, NotifyHandler, ToSwarm},
};
use skerry_common::NodeName;
use tokio::sync::{mpsc, oneshot};

pub(crate) use handler::Handler;
pub use stream::Stream;

/// Most streams of one connection, of both directions together. Each has buffers of some KiB at both ends, and a peer
/// must not be able to take more than some tens of MiB.
pub const MAX_STREAMS: usize = 4_000;

/// Streams that were accepted and wait for the application. It takes them in microseconds; a thousand at once is a
/// page with all its clients.
pub const MAX_ACCEPTED: usize = 1_024;

/// How long opening and negotiating one stream may take on a connection that works.
pub(crate) const NEGOTIATION: Duration = Duration::from_secs(5);

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Bytes of an application.
    Data,
    /// Records are exchanged: the only protocol that a stranger may speak.
    Hello,
    /// Addresses are exchanged, to find a direct path.
    Candidates,
}

impl Protocol {
    const MEMBER: &[Self] = &[Self::Data, Self::Hello, Self::Candidates];
    const STRANGER: &[Self] = &[Self::Hello];

    fn name(self) -> &'static str {
        match self {
            Self::Data => "/skerry/mesh/data/1",
            Self::Hello => "/skerry/mesh/hello/1",
            Self::Candidates => "/skerry/mesh/candidates/1",
        }
    }
}

/// A stream that a peer opened to us.
#[derive(Debug)]
pub struct Accepted {
    /// The node at the other end, as its verified record names it.
    pub from: NodeName,
    /// The stream.
    pub stream: Stream,
}

/// A request to open a stream; the answer goes straight from the connection's task to the caller.
pub(crate) struct Open {
    pub(crate) protocol: Protocol,
    pub(crate) reply: oneshot::Sender<Result<Stream, Refused>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.protocol).finish()
    }
}

/// Why a connection gave no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The connection has [`MAX_STREAMS`].
    Limit,
    /// The connection is going away, or the peer does not answer.
    Lost,
}

/// Bytes of applications to and from one peer, on all its connections since this process started.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Bytes {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// What happens on one connection, shared by its handler, its streams and whoever chooses paths.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Streams that are open.
    open: AtomicUsize,
    /// Reads that gave bytes, wrapping: a sign of life between two pings.
    reads: AtomicUsize,
}

impl Load {
    pub(crate) fn streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

/// Something that the engine must do.
#[derive(Debug)]
pub(crate) enum Event {
    /// The peer opened a stream for a short exchange.
    Exchange { peer: PeerId, connection: ConnectionId, protocol: Protocol, stream: Stream },
}

/// The streams of all connections.
pub(crate) struct Streams {
    accepted: mpsc::Sender<Accepted>,
    loads: HashMap<ConnectionId, Arc<Load>>,
    bytes: HashMap<PeerId, Arc<Bytes>>,
    todo: VecDeque<ToSwarm<Event, Open>>,
}

impl Streams {
    /// Streams whose accepted ones go to the returned queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Accepted>) {
        let (accepted, receiver) = mpsc::channel(MAX_ACCEPTED);
        (Self { accepted, loads: HashMap::new(), bytes: HashMap::new(), todo: VecDeque::new() }, receiver)
    }

    /// The handler of a new connection, of a member when its node is known.
    pub(crate) fn handler(&mut self, peer: PeerId, connection: ConnectionId, node: Option<NodeName>) -> Handler {
        let load = Arc::clone(self.loads.entry(connection).or_default());
        let bytes = match &node {
            Some(_) => Arc::clone(self.bytes.entry(peer).or_default()),
            None => Arc::default(),
        };
        Handler::new(node, self.accepted.clone(), load, bytes)
    }

    /// Forgets a connection that is closed or was never used.
    pub(crate) fn closed(&mut self, connection: ConnectionId) {
        self.loads.remove(&connection);
    }

    /// Forgets a peer that is no member any more.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.bytes.remove(peer);
    }

    /// How much a connection is used.
    pub(crate) fn load(&self, connection: ConnectionId) -> Option<&Arc<Load>> {
        self.loads.get(&connection)
    }

    /// The bytes of a peer.
    pub(crate) fn bytes(&mut self, peer: PeerId) -> &Arc<Bytes> {
        self.bytes.entry(peer).or_default()
    }

    /// Opens a stream on one connection.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, open: Open) {
        self.todo.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: open,
        });
    }

    pub(crate) fn on_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: handler::Inbound) {
        let handler::Inbound { protocol, stream } = event;
        self.todo.push_back(ToSwarm::GenerateEvent(Event::Exchange { peer, connection, protocol, stream }));
    }

    pub(crate) fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, Open>> {
        // The swarm is polled after every call that adds something here: both happen in the engine's task.
        self.todo.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
