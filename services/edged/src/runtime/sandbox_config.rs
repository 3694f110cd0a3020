//! A pod in the runtime's terms: the configuration of its sandbox. Pure.
//!
//! Called when a sandbox is created and, with the same result, with every container in it.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use skerry_proto::cri::v1::{
    DnsConfig, IdMapping, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};

use super::{dns, security};
use crate::pod::labels;
use crate::pod::spec::PodExt;
use crate::resources;

/// What the configuration needs besides the pod.
pub(crate) struct Surroundings<'a> {
    pub(crate) node: &'a str,
    pub(crate) log_dir: &'a Path,
    pub(crate) user_ids: Option<IdMapping>,
    pub(crate) cluster_dns: &'a dns::ClusterDns,
    pub(crate) host_dns: &'a DnsConfig,
    /// Empty: the runtime chooses.
    pub(crate) cgroup_parent: String,
}

/// Directory of a pod's logs, `<namespace>_<name>_<uid>`.
pub(crate) fn log_dir(root: &Path, pod: &Pod) -> std::path::PathBuf {
    root.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// See the module documentation.
pub(crate) fn build(pod: &Pod, attempt: u32, around: Surroundings<'_>) -> PodSandboxConfig {
    let host_network = pod.host_network();
    let context = pod.spec().security_context.as_ref();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        // A name that the kernel cannot take was refused before the sandbox was created.
        hostname: if host_network {
            String::new()
        } else {
            dns::hostname(pod, &around.cluster_dns.domain).unwrap_or_default()
        },
        log_directory: log_dir(around.log_dir, pod).display().to_string(),
        dns_config: Some(dns::of_pod(pod, around.cluster_dns, around.host_dns)),
        port_mappings: if host_network { Vec::new() } else { ports(pod) },
        labels: labels::of_sandbox(pod, around.node),
        annotations: pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: around.cgroup_parent,
            security_context: Some(security::of_sandbox(pod, around.user_ids)),
            sysctls: context
                .iter()
                .flat_map(|c| c.sysctls.iter().flatten())
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            overhead: resources::of_overhead(pod),
            resources: Some(resources::of_pod(pod)),
        }),
    }
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    let sidecars = pod.init_containers().iter().filter(|c| crate::pod::spec::is_sidecar(c));
    pod.containers()
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.host_port.is_some_and(|p| p > 0))
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
