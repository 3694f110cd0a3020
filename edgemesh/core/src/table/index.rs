//! What finds Services by address. Owned by the builder, shared by snapshots.
//!
//! Two Services may claim one address (`externalIPs` are anybody's to write). The claims are kept in an order
//! that does not depend on when they came: a ClusterIP before what is not the API server's to give, then by
//! key. So nobody can take another's ClusterIP, and a claim that goes leaves the next one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use skerry_common::Key;

use super::model::{Endpoint, Host, Protocol, Service};

/// What kind of address led to a Service; in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Its ClusterIP.
    ClusterIp,
    /// An ingress address of its LoadBalancer.
    LoadBalancer,
    /// One of its `externalIPs`.
    ExternalIp,
    /// A port of the node's own addresses.
    NodePort,
}

/// A Service's claim of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) via: Via,
    pub(super) service: Key,
    pub(super) port: usize,
}

/// `None` for the address: any of the node's own.
type Address = (Option<IpAddr>, u16, Protocol);

/// Services by virtual address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    claims: HashMap<Address, Vec<Claim>>,
    /// Also of Services that the mesh does not carry.
    cluster_ips: HashMap<IpAddr, Vec<Key>>,
}

impl Addresses {
    pub(super) fn find(&self, ip: Option<IpAddr>, port: u16, protocol: Protocol) -> Option<&Claim> {
        self.claims.get(&(ip, port, protocol))?.first()
    }

    pub(super) fn cluster_ip(&self, ip: IpAddr) -> Option<&Key> {
        self.cluster_ips.get(&ip)?.first()
    }

    pub(super) fn add(&mut self, service: &Service) {
        for (address, claim) in claims(service) {
            insert(self.claims.entry(address).or_default(), claim);
        }
        for ip in &service.spec.cluster_ips {
            insert(self.cluster_ips.entry(*ip).or_default(), service.key().clone());
        }
    }

    pub(super) fn remove(&mut self, service: &Service) {
        for (address, claim) in claims(service) {
            take(&mut self.claims, &address, &claim);
        }
        for ip in &service.spec.cluster_ips {
            take(&mut self.cluster_ips, ip, service.key());
        }
    }
}

fn claims(service: &Service) -> Vec<(Address, Claim)> {
    let spec = &service.spec;
    if !spec.proxied {
        return Vec::new();
    }
    let virtuals = [
        (Via::ClusterIp, &spec.cluster_ips),
        (Via::LoadBalancer, &spec.load_balancer_ips),
        (Via::ExternalIp, &spec.external_ips),
    ];
    let mut claims = Vec::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let mut claim = |ip, number, via| {
            claims.push(((ip, number, port.protocol), Claim { via, service: spec.key.clone(), port: index }));
        };
        for (via, ips) in virtuals {
            for ip in ips {
                claim(Some(*ip), port.port, via);
            }
        }
        if let Some(number) = port.node_port {
            claim(None, number, Via::NodePort);
        }
    }
    claims
}

/// Keeps the list sorted and each entry once.
fn insert<T: Ord>(list: &mut Vec<T>, value: T) {
    if let Err(at) = list.binary_search(&value) {
        list.insert(at, value);
    }
}

fn take<K: std::hash::Hash + Eq, T: Ord>(map: &mut HashMap<K, Vec<T>>, key: &K, value: &T) {
    if let Some(list) = map.get_mut(key) {
        if let Ok(at) = list.binary_search(value) {
            list.remove(at);
        }
        if list.is_empty() {
            map.remove(key);
        }
    }
}

/// Services by the addresses of their endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<IpAddr, Vec<Key>>);

impl Hosts {
    pub(super) fn services(&self, ip: IpAddr) -> impl Iterator<Item = &Key> {
        self.0.get(&ip).into_iter().flatten()
    }

    pub(super) fn add(&mut self, key: &Key, host: &Host) {
        insert(self.0.entry(host.ip).or_default(), key.clone());
    }

    pub(super) fn remove(&mut self, key: &Key, host: &Host) {
        take(&mut self.0, &host.ip, key);
    }
}

/// What other nodes may reach on ours, with the number of ports of Services that have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Locals(HashMap<(Protocol, SocketAddr), usize>);

impl Locals {
    pub(super) fn has(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.0.contains_key(&(protocol, address))
    }

    pub(super) fn add(&mut self, protocol: Protocol, endpoint: &Endpoint) {
        *self.0.entry((protocol, endpoint.address)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, protocol: Protocol, endpoint: &Endpoint) {
        let key = (protocol, endpoint.address);
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}
