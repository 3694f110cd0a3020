//! How the network of a node is set up.

use std::path::PathBuf;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use skerry_common::NodeName;
use skerry_identity::CredentialWatch;

use crate::limits;

/// What [`crate::Net::start`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeName,
    /// File of the node's key. It is made when it is not there; its directory must exist.
    pub key_file: PathBuf,
    /// The node's certificate, the CAs that peers' records must lead to, and what is revoked.
    pub credentials: CredentialWatch,
    /// Where to listen: `/ip4/0.0.0.0/udp/20006/quic-v1`, `/ip4/0.0.0.0/tcp/20006`,
    /// `/ip4/0.0.0.0/tcp/443/ws`.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach this node although it does not listen on them: port forwardings.
    pub external: Vec<Multiaddr>,
    /// Whether this node relays for others. It must be reachable at its addresses.
    pub relay: bool,
    /// Relays to use, beside the nodes whose records say that they relay.
    pub relays: Vec<Relay>,
    /// Whether to look for peers, and be found, by multicast in the LAN.
    pub mdns: bool,
    /// Whether to ask the router for a port by UPnP.
    pub upnp: bool,
    /// Most connections, at most [`crate::MAX_CONNECTIONS`].
    pub max_connections: u32,
    /// Memory of this process in bytes above which new connections are refused: less than the container's limit.
    pub max_memory: Option<usize>,
}

impl Config {
    /// A node that listens on every address with QUIC and TCP on `port`, does not relay, and looks around by mDNS and
    /// UPnP.
    pub fn new(node: NodeName, key_file: PathBuf, credentials: CredentialWatch, port: u16) -> Self {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let any = [Multiaddr::from(Ipv4Addr::UNSPECIFIED), Multiaddr::from(Ipv6Addr::UNSPECIFIED)];
        let listen = any
            .into_iter()
            .flat_map(|ip| [ip.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1), ip.with(Protocol::Tcp(port))])
            .collect();
        Self {
            node,
            key_file,
            credentials,
            listen,
            external: Vec::new(),
            relay: false,
            relays: Vec::new(),
            mdns: true,
            upnp: true,
            max_connections: limits::MAX_CONNECTIONS,
            max_memory: None,
        }
    }
}

/// A relay that the operator names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relay {
    /// A node; its record says where it is.
    Node(NodeName),
    /// An address, with or without `/p2p` and its PeerId. Without, whoever answers must introduce itself.
    Address(Multiaddr),
}

/// The PeerId at the end of an address, and the address without it.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => (address.with(other), None),
        None => (address, None),
    }
}
