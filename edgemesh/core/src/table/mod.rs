//! The table of Services, their endpoints, Nodes and DestinationRules.
//!
//! One task owns a [`TableBuilder`] and applies changes of objects; everybody else holds a [`Table`], a snapshot
//! that never changes. A snapshot shares all that has not changed since the last one, so it costs a few
//! reference counts, and a change of one EndpointSlice costs that slice, its Service, and a copy of the map of
//! Services if a snapshot is out.
//!
//! Invariants: the table is a function of the objects, not of the order in which they came; an object that
//! cannot be read leaves what was there; nothing is removed but by a deletion. Limits: [`MAX_OBJECTS`] of each
//! kind and those in `parse.rs`; at a limit a new object is refused by name, the others go on. There is nothing
//! to lose in a crash: the objects come again.

mod builder;
#[cfg(test)]
mod builder_tests;
mod eligible;
mod error;
mod filter;
mod index;
mod model;
mod parse;
#[cfg(test)]
mod parse_tests;
mod range;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use skerry_common::{Key, NodeName};

pub use builder::{Effect, MAX_OBJECTS, TableBuilder};
pub use eligible::Origin;
pub use error::{Malformed, Rejected};
pub use filter::{EDGEMESH_PROXY_NAME, Filter, SERVICE_PROXY_NAME};
pub use index::Via;
use index::{Addresses, Hosts, Locals};
pub use model::{
    Distribution, Endpoint, Family, Host, MESH_PREFIX, Node, PROXY_PROTOCOL_ANNOTATION, PortEndpoints, PortSpec,
    Protocol, ProxyProtocol, Service, ServiceKind, ServiceSpec, TrafficPolicy,
};
pub use parse::{MAX_ADDRESSES, MAX_BODY, MAX_PORTS, MAX_SLICE_ENDPOINTS};
pub use range::{IpRange, RangeError};

/// A snapshot. See the module documentation.
#[derive(Debug, Clone)]
pub struct Table {
    generation: u64,
    node: NodeName,
    services: Arc<BTreeMap<Key, Arc<Service>>>,
    nodes: Arc<BTreeMap<Arc<str>, Arc<Node>>>,
    node_ips: Arc<BTreeMap<IpAddr, Arc<str>>>,
    addresses: Arc<Addresses>,
    hosts: Arc<Hosts>,
    locals: Arc<Locals>,
}

/// A port of a Service that was found by an address.
#[derive(Debug, Clone)]
pub struct Match {
    /// The Service.
    pub service: Arc<Service>,
    /// Which of `service.spec.ports`.
    pub port: usize,
    /// By what kind of address.
    pub via: Via,
    /// Of the address; only endpoints of this family can serve it.
    pub family: Family,
}

impl Match {
    /// The port's own entry.
    #[must_use]
    pub fn spec(&self) -> Option<&PortSpec> {
        self.service.spec.ports.get(self.port)
    }

    /// The endpoints that may serve a connection on the node.
    #[must_use]
    pub fn eligible(&self, node: &str) -> Vec<Endpoint> {
        let origin = if self.via == Via::ClusterIp { Origin::Inside } else { Origin::Outside };
        self.service.eligible(self.port, self.family, origin, node)
    }
}

impl Table {
    /// Grows with each change; equal generations of one builder are the same table.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The node that the table is for.
    #[must_use]
    pub fn node_name(&self) -> &NodeName {
        &self.node
    }

    /// Our own Node, once it is known.
    #[must_use]
    pub fn own_node(&self) -> Option<&Arc<Node>> {
        self.nodes.get(self.node.as_str())
    }

    /// The port of a Service that the mesh carries at this virtual address: ClusterIP, then LoadBalancer, then
    /// external address. Not node ports: see [`Table::service_by_node_port`].
    #[must_use]
    pub fn service_by_address(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<Match> {
        self.found(Some(ip.to_canonical()), port, protocol, Family::of(ip.to_canonical()))
    }

    /// The port of a Service that the mesh carries at this port of the node's own addresses. The caller knows
    /// which these are.
    #[must_use]
    pub fn service_by_node_port(&self, port: u16, protocol: Protocol, family: Family) -> Option<Match> {
        self.found(None, port, protocol, family)
    }

    fn found(&self, ip: Option<IpAddr>, port: u16, protocol: Protocol, family: Family) -> Option<Match> {
        let claim = self.addresses.find(ip, port, protocol)?;
        let service = self.services.get(&claim.service)?.clone();
        Some(Match { service, port: claim.port, via: claim.via, family })
    }

    /// A Service by its names, whether the mesh carries it or not.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(&Key::new(namespace, name))
    }

    /// All Services by key.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Whether there is a Service in the namespace: what tells a name that does not exist from one without data.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = Key::new(namespace, "");
        self.services.range(first..).next().is_some_and(|(key, _)| *key.namespace == *namespace)
    }

    /// The Service whose ClusterIP this is, for PTR. Also one that the mesh does not carry.
    #[must_use]
    pub fn service_by_cluster_ip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.addresses.cluster_ip(ip.to_canonical()).and_then(|key| self.services.get(key))
    }

    /// The Services that have an endpoint with this address, with it, for PTR; by key.
    pub fn hosts_by_ip(&self, ip: IpAddr) -> impl Iterator<Item = (&Arc<Service>, &Arc<Host>)> {
        let ip = ip.to_canonical();
        self.hosts.services(ip).filter_map(move |key| {
            let service = self.services.get(key)?;
            let at = service.hosts.binary_search_by_key(&ip, |host| host.ip).ok()?;
            Some((service, service.hosts.get(at)?))
        })
    }

    /// A Node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All Nodes by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The Node that has this internal or external address.
    #[must_use]
    pub fn node_by_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.node_ips.get(&ip.to_canonical()).and_then(|name| self.nodes.get(name))
    }

    /// Whether this is an endpoint, on our own node, of a Service that the mesh carries: the only addresses that
    /// another node may reach through the tunnel.
    #[must_use]
    pub fn is_local_endpoint(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.locals.has(protocol, SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}
