//! Ports of the host that a pod wants and another one has. Part of [`super`].

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::{Candidate, Refusal};
use crate::pod::spec::{PodExt, is_sidecar};

pub(super) fn free(c: &Candidate<'_>) -> Option<Refusal> {
    let taken: Vec<&ContainerPort> = c.others.iter().flat_map(|pod| host_ports(pod)).collect();
    let conflict = host_ports(c.pod).any(|wanted| taken.iter().any(|other| conflicts(wanted, other)));
    conflict.then(|| Refusal::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let ports = pod.containers().iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports.filter(|p| p.host_port.is_some_and(|port| port > 0))
}

fn conflicts(a: &ContainerPort, b: &ContainerPort) -> bool {
    let protocol = |p: &ContainerPort| p.protocol.clone().unwrap_or_else(|| "TCP".into());
    let every = ["", "0.0.0.0"];
    let ip = |p: &ContainerPort| p.host_ip.clone().unwrap_or_default();
    let (first, second) = (ip(a), ip(b));
    let same_ip = first == second || every.contains(&first.as_str()) || every.contains(&second.as_str());
    a.host_port == b.host_port && protocol(a) == protocol(b) && same_ip
}
