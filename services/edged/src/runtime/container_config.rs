//! A container in the runtime's terms. Pure but for the files that it needs on the host.
//!
//! Called by the worker when everything else is known: the image, the environment, the volumes.

use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_proto::cri::v1::{
    ContainerConfig, ContainerMetadata, IdMapping, Image, ImageSpec, KeyValue, LinuxContainerConfig, Mount,
};

use super::security;
use crate::env::expand;
use crate::pod::labels;
use crate::resources;

/// What the configuration needs besides the pod.
pub(crate) struct Parts<'a> {
    pub(crate) node: &'a str,
    pub(crate) root: &'a str,
    pub(crate) user_ids: Option<IdMapping>,
    pub(crate) image: &'a Image,
    pub(crate) environment: &'a std::collections::BTreeMap<String, String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) restart_count: u32,
    /// The container whose processes an ephemeral one shall see.
    pub(crate) target: Option<String>,
    pub(crate) node_resources: &'a resources::NodeResources,
}

/// Path of a container's log below its pod's directory.
pub(crate) fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// See the module documentation.
///
/// # Errors
/// The message for `CreateContainerConfigError`.
pub(crate) fn build(pod: &Pod, container: &Container, parts: Parts<'_>) -> Result<ContainerConfig, String> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, |name| parts.environment.get(name).cloned())).collect()
    };
    let mut security_context = security::of_container(pod, container, parts.image, parts.root, parts.user_ids)?;
    security::see_processes_of(&mut security_context, parts.target);
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: parts.restart_count }),
        image: Some(ImageSpec {
            image: parts.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts
            .environment
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        labels: labels::of_container(pod, &container.name, parts.node),
        annotations: labels::annotations_of_container(pod, container, parts.restart_count),
        // Files keep the owners that the container sees.
        mounts: match parts.user_ids {
            None => parts.mounts,
            Some(ids) => {
                let mapped = |m: Mount| Mount { uid_mappings: vec![ids], gid_mappings: vec![ids], ..m };
                parts.mounts.into_iter().map(mapped).collect()
            }
        },
        log_path: log_path(&container.name, parts.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::of_container(pod, container, parts.node_resources)),
            security_context: Some(security_context),
        }),
        ..ContainerConfig::default()
    })
}
