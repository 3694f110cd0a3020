//! How near an endpoint is. Pure.

use super::Candidate;
use crate::table::{Endpoint, Node};

/// Nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// On the same node.
    Node,
    /// On a node that is reached over the LAN.
    Lan,
    /// In the same zone, or meant for clients of this zone (hints).
    Zone,
    /// Anywhere else.
    Rest,
}

impl Tier {
    /// All, nearest first.
    pub const ALL: [Self; 4] = [Self::Node, Self::Lan, Self::Zone, Self::Rest];
}

/// Where clients of this node are.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// The place of a Node, or of one that is known by name only.
    #[must_use]
    pub fn of(name: &'a str, node: Option<&'a Node>) -> Self {
        Self { node: name, zone: node.and_then(|node| node.zone.as_deref()) }
    }

    /// How near an endpoint is. `lan` tells whether a node is reached over the LAN.
    pub fn tier(&self, endpoint: &Endpoint, lan: impl Fn(&str) -> bool) -> Tier {
        let host = &endpoint.host;
        let on = host.node.as_deref();
        let hinted = |hints: &[std::sync::Arc<str>], ours: &str| hints.iter().any(|hint| &**hint == ours);
        if on == Some(self.node) || hinted(&host.node_hints, self.node) {
            Tier::Node
        } else if on.is_some_and(lan) {
            Tier::Lan
        } else if self.zone.is_some_and(|zone| host.zone.as_deref() == Some(zone) || hinted(&host.zone_hints, zone)) {
            Tier::Zone
        } else {
            Tier::Rest
        }
    }

    /// Endpoints as a balancer takes them, all of the same weight.
    pub fn candidates(&self, endpoints: Vec<Endpoint>, lan: impl Fn(&str) -> bool) -> Vec<Candidate> {
        let candidate = |endpoint| Candidate { tier: self.tier(&endpoint, &lan), endpoint, weight: 1 };
        endpoints.into_iter().map(candidate).collect()
    }
}
