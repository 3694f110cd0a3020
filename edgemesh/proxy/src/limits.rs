//! Every bound of this crate that does not come with a flow's policy, with its reason.
//!
//! [`Limits`] are those that an operator may change; the constants are those that nobody has to.

use std::time::Duration;

/// Bounds of one proxy. The defaults suit a node of a small site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, redirected ones and those of SOCKS5 together. One more is reset at once, so that its
    /// client knows, and costs the others nothing.
    pub connections: usize,
    /// Streams of other nodes at once, over all nodes. One more is answered `busy`, and the caller tries the next.
    pub streams: usize,
    /// UDP flows at once. For one more, the flow that has been idle for the longest time ends.
    pub flows: usize,
    /// Mark (`SO_MARK`) of connections to backends, by which rules can leave them alone. Needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
    /// Whether each connection that ends is written to the log.
    pub access_log: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Above the 10,000 of a busy node, below the 20,000 descriptors that a service may have open.
            connections: 12_000,
            streams: 12_000,
            // Each may hold a socket; a DNS client behind one address makes hundreds.
            flows: 4_096,
            mark: None,
            access_log: false,
        }
    }
}

/// Connections that wait to be accepted; the kernel takes no more than `somaxconn`.
pub(crate) const BACKLOG: i32 = 4_096;
/// Rest after an accept that failed for want of descriptors or memory: others shall get some back.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Candidates that are tried for one flow; further ones would only make it wait.
pub(crate) const MAX_ATTEMPTS: usize = 8;
/// Head start of an attempt in the local network, as RFC 8305 has it.
pub(crate) const STAGGER_LOCAL: Duration = Duration::from_millis(250);
/// Head start of an attempt through the tunnel, which takes two round trips across sites.
pub(crate) const STAGGER_NODE: Duration = Duration::from_secs(1);
/// Bytes of a client that a choice may look at: a head of HTTP/1 as servers take it.
pub(crate) const MAX_PEEK: usize = 8 * 1024 - 2;
/// How long a choice waits for these bytes. A client whose protocol lets the server speak first waits as long.
pub(crate) const PEEK_DEADLINE: Duration = Duration::from_secs(1);
/// How long another node may take to say what it wants.
pub(crate) const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// How long another node may take to read our reply of two bytes.
pub(crate) const REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// Receive buffer of a UDP listener: some ten milliseconds of a fast link while the listener's task waits for its
/// turn. What does not fit is dropped by the kernel.
pub(crate) const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Datagrams of one flow that wait for its backend; further ones are dropped, as a full link drops them.
pub(crate) const FLOW_QUEUE: usize = 128;
/// Bytes that wait in all flows together.
pub(crate) const QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// How long the datagrams of a flow that nobody serves are dropped without asking again.
pub(crate) const UNSERVED_HOLD: Duration = Duration::from_secs(1);
/// Sockets that send answers from addresses of Services, one for each address: as many as there are UDP Services.
pub(crate) const MAX_REPLY_SOCKETS: usize = 1_024;
