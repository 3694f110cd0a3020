//! The network of the mesh: streams between nodes, wherever they are.
//!
//! [`Net`] is a handle; the libp2p swarm behind it runs in one task of its own ([`Net::start`]). Nodes are known by
//! their records, which are signed with their certificates and name a PeerId ([`NodeRecord`]); nobody else is let in,
//! and a record that is removed ends its node's connections at once. Between two nodes there is one connection with
//! many streams over the best path there is: within the LAN, direct, or through a relay while a better one is looked
//! for. Used by the mesh's agent, which passes streams on to services.
//!
//! What stays true:
//! - A peer is who its record says, or it cannot do anything but show one.
//! - Opening a stream ends by its deadline; no peer that is slow, gone or hostile holds up another.
//! - A stream's bytes arrive as they were sent, and its two directions end on their own.
//! - Connections, streams, strangers, waiting callers and queues are bounded by the constants that are exported here.
//!
//! When this process ends, its peers see their streams break, at the latest after 5 s; nothing is kept but the key.

mod behaviour;
mod config;
mod datagrams;
mod directory;
mod engine;
mod error;
mod exchange;
mod gate;
mod key;
mod limits;
mod net;
mod paths;
mod record;
mod relays;
mod status;
mod streams;
mod transport;
mod websocket;

pub use config::{Config, Relay};
pub use datagrams::{DatagramReceiver, DatagramSender, MAX_DATAGRAM, datagrams};
pub use directory::{MAX_INTRODUCED, MAX_NODES};
pub use engine::MAX_WAITING;
pub use error::{KeyError, NetError, OpenError, RecordError};
pub use gate::MAX_STRANGERS;
pub use libp2p::{Multiaddr, PeerId};
pub use limits::{
    MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, MAX_PENDING_INCOMING, MAX_PENDING_OUTGOING, RELAY_CIRCUITS,
    RELAY_CIRCUITS_PER_PEER, RELAY_RESERVATIONS, RELAY_RESERVATIONS_PER_PEER,
};
pub use net::{Inbound, Net, StatusChanges};
pub use record::{MAX_ADDRESSES, MAX_RECORD, NodeRecord};
pub use relays::{MAX_RELAYS, RESERVATIONS};
pub use status::{Path, PeerStatus};
pub use streams::{Accepted, MAX_ACCEPTED, MAX_STREAMS, Stream};
