//! Every limit of a gRPC server and client, in one place.
//!
//! [`ServerLimits`] and [`ClientLimits`] are plain data; services take the profile that fits
//! (`default()`, [`ServerLimits::hub`], [`ServerLimits::local`]) and tests shorten the times. The
//! reason of each default stands beside its constant. What happens at a limit is said at the field.

use std::time::Duration;

/// Largest message of `skerry.sync.v1`, in bytes. etcd refuses requests over 1.5 MiB, so every
/// object of a cluster fits with room for its envelope.
pub const SYNC_MESSAGE_BYTES: usize = 2 << 20;

/// Largest message of `skerry.dmi.v1`, in bytes: what gRPC clients take without being configured. A thousand
/// devices fit.
pub const DMI_MESSAGE_BYTES: usize = 4 << 20;

/// Largest message of every other service of ours, in bytes; larger things are sent in chunks.
pub const MESSAGE_BYTES: usize = 256 << 10;

/// Largest message of the container runtime interface, in bytes: the kubelet's own limit.
pub const CRI_MESSAGE_BYTES: usize = 16 << 20;

/// Bytes in front of each gRPC message: the compressed flag and the length.
pub(crate) const MESSAGE_PREFIX_BYTES: usize = 5;

/// HTTP/2 frame size; the smallest that the protocol allows, so that one frame delays others least.
pub(crate) const FRAME_BYTES: u32 = 16 << 10;

/// Streams that the peer reset before we accepted them; more is the rapid reset attack.
pub(crate) const PENDING_ACCEPT_RESETS: usize = 20;

/// Streams that we had to reset because of the peer's errors, per connection.
pub(crate) const LOCAL_ERROR_RESETS: usize = 1024;

/// First and last wait after the process ran out of descriptors or memory for `accept`.
pub(crate) const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);
/// See [`ACCEPT_BACKOFF_MIN`].
pub(crate) const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Connections that the kernel keeps for us before `accept`.
pub(crate) const LISTEN_BACKLOG: i32 = 1024;

/// How long sent bytes may stay unacknowledged before the kernel ends a TCP connection.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// TCP keepalive: idle time before the first probe, and between probes. HTTP/2 notices dead peers
/// earlier; this cleans up during handshakes.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// Length of the HTTP/2 client preface.
pub(crate) const PREFACE_BYTES: u64 = 24;

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections at a time; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// Connections of one address (IPv6: one /64) that have not shown a certificate; further ones
    /// are closed at once.
    pub max_unauthenticated_per_ip: usize,
    /// Connections of one identity; a further one closes the oldest.
    pub max_connections_per_identity: usize,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time from the handshake to the HTTP/2 preface.
    pub preface_timeout: Duration,
    /// Time from the handshake to the first request.
    pub first_request_timeout: Duration,
    /// A connection without an open stream is ended after this time.
    pub idle_timeout: Duration,
    /// A connection of a node or service on TCP from which no byte came for so long is closed. Such
    /// peers ping when they are silent (see [`ClientLimits::keepalive`]).
    pub dead_after: Duration,
    /// Pings towards TCP peers that do not ping by themselves (people's tools): interval, timeout.
    pub keepalive: (Duration, Duration),
    /// A connection that takes nothing for so long while there is something to send is closed.
    pub write_stall_timeout: Duration,
    /// How often the sweeper looks at all connections. The times above are exact to this.
    pub sweep_interval: Duration,
    /// Open streams per connection; further ones are refused by HTTP/2.
    pub max_streams: u32,
    /// Header list of one request, in bytes, as HTTP/2 counts it.
    pub max_header_list: u32,
    /// HTTP/2 receive window of a stream, in bytes.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection, in bytes.
    pub connection_window: u32,
    /// Bytes that one stream may have waiting to be sent.
    pub max_send_buffer: usize,
    /// Handlers that run at a time, until they return their response or its stream; further
    /// requests get `RESOURCE_EXHAUSTED`.
    pub max_in_flight: usize,
    /// Requests per second of one node, or of one address without a certificate, and how many may
    /// come at once; further ones get `RESOURCE_EXHAUSTED`.
    pub node_rate: Rate,
    /// Longest time of a unary request, also when the caller asks for more.
    pub unary_deadline: Duration,
    /// After the stop signal: how long handlers have to end their streams before rpc ends them with
    /// `UNAVAILABLE`. (When connections are cut is the drain's own deadline.)
    pub stream_grace: Duration,
}

/// A rate with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run.
    pub per_second: u32,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_unauthenticated_per_ip: 64,
            max_connections_per_identity: 64,
            handshake_timeout: Duration::from_secs(5),
            preface_timeout: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            dead_after: Duration::from_secs(14),
            keepalive: (Duration::from_secs(20), Duration::from_secs(10)),
            write_stall_timeout: Duration::from_secs(30),
            sweep_interval: Duration::from_millis(500),
            max_streams: 100,
            max_header_list: 8 << 10,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            max_send_buffer: 256 << 10,
            max_in_flight: 256,
            node_rate: Rate { per_second: 50, burst: 200 },
            unary_deadline: Duration::from_secs(60),
            stream_grace: Duration::from_secs(1),
        }
    }
}

impl ServerLimits {
    /// For the port that nodes connect to: many connections that are idle most of the time, so
    /// windows and stream counts are small.
    #[must_use]
    pub fn hub() -> Self {
        Self {
            max_connections: 65_536,
            max_connections_per_identity: 4,
            max_streams: 16,
            stream_window: 64 << 10,
            connection_window: 128 << 10,
            max_send_buffer: 64 << 10,
            // Handlers of nodes return their stream at once; only joins and renewals take longer.
            max_in_flight: 1024,
            ..Self::default()
        }
    }

    /// For unix sockets and pipes inside one machine: few connections.
    #[must_use]
    pub fn local() -> Self {
        Self { max_connections: 256, ..Self::default() }
    }
}

/// The limits of a client.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// Time for resolving, connecting and the TLS handshake together.
    pub connect_timeout: Duration,
    /// When an address did not answer for so long, the next one is tried beside it.
    pub fallback_delay: Duration,
    /// Try the addresses in random order, so that clients spread over replicas.
    pub shuffle: bool,
    /// Ping interval and time for the answer, also while nothing is asked; `None`: no pings. Only
    /// for servers of ours: others end connections that ping so often.
    pub keepalive: Option<(Duration, Duration)>,
    /// HTTP/2 receive window of a stream, in bytes.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection, in bytes.
    pub connection_window: u32,
    /// Bytes that one stream may have waiting to be sent.
    pub max_send_buffer: usize,
    /// Header list of one response, in bytes, as HTTP/2 counts it.
    pub max_header_list: u32,
    /// Open calls at a time; further ones get `RESOURCE_EXHAUSTED`.
    pub max_in_flight: usize,
    /// Deadline of a unary call that was given none by [`crate::deadline`].
    pub unary_deadline: Duration,
    /// First and last wait between attempts to connect (full jitter); calls fail at once meanwhile.
    pub reconnect_backoff: (Duration, Duration),
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            fallback_delay: Duration::from_millis(250),
            shuffle: false,
            keepalive: Some((Duration::from_secs(9), Duration::from_secs(5))),
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            max_send_buffer: 256 << 10,
            max_header_list: 16 << 10,
            max_in_flight: 1024,
            unary_deadline: Duration::from_secs(15),
            reconnect_backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

impl ClientLimits {
    /// For the one connection of a node to its hub: small windows.
    #[must_use]
    pub fn node() -> Self {
        Self {
            shuffle: true,
            stream_window: 128 << 10,
            connection_window: 256 << 10,
            max_send_buffer: 64 << 10,
            max_in_flight: 64,
            ..Self::default()
        }
    }

    /// For sockets and pipes of this machine: no pings, since the kernel tells when the peer ends,
    /// and a container runtime ends connections that ping often. Calls may take longer.
    #[must_use]
    pub fn local() -> Self {
        Self { keepalive: None, unary_deadline: Duration::from_secs(120), ..Self::default() }
    }
}

/// The largest message of a service, in bytes.
#[must_use]
pub fn max_message_bytes(service: &str) -> usize {
    if service.starts_with("skerry.sync.") {
        SYNC_MESSAGE_BYTES
    } else if service.starts_with("skerry.dmi.") {
        DMI_MESSAGE_BYTES
    } else if service.starts_with("runtime.") {
        CRI_MESSAGE_BYTES
    } else {
        MESSAGE_BYTES
    }
}
