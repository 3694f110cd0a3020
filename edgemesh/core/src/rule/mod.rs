//! DestinationRules (`networking.istio.io`): how the connections of a Service are spread and guarded.
//!
//! Read by the table, used by the balancer. Honoured is what EdgeMesh honours (`simple` RANDOM and ROUND_ROBIN,
//! `consistentHash` by header and by source address), and LEAST_REQUEST, LEAST_CONN, `outlierDetection`,
//! `connectionPool.tcp`, `localityLbSetting.enabled`, `proxyProtocol` and `portLevelSettings`. Whatever else a
//! rule says has no effect and is listed in [`DestinationRule::warnings`], for an Event on the rule; nothing that
//! a rule holds can fail but that it is no JSON object. Limits: [`MAX_WARNINGS`], [`MAX_PORT_SETTINGS`].

mod fields;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use skerry_common::Key;

use crate::table::ProxyProtocol;

/// Most warnings that a rule keeps: an Event holds 1 KiB of text, and the first few say what is wrong.
pub const MAX_WARNINGS: usize = 16;
/// Most ports with settings of their own in a rule; a Service has at most 100 ports.
pub const MAX_PORT_SETTINGS: usize = 100;
/// Longest name of a header to hash by. HTTP has no limit; this is several times what is in use.
pub const MAX_HEADER_NAME: usize = 128;

/// What a connection's endpoint is chosen by, among those of the nearest tier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// In turn.
    #[default]
    RoundRobin,
    /// By chance.
    Random,
    /// The less busy of two that are drawn.
    LeastRequest,
    /// The same for the same client, as long as it is there and not overloaded.
    ConsistentHash(HashKey),
}

/// What [`Policy::ConsistentHash`] recognises a client by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// Its address, without the port.
    SourceIp,
    /// The value of a header of its first HTTP request; the name is in lower case.
    Header(Arc<str>),
}

/// When an endpoint that fails is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row that eject it; 0: never.
    pub consecutive_failures: u32,
    /// Its first ejection; the n-th in a row lasts n times that.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// Most endpoints that are ejected at a time, in percent; one may always be.
    pub max_ejection_percent: u8,
    /// When fewer endpoints than this percentage are healthy, ejections do not count.
    pub min_health_percent: u8,
}

impl Default for OutlierDetection {
    /// What holds without a rule: passive health also where the cloud cannot say who is ready.
    fn default() -> Self {
        Self {
            // Istio's.
            consecutive_failures: 5,
            // Istio's 30 s keep a backend that only restarted away too long; a retry costs one connection.
            base_ejection: Duration::from_secs(5),
            // Envoy's.
            max_ejection: Duration::from_secs(300),
            // Istio's 10 % would keep the second of two backends in use after it has died.
            max_ejection_percent: 50,
            min_health_percent: 0,
        }
    }
}

/// Limits of connections to a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    /// Most connections at a time to each endpoint from this node.
    pub max_connections: Option<u32>,
    /// How long to wait for a connection.
    pub connect_timeout: Option<Duration>,
    /// How long a connection may be silent.
    pub idle_timeout: Option<Duration>,
    /// TCP keepalive.
    pub keepalive: Option<Keepalive>,
}

/// `tcpKeepalive`; what is not set is the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Probes without an answer before the connection is dead.
    pub probes: Option<u32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// `trafficPolicy`, or what `portLevelSettings` put in its place for a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// How endpoints are chosen; `None`: the rule does not say.
    pub balance: Option<Policy>,
    /// Whether near ones come first; `None`: the rule does not say.
    pub nearest_first: Option<bool>,
    /// When endpoints are ejected; `None`: the rule does not say.
    pub outliers: Option<OutlierDetection>,
    /// Limits of connections.
    pub pool: ConnectionPool,
    /// PROXY header on request.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A rule that has been read. See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    /// Namespace and name.
    pub key: Key,
    /// The object's uid, for Events.
    pub uid: Arc<str>,
    /// The Service that it is for; `None`: its host names none that it may be for.
    pub service: Option<Key>,
    /// For all ports.
    pub traffic: Traffic,
    /// Instead of `traffic`, for these ports of the Service.
    pub ports: BTreeMap<u16, Traffic>,
    /// What has no effect, at most [`MAX_WARNINGS`].
    pub warnings: Vec<Warning>,
}

impl DestinationRule {
    /// What holds for a port of the Service.
    #[must_use]
    pub fn for_port(&self, port: u16) -> &Traffic {
        self.ports.get(&port).unwrap_or(&self.traffic)
    }
}

/// A part of a rule that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it is, such as `spec.trafficPolicy.tls`.
    pub field: String,
    /// Why it has none.
    pub reason: Reason,
}

/// Why a part of a rule has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The mesh does not do it.
    Unsupported,
    /// Not a value that this field takes.
    Invalid,
    /// A rule may only be for a Service of its own namespace.
    Foreign,
    /// There are more of them than the mesh takes.
    TooMany,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::Unsupported => "is not supported and has no effect",
            Reason::Invalid => "has a value that it cannot have, and no effect",
            Reason::Foreign => "names a Service of another namespace and has no effect",
            Reason::TooMany => "has too many entries; the last ones have no effect",
        };
        write!(f, "{} {why}", self.field)
    }
}

pub(crate) use parse::parse;
