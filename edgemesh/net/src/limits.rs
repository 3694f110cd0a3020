//! Limits and times of libp2p's own parts, each with its reason. Ours stand where they are enforced.

use std::{num::NonZeroU8, time::Duration};

/// Handshakes of others at a time. A flood of them must not take all the processor.
pub const MAX_PENDING_INCOMING: u32 = 128;

/// Dials at a time. Each peer has at most two: one direct, one through relays.
pub const MAX_PENDING_OUTGOING: u32 = 512;

/// Connections with one peer: a direct and a relayed one in each direction, and the same again while they are replaced.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 8;

/// Connections in all. A relay of a large mesh has one or two per node.
pub const MAX_CONNECTIONS: u32 = 16_384;

/// Addresses of one dial that are tried at the same time.
pub(crate) const DIAL_CONCURRENCY: NonZeroU8 = NonZeroU8::MIN.saturating_add(15);

/// Between two pings of a connection; two of them fit into the silence after which a path counts as dead.
pub(crate) const PING_INTERVAL: Duration = Duration::from_millis(1_500);

/// How long a ping may take before another is sent in its place.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// QUIC's own limit for silence; the pings of libp2p are on top of it.
pub(crate) const QUIC_IDLE_MS: u32 = 5_000;

/// Between packets that keep QUIC's connection and the NAT's mapping.
pub(crate) const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(1_500);

/// A handshake or a dial of one address must end within this.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// Nodes that may have a reservation with one relay.
pub const RELAY_RESERVATIONS: usize = 4_096;

/// Reservations of one node: its connections may overlap while one is replaced.
pub const RELAY_RESERVATIONS_PER_PEER: usize = 4;

/// How long a reservation holds; libp2p's client renews it in time.
pub(crate) const RELAY_RESERVATION: Duration = Duration::from_secs(3_600);

/// Circuits through one relay.
pub const RELAY_CIRCUITS: usize = 8_192;

/// Circuits of one node through one relay: its peers.
pub const RELAY_CIRCUITS_PER_PEER: usize = 1_024;

/// A circuit is not cut for its age: 49 days, below what libp2p's field for it can hold.
pub(crate) const RELAY_CIRCUIT_DURATION: Duration = Duration::from_secs(4_294_967);

/// A circuit is not cut for its bytes.
pub(crate) const RELAY_CIRCUIT_BYTES: u64 = u64::MAX;
