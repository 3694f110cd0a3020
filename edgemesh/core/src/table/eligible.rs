//! Which endpoints of a port may serve a connection, before any is chosen.
//!
//! Called by the proxy for each connection and by the wiring for each kernel rule, so both agree. As kube-proxy
//! has it: ready ones; if there are none, those that still serve while they end; with a policy of `Local`, only
//! this node's, and none if it has none. Kept: the order by address.

use super::model::{Endpoint, Family, Service, TrafficPolicy};

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A pod or process of the cluster, to the ClusterIP.
    Inside,
    /// Through an external address or a node port.
    Outside,
}

impl Service {
    /// The endpoints of port number `index` that may serve a connection on the node `node`.
    #[must_use]
    pub fn eligible(&self, index: usize, family: Family, from: Origin, node: &str) -> Vec<Endpoint> {
        let Some(endpoints) = self.endpoints.get(index) else { return Vec::new() };
        let policy = match from {
            Origin::Inside => self.spec.internal_policy,
            Origin::Outside => self.spec.external_policy,
        };
        let here = |endpoint: &&Endpoint| {
            policy == TrafficPolicy::Cluster || endpoint.host.node.as_deref().is_some_and(|on| on == node)
        };
        let all = || endpoints.of(family).iter().filter(here);
        let ready: Vec<_> = all().filter(|e| e.host.ready || self.spec.publish_not_ready).cloned().collect();
        if ready.is_empty() { all().filter(|e| e.host.serving && e.host.terminating).cloned().collect() } else { ready }
    }
}
