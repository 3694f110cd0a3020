//! What a pod needs from a node, read once from the pod: resources, ports, owner.
//!
//! Pure. Sums follow Kubernetes: containers add up; init containers run one after the other beside the
//! sidecars started before them; overhead is added.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pods::controller_of;
use skerry_common::quantity;

/// What a pod without a cpu request counts as when nodes are compared, in thousandths.
const ASSUMED_CPU: i64 = 100;
/// What a pod without a memory request counts as when nodes are compared, in bytes.
const ASSUMED_MEMORY: i64 = 200 << 20;

/// Amounts of resources: cpu in thousandths, everything else in units (memory in bytes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    /// Ephemeral storage and extended resources.
    pub(crate) other: BTreeMap<Arc<str>, i64>,
}

impl Amounts {
    /// Reads a resource list; what is not a quantity counts as nothing.
    pub(crate) fn parse(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut out = Self::default();
        for (name, Quantity(text)) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => out.cpu = quantity::milli(text).unwrap_or(0),
                "memory" => out.memory = quantity::units(text).unwrap_or(0),
                "pods" => {}
                _ => {
                    out.other.insert(name.as_str().into(), quantity::units(text).unwrap_or(0));
                }
            }
        }
        out
    }

    pub(crate) fn add(&mut self, more: &Self, sign: i64) {
        self.cpu = self.cpu.saturating_add(more.cpu.saturating_mul(sign));
        self.memory = self.memory.saturating_add(more.memory.saturating_mul(sign));
        for (name, amount) in &more.other {
            let have = self.other.entry(name.clone()).or_insert(0);
            *have = have.saturating_add(amount.saturating_mul(sign));
        }
    }

    fn at_least(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        for (name, amount) in &other.other {
            let have = self.other.entry(name.clone()).or_insert(0);
            *have = (*have).max(*amount);
        }
    }
}

/// A port of the host: protocol, address ("" is all), number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: Arc<str>,
    pub(crate) ip: Arc<str>,
    pub(crate) port: i32,
}

impl HostPort {
    /// Can both be open on one host?
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// The needs of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) amounts: Amounts,
    /// The same for comparing nodes: pods without requests are not free.
    pub(crate) scored: (i64, i64),
    pub(crate) ports: Vec<HostPort>,
    /// The uid of the controlling owner.
    pub(crate) owner: Option<Arc<str>>,
    /// Has the pod required anti-affinity?
    pub(crate) repels: bool,
}

fn requests(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    // Without a request the limit counts as the request (the API server's defaulting).
    let mut amounts = Amounts::parse(resources.and_then(|r| r.limits.as_ref()));
    let set = resources.and_then(|r| r.requests.as_ref());
    let asked = Amounts::parse(set);
    let has = |name: &str| set.is_some_and(|s| s.contains_key(name));
    if has("cpu") {
        amounts.cpu = asked.cpu;
    }
    if has("memory") {
        amounts.memory = asked.memory;
    }
    amounts.other.extend(asked.other);
    amounts
}

impl Need {
    /// The needs of `pod`.
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let mut amounts = Amounts::default();
        let mut scored = (0_i64, 0_i64);
        for container in &spec.containers {
            let r = requests(container);
            scored.0 = scored.0.saturating_add(if r.cpu == 0 { ASSUMED_CPU } else { r.cpu });
            scored.1 = scored.1.saturating_add(if r.memory == 0 { ASSUMED_MEMORY } else { r.memory });
            amounts.add(&r, 1);
        }
        let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
        for container in spec.init_containers.iter().flatten() {
            let mut r = requests(container);
            if container.restart_policy.as_deref() == Some("Always") {
                amounts.add(&r, 1);
                sidecars.add(&r, 1);
                peak.at_least(&sidecars);
            } else {
                r.add(&sidecars, 1);
                peak.at_least(&r);
            }
        }
        amounts.at_least(&peak);
        amounts.add(&Amounts::parse(spec.overhead.as_ref()), 1);
        scored = (scored.0.max(amounts.cpu), scored.1.max(amounts.memory));
        let host_network = spec.host_network == Some(true);
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports = containers.flat_map(|c| c.ports.iter().flatten()).filter_map(|p| {
            let port = p.host_port.or(host_network.then_some(p.container_port)).filter(|p| *p > 0)?;
            Some(HostPort {
                protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                ip: p.host_ip.as_deref().unwrap_or_default().into(),
                port,
            })
        });
        Self {
            amounts,
            scored,
            ports: ports.collect(),
            owner: controller_of(&pod.metadata).map(|o| o.uid.as_str().into()),
            repels: super::peers::repels(pod),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn need(spec: Value) -> Need {
        Need::of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn c(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn sums_follow_kubernetes() {
        for (spec, cpu) in [
            (json!({"containers": [c("100m"), c("1")]}), 1100),
            (json!({"containers": [c("100m")], "initContainers": [c("2"), c("1")]}), 2000),
            (json!({"containers": [c("100m")], "overhead": {"cpu": "50m"}}), 150),
            (
                json!({"containers": [c("100m")], "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}}, c("1")]}),
                1300,
            ),
            (json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}), 2000),
            (
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]}),
                1000,
            ),
        ] {
            assert_eq!(need(spec.clone()).amounts.cpu, cpu, "{spec}");
        }
    }

    #[test]
    fn host_ports() {
        let spec = json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [
            {"containerPort": 80}, {"containerPort": 90, "hostPort": 91, "hostIP": "10.0.0.1", "protocol": "UDP"}]}]});
        let ports = need(spec).ports;
        assert_eq!(ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 91]);
        let port = |ip: &str, protocol: &str| HostPort { protocol: protocol.into(), ip: ip.into(), port: 1 };
        for (a, b, conflict) in [
            (port("", "TCP"), port("10.0.0.1", "TCP"), true),
            (port("10.0.0.2", "TCP"), port("10.0.0.1", "TCP"), false),
            (port("", "TCP"), port("", "UDP"), false),
            (port("0.0.0.0", "TCP"), port("10.0.0.1", "TCP"), true),
        ] {
            assert_eq!(a.conflicts(&b), conflict, "{a:?} {b:?}");
            assert_eq!(b.conflicts(&a), conflict);
        }
    }
}
