//! libp2p's protocols as we use them: who is there (identify), alive (ping), reachable (AutoNAT v2, UPnP), near (mDNS),
//! and through whom (relay server and client, DCUtR).
//!
//! [`Behaviour`] is what the swarm runs: the limits first, then the [`Gate`], and behind that the [`Members`].

use libp2p::{
    PeerId, autonat, connection_limits, dcutr, identify,
    identity::Keypair,
    mdns, memory_connection_limits, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};

use crate::{Config, NetError, gate::Gate, limits, streams::Streams};

/// Told to peers that ask; says nothing about the machine.
const PROTOCOL: &str = "/skerry/mesh/1";

/// Everything that the swarm runs.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    connections: connection_limits::Behaviour,
    memory: Toggle<memory_connection_limits::Behaviour>,
    pub(crate) gate: Gate,
}

/// What only members of the mesh may use.
#[derive(NetworkBehaviour)]
pub(crate) struct Members {
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) relay: Toggle<relay::Behaviour>,
    pub(crate) circuits: relay::client::Behaviour,
    pub(crate) dcutr: dcutr::Behaviour,
    pub(crate) probe: autonat::v2::client::Behaviour,
    pub(crate) probes: autonat::v2::server::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
}

impl Behaviour {
    pub(crate) fn new(
        config: &Config,
        key: &Keypair,
        circuits: relay::client::Behaviour,
        streams: Streams,
    ) -> Result<Self, NetError> {
        let connections = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(limits::MAX_PENDING_INCOMING))
            .with_max_pending_outgoing(Some(limits::MAX_PENDING_OUTGOING))
            .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
            .with_max_established(Some(config.max_connections));
        let members = Members::new(config, key, circuits)?;
        Ok(Self {
            connections: connection_limits::Behaviour::new(connections),
            memory: config.max_memory.map(memory_connection_limits::Behaviour::with_max_bytes).into(),
            gate: Gate::new(members, streams),
        })
    }
}

impl Members {
    fn new(config: &Config, key: &Keypair, circuits: relay::client::Behaviour) -> Result<Self, NetError> {
        let peer = key.public().to_peer_id();
        let mdns = match config.mdns {
            true => Some(
                mdns::tokio::Behaviour::new(mdns::Config::default(), peer)
                    .map_err(|source| NetError::Setup { what: "mDNS", source: Box::new(source) })?,
            ),
            false => None,
        };
        Ok(Self {
            identify: identify::Behaviour::new(
                identify::Config::new(PROTOCOL.into(), key.public())
                    .with_agent_version("skerry".into())
                    .with_push_listen_addr_updates(true)
                    // Addresses come from records; a cache would keep those that were withdrawn.
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(limits::PING_INTERVAL).with_timeout(limits::PING_TIMEOUT),
            ),
            relay: config.relay.then(|| relay(peer)).into(),
            circuits,
            dcutr: dcutr::Behaviour::new(peer),
            probe: autonat::v2::client::Behaviour::default(),
            probes: autonat::v2::server::Behaviour::default(),
            mdns: mdns.into(),
            upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        })
    }
}

/// A relay for members. They are known one by one, so there are no rates per address: a whole site has one.
fn relay(peer: PeerId) -> relay::Behaviour {
    relay::Behaviour::new(
        peer,
        relay::Config {
            max_reservations: limits::RELAY_RESERVATIONS,
            max_reservations_per_peer: limits::RELAY_RESERVATIONS_PER_PEER,
            reservation_duration: limits::RELAY_RESERVATION,
            reservation_rate_limiters: Vec::new(),
            max_circuits: limits::RELAY_CIRCUITS,
            max_circuits_per_peer: limits::RELAY_CIRCUITS_PER_PEER,
            max_circuit_duration: limits::RELAY_CIRCUIT_DURATION,
            max_circuit_bytes: limits::RELAY_CIRCUIT_BYTES,
            circuit_src_rate_limiters: Vec::new(),
        },
    )
}
