//! What a flow is, and the question who serves it.
//!
//! [`Choose`] is asked once for each connection or UDP flow, on the task that serves it, and is told what became
//! of each endpoint that it named. It decides from what is in memory: it must not block or wait. The proxy keeps
//! no state about endpoints itself.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_mesh_core::{Header, Protocol, ProxyProtocol};

use crate::dial::DialError;

/// Where a client wanted to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// To an address, as it was before it was redirected.
    Address(SocketAddr),
    /// To a port of a node, over SOCKS5.
    Node(NodeName, u16),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Node(node, port) => write!(f, "{node}:{port}"),
        }
    }
}

/// One connection, or the datagrams between two addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Where the client wanted to go.
    pub destination: Destination,
}

/// What the client has said so far.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its first bytes; of UDP its first datagram.
    pub bytes: &'a [u8],
    /// Whether [`Choice::Peek`] can get more.
    pub more: bool,
}

/// Where a candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At an address that this node reaches itself.
    Local(SocketAddr),
    /// At another node, through the tunnel.
    Node {
        /// That node.
        node: NodeName,
        /// What it is to do.
        header: Header,
    },
}

/// An endpoint that may serve a flow.
#[derive(Debug, Clone)]
pub struct Candidate<E> {
    /// The chooser's own name for it, which comes back with the feedback.
    pub endpoint: E,
    /// Where it is.
    pub target: Target,
}

/// How a flow is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Until a candidate is connected, over all attempts.
    pub connect: Duration,
    /// Longest silence of a connection of which an end has not said anything yet; at first of both.
    pub silent: Duration,
    /// Longest silence of a connection on which both ends have spoken, and of a UDP flow.
    pub idle: Duration,
    /// Longest silence when one end has finished and the other has not.
    pub half_open: Duration,
    /// Tells a backend at an address who its client is. For one at another node this is in the header.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Policy {
    /// The policy of TCP where the user has said nothing.
    pub const TCP: Self = Self {
        // Two lost SYNs, and the slowest relay.
        connect: Duration::from_secs(10),
        // Clients of databases connect before they need it.
        silent: Duration::from_secs(15 * 60),
        // As long as conntrack's neighbours: what is dead is noticed by keep-alive much sooner.
        idle: Duration::from_secs(4 * 3600),
        // conntrack's time for FIN_WAIT.
        half_open: Duration::from_secs(120),
        proxy_protocol: None,
    };
    /// The policy of UDP where the user has said nothing: conntrack's time for a stream of datagrams.
    pub const UDP: Self = Self { idle: Duration::from_secs(120), ..Self::TCP };
}

/// Who may serve a flow, best first, and how.
#[derive(Debug, Clone)]
pub struct Plan<E> {
    /// At most eight are tried.
    pub candidates: Vec<Candidate<E>>,
    /// How.
    pub policy: Policy,
}

/// Why nobody serves a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unserved {
    /// The destination is no Service of the mesh.
    NoService,
    /// The Service has no endpoint that is ready.
    NoEndpoint,
    /// All endpoints have as many connections as they may have, or are ejected.
    Exhausted,
    /// The client may not go there.
    Denied,
}

impl Unserved {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::NoEndpoint => "no_endpoint",
            Self::Exhausted => "exhausted",
            Self::Denied => "denied",
        }
    }
}

/// The answer of [`Choose::choose`].
#[derive(Debug, Clone)]
pub enum Choice<E> {
    /// These serve it.
    Serve(Plan<E>),
    /// The first bytes decide; ask again with more of them. Refused as [`Unserved::Denied`] when there are no more.
    Peek,
    /// Nobody does.
    Refuse(Unserved),
}

/// What became of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// It could not be reached.
    Failed {
        /// Why.
        error: DialError,
        /// Since the attempt began.
        after: Duration,
    },
    /// It serves the flow, which counts as in flight from now on.
    Connected {
        /// Since the attempt began.
        after: Duration,
    },
    /// The flow is over. Comes once for each `Connected`, also when the flow was cancelled.
    Closed {
        /// Since it was connected.
        after: Duration,
        /// Whether the endpoint, or the way to it, broke it off.
        broken: bool,
    },
}

/// Decides who serves a flow.
pub trait Choose: Send + Sync + 'static {
    /// Its name for an endpoint.
    type Endpoint: Clone + fmt::Debug + Send + Sync + 'static;

    /// Who serves this flow. `seen` is empty at first.
    fn choose(&self, flow: &Flow, seen: Seen<'_>) -> Choice<Self::Endpoint>;

    /// What became of an endpoint that it named.
    fn feedback(&self, endpoint: &Self::Endpoint, feedback: Feedback);
}
