//! The mounts of one container, in the runtime's terms.
//!
//! Called by the worker before a container is created, on a blocking thread. The volumes were set up
//! by [`super::prepare`]; here a part of one may be bind-mounted ([`super::sub_path`]).

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use skerry_proto::cri::v1::{Mount, MountPropagation};

use super::{Located, PodDir, Source, locate, sub_path};
use crate::env::Problem;
use crate::objects::Objects;
use crate::pod::spec::PodExt;

/// See the module documentation. `recursive_read_only` tells whether the runtime can mount so.
///
/// # Errors
/// A volume that the pod does not have or that cannot be mounted so, or a subPath that leaves its
/// volume: the message for `CreateContainerConfigError`.
pub(crate) fn mounts_of(
    pod: &Pod,
    container: &Container,
    dir: &PodDir,
    objects: &Objects,
    recursive_read_only: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Mount>, Problem> {
    if let Some(device) = container.volume_devices.iter().flatten().next() {
        let text = format!("volumeDevice {:?}: block devices are not supported on an edge node", device.name);
        return Err(Problem::Config(text));
    }
    let mut all = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| {
            Problem::Config(format!("volumeMount {:?} names a volume that the pod does not have", mount.name))
        })?;
        let Located { source, path } = locate(pod, volume, dir, objects)?;
        let host_path = match sub_path::wanted(mount, env)? {
            None => path,
            Some(sub) => {
                let target = dir.sub_path(&volume.name, &container.name, index);
                sub_path::bind(&path, &sub, &target).map_err(|e| {
                    let (name, container) = (&mount.name, &container.name);
                    Problem::Config(format!(
                        "failed to prepare subPath for volumeMount {name:?} of container {container:?}: {e}"
                    ))
                })?;
                target
            }
        };
        let claimed_so = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only).unwrap_or(false);
        // What is written from objects is read-only for all, as everywhere.
        let content = matches!(source, Source::Content { .. });
        let read_only = mount.read_only.unwrap_or(false) || claimed_so || content;
        all.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: read_only,
            recursive_read_only: recursive(mount, recursive_read_only)?,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                _ => MountPropagation::PropagationPrivate,
            }
            .into(),
            ..Mount::default()
        });
    }
    Ok(all)
}

fn recursive(mount: &VolumeMount, supported: bool) -> Result<bool, Problem> {
    let bad = |why: &str| {
        Err(Problem::Config(format!("volume {:?} requested recursive read-only mode, but {why}", mount.name)))
    };
    match mount.recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => Ok(false),
        Some(_) if !mount.read_only.unwrap_or(false) => bad("it is not read-only"),
        Some("IfPossible") => Ok(supported),
        Some("Enabled") if supported => Ok(true),
        Some("Enabled") => bad("it is not supported by the runtime"),
        Some(other) => bad(&format!("{other:?} is not a known mode")),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recursive_read_only_needs_the_runtime() {
        for (mode, read_only, supported, want) in [
            (None, false, true, Some(false)),
            (Some("Disabled"), true, true, Some(false)),
            (Some("IfPossible"), true, true, Some(true)),
            (Some("IfPossible"), true, false, Some(false)),
            (Some("Enabled"), true, true, Some(true)),
            (Some("Enabled"), true, false, None),
            (Some("Enabled"), false, true, None),
            (Some("Sometimes"), true, true, None),
        ] {
            let mount = VolumeMount {
                recursive_read_only: mode.map(str::to_owned),
                read_only: Some(read_only),
                ..VolumeMount::default()
            };
            assert_eq!(recursive(&mount, supported).ok(), want, "{mode:?} {read_only} {supported}");
        }
    }
}
