//! The Node object, from facts to JSON. No IO.
//!
//! Called by the node's task. Types, reasons and messages of conditions are the kubelet's, so that
//! tools and people read them as they are used to; `CloudConnected` is ours. A condition keeps its
//! time of transition while its status stays.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::facts::Machine;
use crate::config::Config;
use crate::eviction::Pressure;
use crate::objects::Link;

/// The Kubernetes version whose node behaviour this is, with our own after it.
const KUBELET_VERSION: &str = concat!("v1.33.0-skerry.", env!("CARGO_PKG_VERSION"));
/// Images in the status; more would make it large.
pub(super) const MAX_IMAGES: usize = 50;
/// Names of one of them.
pub(super) const MAX_NAMES: usize = 5;
const ROLE: &str = "node-role.kubernetes.io/edge";

/// Everything that the status shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) machine: Machine,
    pub(super) addresses: Vec<String>,
    pub(super) capacity: BTreeMap<String, Quantity>,
    pub(super) allocatable: BTreeMap<String, Quantity>,
    pub(super) pressure: Pressure,
    /// `containerd://1.6.20`.
    pub(super) runtime: String,
    /// Why the runtime is not well; empty when it is.
    pub(super) trouble: String,
    /// Of the kubelet API.
    pub(super) port: Option<u16>,
    pub(super) link: Option<Link>,
    pub(super) images: Vec<ContainerImage>,
}

/// The Node as it wants to be registered, without status.
pub(super) fn registration(config: &Config, machine: &Machine) -> Node {
    let name = config.node_name.to_string();
    let mut labels = config.labels.clone();
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    set("kubernetes.io/hostname", &name);
    set("kubernetes.io/os", "linux");
    set("kubernetes.io/arch", &machine.architecture);
    set("beta.kubernetes.io/os", "linux");
    set("beta.kubernetes.io/arch", &machine.architecture);
    set(ROLE, "");
    let taints: Vec<Taint> = config
        .taints
        .iter()
        .map(|t| Taint {
            key: t.key.clone(),
            value: Some(t.value.clone()).filter(|v| !v.is_empty()),
            effect: t.effect.clone(),
            time_added: None,
        })
        .collect();
    Node {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() }),
        status: None,
    }
}

/// The status at `now`; conditions of `before` keep their times.
pub(super) fn status(view: &View, before: Option<&NodeStatus>, now: jiff::Timestamp) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> =
        view.addresses.iter().map(|a| NodeAddress { type_: "InternalIP".into(), address: a.clone() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: view.machine.hostname.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(view.capacity.clone()),
        allocatable: Some(view.allocatable.clone()),
        conditions: Some(conditions(view, before, now)),
        daemon_endpoints: view
            .port
            .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: port.into() }) }),
        images: Some(view.images.clone()),
        node_info: Some(NodeSystemInfo {
            architecture: view.machine.architecture.clone(),
            boot_id: view.machine.boot_id.clone(),
            container_runtime_version: view.runtime.clone(),
            kernel_version: view.machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: view.machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: view.machine.os_image.clone(),
            swap: view.machine.swap_bytes.map(|b| NodeSwapStatus { capacity: Some(b) }),
            system_uuid: view.machine.system_uuid.clone(),
        }),
        ..NodeStatus::default()
    }
}

fn conditions(view: &View, before: Option<&NodeStatus>, now: jiff::Timestamp) -> Vec<NodeCondition> {
    let old = before.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str, status: &str, reason: &str, message: String| {
        let same = old.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time::from(now)),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(Time::from(now))),
        }
    };
    let p = view.pressure;
    let pressure = |kind: &str, has: bool, bad: &str, good: &str, what: &str| {
        if has {
            condition(kind, "True", bad, format!("kubelet has {what}"))
        } else {
            condition(
                kind,
                "False",
                good,
                format!(
                    "kubelet has {}",
                    what.replacen("insufficient", "sufficient", 1).replacen("disk pressure", "no disk pressure", 1)
                ),
            )
        }
    };
    let mut all = vec![
        pressure(
            "MemoryPressure",
            p.memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "insufficient memory available",
        ),
        pressure("DiskPressure", p.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk pressure"),
        pressure(
            "PIDPressure",
            p.pids,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "insufficient PID available",
        ),
    ];
    all.push(if view.trouble.is_empty() {
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status".into())
    } else {
        condition("Ready", "False", "KubeletNotReady", view.trouble.clone())
    });
    if let Some(link) = &view.link {
        let problem = link.store_problem.as_deref().filter(|p| !p.is_empty());
        let with_problem = |text: String| problem.map_or(text.clone(), |p| format!("{text}; {p}"));
        all.push(match (link.connected, problem) {
            (true, Some(_)) => condition("CloudConnected", "True", "StoreDamaged", with_problem("connected".into())),
            (true, None) => condition("CloudConnected", "True", "Connected", "connected".into()),
            (false, _) => condition("CloudConnected", "False", "Disconnected", with_problem(link.reason.clone())),
        });
    }
    all
}

/// Whether the cloud has written the node off: it sets Ready to Unknown when it hears nothing.
pub(crate) fn is_given_up(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "Unknown")
}

/// Without what changes by itself: times of heartbeats.
pub(super) fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view() -> View {
        View {
            machine: Machine { hostname: "h".into(), architecture: "amd64".into(), ..Machine::default() },
            addresses: vec!["10.0.0.1".into()],
            capacity: BTreeMap::new(),
            allocatable: BTreeMap::new(),
            pressure: Pressure::default(),
            runtime: "containerd://1".into(),
            trouble: String::new(),
            port: Some(10_250),
            link: Some(Link { connected: true, ..Link::default() }),
            images: Vec::new(),
        }
    }

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    fn find(status: &NodeStatus, kind: &str) -> NodeCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap().clone()
    }

    #[test]
    fn conditions_keep_their_transition_until_they_change() {
        let first = status(&view(), None, at(1));
        let second = status(&view(), Some(&first), at(100));
        assert_eq!(find(&second, "Ready").last_transition_time, Some(Time::from(at(1))));
        assert_eq!(find(&second, "Ready").last_heartbeat_time, Some(Time::from(at(100))));
        assert!(same(&first, &second));
        let down = View { trouble: "container runtime is down".into(), ..view() };
        let third = status(&down, Some(&second), at(200));
        let ready = find(&third, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("KubeletNotReady")));
        assert_eq!(ready.last_transition_time, Some(Time::from(at(200))));
        assert!(!same(&second, &third));
    }

    #[test]
    fn messages_are_the_kubelets() {
        let good = status(&view(), None, at(1));
        let text = |s: &NodeStatus, k: &str| find(s, k).message.unwrap();
        assert_eq!(text(&good, "MemoryPressure"), "kubelet has sufficient memory available");
        assert_eq!(text(&good, "DiskPressure"), "kubelet has no disk pressure");
        assert_eq!(text(&good, "PIDPressure"), "kubelet has sufficient PID available");
        let pressure = Pressure { memory: true, disk: true, pids: true };
        let bad = status(&View { pressure, ..view() }, None, at(1));
        assert_eq!(text(&bad, "MemoryPressure"), "kubelet has insufficient memory available");
        assert_eq!(text(&bad, "DiskPressure"), "kubelet has disk pressure");
    }

    #[test]
    fn a_damaged_store_is_said_beside_the_link() {
        let link = Link { connected: true, store_problem: Some("rebuilt".into()), ..Link::default() };
        let status = status(&View { link: Some(link), ..view() }, None, at(1));
        let condition = find(&status, "CloudConnected");
        assert_eq!(condition.reason.as_deref(), Some("StoreDamaged"));
        assert!(condition.message.unwrap().contains("rebuilt"));
    }
}
