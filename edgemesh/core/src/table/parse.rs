//! From the JSON of an object to what the table holds.
//!
//! Called by the builder for every upsert. Pure. Everything is checked here: ports, addresses, labels of DNS,
//! counts; an object with a fault is refused whole, because half an object would be wrong silently. What the
//! mesh does not carry (SCTP, FQDN slices, ports for all numbers) is left out, which is no fault.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use skerry_common::Key;

use super::error::Malformed;
use super::filter::Filter;
use super::model::{
    Distribution, Host, MESH_PREFIX, Node, PROXY_PROTOCOL_ANNOTATION, PortSpec, Protocol, ProxyProtocol, ServiceKind,
    ServiceSpec, TrafficPolicy,
};
use super::range::IpRange;

/// Most bytes of an object; the API server takes 1.5 MiB.
pub const MAX_BODY: usize = 2 * 1024 * 1024;
/// Most ports of a Service or an EndpointSlice; Kubernetes allows slices 100.
pub const MAX_PORTS: usize = 100;
/// Most endpoints of an EndpointSlice, as Kubernetes has it.
pub const MAX_SLICE_ENDPOINTS: usize = 1000;
/// Most addresses or networks in one list of an object (externalIPs, ingress, podCIDRs).
pub const MAX_ADDRESSES: usize = 64;
/// Most zones or nodes in the hints of an endpoint, as Kubernetes has it.
const MAX_HINTS: usize = 8;
/// Longest name of DNS in its text form.
const MAX_DNS_NAME: usize = 253;

/// `timeoutSeconds` of session affinity when it is not set, as Kubernetes has it.
const DEFAULT_AFFINITY: i32 = 10_800;
/// Longest session affinity, as Kubernetes has it.
const MAX_AFFINITY: i32 = 86_400;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const TOPOLOGY_MODE: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

type Texts = BTreeMap<String, String>;

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    /// The Service that it belongs to.
    pub(super) service: Key,
    pub(super) ports: Vec<SlicePort>,
    pub(super) hosts: Vec<Arc<Host>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// Reads a Service.
pub(super) fn service(key: &Key, body: &[u8], filter: Filter) -> Result<ServiceSpec, Malformed> {
    let object: core::Service = parse(body)?;
    let spec = object.spec.unwrap_or_default();
    let labels = object.metadata.labels.unwrap_or_default();
    let annotations = object.metadata.annotations.unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    let kind = if external_name {
        ServiceKind::ExternalName(dns_name(spec.external_name.as_deref().unwrap_or_default())?)
    } else if headless {
        ServiceKind::Headless
    } else {
        ServiceKind::ClusterIp
    };
    let mut ports = Vec::new();
    for port in at_most(MAX_PORTS, "spec.ports", spec.ports.unwrap_or_default())? {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let node_port = port.node_port.filter(|port| *port != 0).map(|port| number("nodePort", port)).transpose()?;
        let parsed = PortSpec {
            name: port.name.unwrap_or_default().into(),
            protocol,
            port: number("port", port.port)?,
            node_port,
            app_protocol: port.app_protocol.map(Into::into),
        };
        if ports.iter().any(|other: &PortSpec| other.name == parsed.name) {
            return Err(Malformed::Duplicate("spec.ports"));
        }
        ports.push(parsed);
    }
    let mut cluster_ips = Vec::new();
    let mut external_ips = Vec::new();
    let mut load_balancer_ips = Vec::new();
    if kind == ServiceKind::ClusterIp {
        let all = spec.cluster_ips.filter(|ips| !ips.is_empty()).or_else(|| spec.cluster_ip.map(|ip| vec![ip]));
        cluster_ips = addresses("spec.clusterIPs", all.unwrap_or_default())?;
        external_ips = addresses("spec.externalIPs", spec.external_ips.unwrap_or_default())?;
        let ingress = object.status.unwrap_or_default().load_balancer.unwrap_or_default().ingress.unwrap_or_default();
        let handled = ingress.into_iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip);
        load_balancer_ips = addresses("status.loadBalancer", handled.collect())?;
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.and_then(|config| config.client_ip);
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY);
        Duration::from_secs(u64::try_from(seconds.clamp(1, MAX_AFFINITY)).unwrap_or_default())
    });
    Ok(ServiceSpec {
        key: key.clone(),
        uid: object.metadata.uid.unwrap_or_default().into(),
        kind,
        cluster_ips,
        external_ips,
        load_balancer_ips,
        source_ranges: ranges("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges.unwrap_or_default())?,
        ports,
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity,
        distribution: distribution(spec.traffic_distribution.as_deref(), &annotations),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        proxied: filter.carries(&labels),
        proxy_protocol: match annotations.get(PROXY_PROTOCOL_ANNOTATION).map(String::as_str) {
            Some("v1") => Some(ProxyProtocol::V1),
            Some("v2") => Some(ProxyProtocol::V2),
            _ => None,
        },
    })
}

/// Reads an EndpointSlice. `None`: it belongs to no Service, or has names instead of addresses.
pub(super) fn slice(key: &Key, body: &[u8]) -> Result<Option<Slice>, Malformed> {
    let object: discovery::EndpointSlice = parse(body)?;
    let family = match object.address_type.as_str() {
        "IPv4" => super::Family::V4,
        "IPv6" => super::Family::V6,
        _ => return Ok(None),
    };
    let labels = object.metadata.labels.unwrap_or_default();
    let Some(service) = labels.get(SERVICE_NAME_LABEL) else { return Ok(None) };
    let service = Key::checked(&key.namespace, service).map_err(|_| Malformed::Name(SERVICE_NAME_LABEL))?;
    let mut ports = Vec::new();
    for port in at_most(MAX_PORTS, "ports", object.ports.unwrap_or_default())? {
        let (Some(protocol), Some(value)) = (protocol(port.protocol.as_deref()), port.port) else { continue };
        ports.push(SlicePort {
            name: port.name.unwrap_or_default().into(),
            protocol,
            port: number("ports[].port", value)?,
        });
    }
    // One text for all endpoints that are on a node or in a zone.
    let mut texts = Interner::default();
    let mut hosts = Vec::new();
    for endpoint in at_most(MAX_SLICE_ENDPOINTS, "endpoints", object.endpoints)? {
        // Kubernetes: consumers use the first address; all mean the same endpoint.
        let Some(address) = endpoint.addresses.first() else { continue };
        let ip = usable_ip("endpoints[].addresses", address)?;
        if super::Family::of(ip) != family {
            return Err(Malformed::Address("endpoints[].addresses"));
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        // Not said means ready, and serving is what ready is (EndpointConditions).
        let ready = conditions.ready.unwrap_or(true);
        let hints = endpoint.hints.unwrap_or_default();
        let zones = at_most(MAX_HINTS, "hints.forZones", hints.for_zones.unwrap_or_default())?;
        let nodes = at_most(MAX_HINTS, "hints.forNodes", hints.for_nodes.unwrap_or_default())?;
        hosts.push(Arc::new(Host {
            ip,
            hostname: endpoint.hostname.filter(|name| !name.is_empty()).map(|name| dns_label(&name)).transpose()?,
            node: endpoint.node_name.filter(|name| !name.is_empty()).map(|name| texts.get(name)),
            zone: endpoint.zone.filter(|zone| !zone.is_empty()).map(|zone| texts.get(zone)),
            pod: endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|target| {
                Key::checked(target.namespace.as_deref().unwrap_or(&key.namespace), target.name.as_deref()?).ok()
            }),
            zone_hints: zones.into_iter().map(|zone| texts.get(zone.name)).collect(),
            node_hints: nodes.into_iter().map(|node| texts.get(node.name)).collect(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or_default(),
        }));
    }
    Ok(Some(Slice { service, ports, hosts }))
}

/// Reads a Node.
pub(super) fn node(key: &Key, body: &[u8]) -> Result<Node, Malformed> {
    let object: core::Node = parse(body)?;
    let labels = object.metadata.labels.unwrap_or_default();
    let annotations = object.metadata.annotations.unwrap_or_default();
    let spec = object.spec.unwrap_or_default();
    let listed = object.status.unwrap_or_default().addresses.unwrap_or_default();
    let listed = at_most(MAX_ADDRESSES, "status.addresses", listed)?;
    let of = |kind: &str| {
        let ips = listed.iter().filter(|listed| listed.type_ == kind);
        ips.map(|listed| ip("status.addresses", &listed.address)).collect::<Result<Vec<_>, _>>()
    };
    let cidrs = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty()).or_else(|| spec.pod_cidr.map(|cidr| vec![cidr]));
    let mesh = labels.iter().chain(&annotations).filter(|(name, _)| name.starts_with(MESH_PREFIX));
    Ok(Node {
        name: key.name.clone(),
        uid: object.metadata.uid.unwrap_or_default().into(),
        internal_ips: of("InternalIP")?,
        external_ips: of("ExternalIP")?,
        zone: labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
        pod_cidrs: ranges("spec.podCIDRs", cidrs.unwrap_or_default())?,
        mesh: mesh.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    if body.len() > MAX_BODY {
        return Err(Malformed::TooMany { field: "bytes", most: MAX_BODY });
    }
    serde_json::from_slice(body).map_err(Malformed::Json)
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    if name == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn distribution(name: Option<&str>, annotations: &Texts) -> Distribution {
    let mode = TOPOLOGY_MODE.iter().find_map(|name| annotations.get(*name));
    match name {
        Some("PreferSameNode") => Distribution::PreferSameNode,
        Some("PreferClose" | "PreferSameZone") => Distribution::PreferSameZone,
        _ if mode.is_some_and(|mode| mode.eq_ignore_ascii_case("auto")) => Distribution::PreferSameZone,
        _ => Distribution::Unset,
    }
}

fn at_most<T>(most: usize, field: &'static str, list: Vec<T>) -> Result<Vec<T>, Malformed> {
    if list.len() > most { Err(Malformed::TooMany { field, most }) } else { Ok(list) }
}

fn number(field: &'static str, value: i32) -> Result<u16, Malformed> {
    u16::try_from(value).ok().filter(|port| *port != 0).ok_or(Malformed::Port(field))
}

fn addresses(field: &'static str, list: Vec<String>) -> Result<Vec<IpAddr>, Malformed> {
    let list = at_most(MAX_ADDRESSES, field, list)?;
    list.iter().filter(|text| !text.is_empty()).map(|text| usable_ip(field, text)).collect()
}

fn ranges(field: &'static str, list: Vec<String>) -> Result<Vec<IpRange>, Malformed> {
    let list = at_most(MAX_ADDRESSES, field, list)?;
    list.iter().map(|text| text.parse().map_err(|_| Malformed::Address(field))).collect()
}

fn ip(field: &'static str, text: &str) -> Result<IpAddr, Malformed> {
    text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| Malformed::Address(field))
}

/// An address that a service may have: Kubernetes forbids these for endpoints, and a virtual address that is
/// the node's own loopback would take the node's own traffic.
fn usable_ip(field: &'static str, text: &str) -> Result<IpAddr, Malformed> {
    let plain = ip(field, text)?;
    let local = match plain {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if plain.is_unspecified() || plain.is_loopback() || plain.is_multicast() || local {
        return Err(Malformed::Address(field));
    }
    Ok(plain)
}

fn dns_label(text: &str) -> Result<Arc<str>, Malformed> {
    // A key without dots is a label: lower case letters, digits and '-'.
    if text.len() <= 63 && !text.contains(['.', ':']) && Key::checked("", text).is_ok() {
        Ok(text.into())
    } else {
        Err(Malformed::Name("endpoints[].hostname"))
    }
}

fn dns_name(text: &str) -> Result<Arc<str>, Malformed> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= MAX_DNS_NAME && name.split('.').all(label) {
        Ok(name.into())
    } else {
        Err(Malformed::Name("spec.externalName"))
    }
}

/// Gives equal texts of one object the same memory.
#[derive(Default)]
struct Interner(BTreeMap<String, Arc<str>>);

impl Interner {
    fn get(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.0.get(&text) {
            return known.clone();
        }
        let shared: Arc<str> = text.as_str().into();
        self.0.insert(text, shared.clone());
        shared
    }
}
