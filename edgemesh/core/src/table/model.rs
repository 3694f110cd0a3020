//! What the table holds: Services, their ports and endpoints, Nodes.
//!
//! Values only, shared by [`Arc`] and never changed: whoever holds one may keep it as long as it likes. Texts
//! and lists come from objects that the API server has bounded, and are bounded again where they are read
//! (`parse.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use skerry_common::Key;

use super::range::IpRange;
use crate::rule::DestinationRule;

/// A transport protocol that the mesh carries. Ports of others (SCTP) are left out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As DNS SRV names and log lines have it: `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address family. Endpoints of one never serve a virtual address of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a Service is to its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has virtual addresses (ClusterIP, NodePort and LoadBalancer).
    ClusterIp,
    /// `clusterIP: None`: a name for its endpoints.
    Headless,
    /// A name for another name, lower case, without the dot at the end.
    ExternalName(Arc<str>),
}

/// Which endpoints traffic may go to (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Any.
    #[default]
    Cluster,
    /// Those on the node that the client came to; none if there are none.
    Local,
}

/// `trafficDistribution`, and the annotation `service.kubernetes.io/topology-mode` before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// The Service says nothing.
    #[default]
    Unset,
    /// `PreferSameZone`, `PreferClose` or topology-mode `Auto`.
    PreferSameZone,
    /// `PreferSameNode`.
    PreferSameNode,
}

/// The header that tells a backend who its client is, on request (annotation [`PROXY_PROTOCOL_ANNOTATION`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
}

/// Annotation of a Service: `v1` or `v2` makes the mesh begin each connection with that PROXY header.
pub const PROXY_PROTOCOL_ANNOTATION: &str = "mesh.skerry.io/proxy-protocol";

/// A port of a Service, as its spec has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Empty when it has no name; unique in its Service.
    pub name: Arc<str>,
    /// What it carries.
    pub protocol: Protocol,
    /// At the virtual addresses.
    pub port: u16,
    /// At each node's own addresses.
    pub node_port: Option<u16>,
    /// `appProtocol`, as it is.
    pub app_protocol: Option<Arc<str>>,
}

/// What a Service's own object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Namespace and name.
    pub key: Key,
    /// The object's uid.
    pub uid: Arc<str>,
    /// What it is to its clients.
    pub kind: ServiceKind,
    /// One for each family; empty when headless, ExternalName, or not allocated yet.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// LoadBalancer ingress addresses that are handled on the node (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Whom LoadBalancer addresses serve; empty: everybody.
    pub source_ranges: Vec<IpRange>,
    /// Its ports; may be empty when headless.
    pub ports: Vec<PortSpec>,
    /// Of traffic from inside, to the ClusterIP.
    pub internal_policy: TrafficPolicy,
    /// Of traffic from outside, to other addresses.
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// Which endpoints it prefers.
    pub distribution: Distribution,
    /// `publishNotReadyAddresses`: endpoints count before they are ready.
    pub publish_not_ready: bool,
    /// Whether the mesh carries its traffic; else another proxy does, and only its names are answered.
    pub proxied: bool,
    /// PROXY header on request.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Where a Service's endpoint is, and how it is: an endpoint of an EndpointSlice without its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub ip: IpAddr,
    /// `hostname`: a DNS label, for the names of pods of StatefulSets.
    pub hostname: Option<Arc<str>>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
    /// The Pod behind it (`targetRef`).
    pub pod: Option<Key>,
    /// Zones whose clients it shall serve (`hints.forZones`).
    pub zone_hints: Vec<Arc<str>>,
    /// Nodes whose clients it shall serve (`hints.forNodes`).
    pub node_hints: Vec<Arc<str>>,
    /// May be given new connections.
    pub ready: bool,
    /// Answers, maybe while it ends.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
}

/// Something that serves a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where and how it is.
    pub host: Arc<Host>,
}

/// The endpoints of a port of a Service, of both families, sorted by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortEndpoints {
    /// IPv4.
    pub v4: Arc<[Endpoint]>,
    /// IPv6.
    pub v6: Arc<[Endpoint]>,
}

impl PortEndpoints {
    /// Those of one family.
    #[must_use]
    pub fn of(&self, family: Family) -> &Arc<[Endpoint]> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Those of both families.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.v4.iter().chain(self.v6.iter())
    }
}

/// A Service with what serves it. A change makes a new one, so [`Arc::ptr_eq`] tells whether it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What its object says.
    pub spec: Arc<ServiceSpec>,
    /// Every address behind it, sorted, whatever its ports.
    pub hosts: Arc<[Arc<Host>]>,
    /// One for each of `spec.ports`, in their order.
    pub endpoints: Vec<PortEndpoints>,
    /// The DestinationRule for it.
    pub rule: Option<Arc<DestinationRule>>,
}

impl Service {
    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.spec.key
    }

    /// The ports with their endpoints.
    pub fn ports(&self) -> impl Iterator<Item = (&PortSpec, &PortEndpoints)> {
        self.spec.ports.iter().zip(&self.endpoints)
    }
}

/// A Node, as far as the mesh is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// The object's uid.
    pub uid: Arc<str>,
    /// `InternalIP` addresses, in their order.
    pub internal_ips: Vec<IpAddr>,
    /// `ExternalIP` addresses, in their order.
    pub external_ips: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Networks of its pods.
    pub pod_cidrs: Vec<IpRange>,
    /// Labels and annotations whose name begins with [`MESH_PREFIX`]; an annotation wins over a label.
    pub mesh: BTreeMap<Arc<str>, Arc<str>>,
}

/// Prefix of labels and annotations of Nodes that are the mesh's own.
pub const MESH_PREFIX: &str = "mesh.skerry.io/";
