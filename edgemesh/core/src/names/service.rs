//! Names of one Service: itself, its ports, its endpoints.

use std::net::IpAddr;

use super::answer::{ENDPOINT_TTL, Found, TTL};
use super::question::{Data, Kind, MAX_RECORDS, Record};
use crate::{Endpoint, Host, Service, ServiceKind};

/// Shares of this among all targets; as CoreDNS gives them.
const WEIGHTS: usize = 100;

/// What is known of `rest` below a Service, whose labels come from the right. `base` is the Service's own name.
pub(super) fn answer(service: &Service, rest: &[&str], kind: Kind, base: &str, name: &str) -> Found {
    if let ServiceKind::ExternalName(target) = &service.spec.kind {
        return if rest.is_empty() { Found::Alias(target.to_string()) } else { Found::Nothing };
    }
    // A headless Service is its endpoints: without them there is no such name (specification 2.4.1).
    if is_headless(service) && ready(service).next().is_none() {
        return Found::Nothing;
    }
    match rest {
        [] if kind == Kind::Srv => ports(service, |_, _| true, base, name),
        [] if is_headless(service) => {
            let hosts = ready(service).map(|host| host.ip).filter(|ip| kind.has(*ip)).take(MAX_RECORDS);
            Found::addresses(name, ENDPOINT_TTL, kind, hosts)
        }
        [] => Found::addresses(name, TTL, kind, service.spec.cluster_ips.iter().copied()),
        [protocol] if protocol.starts_with('_') => {
            let named = |(port, _): (&crate::PortSpec, _)| {
                !port.name.is_empty() && Some(port.protocol.as_str()) == protocol.strip_prefix('_')
            };
            Found::empty_if(service.ports().any(named))
        }
        [protocol, port] => {
            let (Some(protocol), Some(port)) = (protocol.strip_prefix('_'), port.strip_prefix('_')) else {
                return Found::Nothing;
            };
            let wanted =
                |name: &str, over: &str| !name.is_empty() && name.eq_ignore_ascii_case(port) && over == protocol;
            match ports(service, wanted, base, name) {
                Found::Records(records, _) if records.is_empty() => Found::Nothing,
                found if kind == Kind::Srv => found,
                _ => Found::EMPTY,
            }
        }
        [label] => {
            let mut hosts = ready(service).filter(|host| endpoint_label(host) == *label).peekable();
            if hosts.peek().is_none() {
                return Found::Nothing;
            }
            if kind == Kind::Srv {
                return endpoint_ports(service, label, name);
            }
            let ips = hosts.map(|host| host.ip).filter(|ip| kind.has(*ip)).take(MAX_RECORDS);
            Found::addresses(name, ENDPOINT_TTL, kind, ips)
        }
        _ => Found::Nothing,
    }
}

/// The name of an endpoint below its Service: its hostname, or its address with dashes.
pub(super) fn endpoint_label(host: &Host) -> String {
    match (&host.hostname, host.ip) {
        (Some(hostname), _) => hostname.to_string(),
        (None, IpAddr::V4(ip)) => ip.to_string().replace('.', "-"),
        (None, IpAddr::V6(ip)) => ip.to_string().replace(':', "-"),
    }
}

/// Endpoints that have names.
fn ready(service: &Service) -> impl Iterator<Item = &Host> {
    service.hosts.iter().map(|host| &**host).filter(|host| is_ready(service, host))
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.kind == ServiceKind::Headless
}

/// Whether an endpoint has a name.
pub(super) fn is_ready(service: &Service, host: &Host) -> bool {
    host.ready || service.spec.publish_not_ready
}

/// SRV of ports whose name and protocol are wanted.
fn ports(service: &Service, wanted: impl Fn(&str, &str) -> bool, base: &str, name: &str) -> Found {
    let ports = service.ports().filter(|(port, _)| wanted(&port.name, port.protocol.as_str()));
    if is_headless(service) {
        let endpoints = ports.flat_map(|(_, endpoints)| endpoints.iter());
        return targets(service, endpoints, base, name);
    }
    let srv: Vec<_> = ports.map(|(port, _)| (port.port, base.to_owned())).collect();
    let addresses = service.spec.cluster_ips.iter().map(|ip| Record::address(base, TTL, *ip)).collect();
    Found::Records(records(name, TTL, srv), addresses)
}

/// SRV of all ports of one endpoint.
fn endpoint_ports(service: &Service, label: &str, name: &str) -> Found {
    let base = name.split_once('.').map_or(name, |(_, base)| base);
    let endpoints = service.ports().flat_map(|(_, endpoints)| endpoints.iter());
    targets(service, endpoints.filter(|endpoint| endpoint_label(&endpoint.host) == label), base, name)
}

/// SRV of endpoints: each is a target of its own, at the port where it listens.
fn targets<'s>(service: &'s Service, endpoints: impl Iterator<Item = &'s Endpoint>, base: &str, name: &str) -> Found {
    let mut srv = Vec::new();
    let mut addresses = Vec::new();
    for endpoint in endpoints.filter(|endpoint| is_ready(service, &endpoint.host)).take(MAX_RECORDS) {
        let target = format!("{}.{base}", endpoint_label(&endpoint.host));
        addresses.push((target.clone(), endpoint.host.ip));
        srv.push((endpoint.address.port(), target));
    }
    // Endpoints of several ports, or with one hostname.
    addresses.sort();
    addresses.dedup();
    srv.sort();
    srv.dedup();
    let addresses = addresses.iter().map(|(target, ip)| Record::address(target, ENDPOINT_TTL, *ip)).collect();
    Found::Records(records(name, ENDPOINT_TTL, srv), addresses)
}

fn records(name: &str, ttl: u32, srv: Vec<(u16, String)>) -> Vec<Record> {
    let weight = u16::try_from(WEIGHTS / srv.len().max(1)).unwrap_or(1).max(1);
    let record =
        |(port, target)| Record { name: name.into(), ttl, data: Data::Srv { priority: 0, weight, port, target } };
    srv.into_iter().map(record).collect()
}
