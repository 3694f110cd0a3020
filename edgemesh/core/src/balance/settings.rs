//! What a balancer goes by: the Service's spec, its DestinationRule, and what the node's operator set for all.

use std::net::IpAddr;
use std::time::Duration;

use super::Client;
use crate::rule::{HashKey, OutlierDetection, Policy, Traffic};
use crate::table::{Distribution, Service};

/// What holds where neither the Service nor a rule says anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// The policy.
    pub policy: Policy,
    /// Whether near endpoints come first. EdgeMesh spreads over all.
    pub nearest_first: bool,
    /// When endpoints are ejected.
    pub outliers: OutlierDetection,
}

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How one of a tier is chosen.
    pub policy: Policy,
    /// Whether near endpoints come first.
    pub nearest_first: bool,
    /// When endpoints are ejected.
    pub outliers: OutlierDetection,
    /// Most connections at a time to each endpoint.
    pub max_connections: Option<u32>,
    /// How long a client stays with its endpoint after its last connection.
    pub affinity: Option<Duration>,
}

impl Settings {
    /// For port number `index` of a Service. A rule that says how to choose wins over the Service's session
    /// affinity if it hashes, because both want the same and the rule is more exact; else both hold.
    #[must_use]
    pub fn of(service: &Service, index: usize, defaults: &Defaults) -> Self {
        let port = service.spec.ports.get(index).map_or(0, |port| port.port);
        let none = Traffic::default();
        let rule = service.rule.as_ref().map_or(&none, |rule| rule.for_port(port));
        let policy = rule.balance.clone().unwrap_or_else(|| defaults.policy.clone());
        let hashes = matches!(rule.balance, Some(Policy::ConsistentHash(_)));
        let prefers = (service.spec.distribution != Distribution::Unset).then_some(true);
        Self {
            policy,
            nearest_first: rule.nearest_first.or(prefers).unwrap_or(defaults.nearest_first),
            outliers: rule.outliers.unwrap_or(defaults.outliers),
            max_connections: rule.pool.max_connections,
            affinity: service.spec.affinity.filter(|_| !hashes),
        }
    }

    pub(super) fn max_connections(&self) -> u32 {
        self.max_connections.unwrap_or(u32::MAX)
    }
}

/// What a client is recognised by; `None`: it did not send the header.
pub(super) fn hash_input(key: &HashKey, client: &Client<'_>) -> Option<u64> {
    match (key, client.ip.to_canonical()) {
        (HashKey::Header(_), _) => client.header.map(super::choose::hash),
        (HashKey::SourceIp, IpAddr::V4(ip)) => Some(super::choose::hash(&ip.octets())),
        (HashKey::SourceIp, IpAddr::V6(ip)) => Some(super::choose::hash(&ip.octets())),
    }
}
