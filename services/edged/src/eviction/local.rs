//! Limits that a pod has of its own: the size of an emptyDir, the local storage of a container or of
//! the pod. No IO; whoever exceeds one is evicted whatever the node has left.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::rank::storage_limit;
use super::threshold::Resource;
use crate::pod::spec::PodExt;
use crate::resources::units;
use crate::stats::model::{FsStats, PodStats};

/// Whether anything of the pod is limited, so that it must be looked at.
pub(super) fn has_limit(pod: &Pod) -> bool {
    size_limits(pod).next().is_some() || pod.containers().iter().any(|c| container_limit(c).is_some())
}

/// Limits of emptyDirs on disk; one in memory is limited by the kernel and full, not too large.
fn size_limits(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter_map(|v| {
        let limit = v.empty_dir.as_ref()?.size_limit.as_ref().filter(|q| units(q).is_some_and(|u| u > 0))?;
        Some((v.name.as_str(), limit))
    })
}

fn container_limit(container: &k8s_openapi::api::core::v1::Container) -> Option<&Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get(Resource::Disk.name()).filter(|q| units(q).is_some_and(|u| u > 0))
}

fn exceeds(used: Option<u64>, limit: i64) -> bool {
    used.is_some_and(|used| i128::from(used) > i128::from(limit))
}

/// The message of the eviction, in the kubelet's words, or `None` while all is within its limits.
pub(super) fn exceeded(pod: &Pod, stats: &PodStats, image_fs_is_own: bool) -> Option<String> {
    for (name, limit) in size_limits(pod) {
        let used = stats.volumes.iter().find(|v| v.name == name).and_then(|v| v.fs.used_bytes);
        if exceeds(used, units(limit)?) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.0));
        }
    }
    let total = stats.ephemeral_storage.as_ref().and_then(|fs| fs.used_bytes);
    if let Some(limit) = storage_limit(pod).filter(|l| exceeds(total, *l)) {
        let limit = Resource::Disk.text(u64::try_from(limit).unwrap_or(0));
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    let used = |fs: Option<&FsStats>| fs.and_then(|fs| fs.used_bytes).unwrap_or(0);
    pod.containers().iter().find_map(|spec| {
        let limit = container_limit(spec)?;
        let c = stats.containers.iter().find(|c| c.name == spec.name)?;
        let layer = if image_fs_is_own { 0 } else { used(c.rootfs.as_ref()) };
        exceeds(Some(used(c.logs.as_ref()).saturating_add(layer)), units(limit)?)
            .then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", spec.name, limit.0))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stats::model::{ContainerStats, VolumeStats};
    use serde_json::json;

    fn pod(limited: bool) -> Pod {
        let limits = if limited { json!({"ephemeral-storage": "1Ki"}) } else { json!({}) };
        serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Ki"}}, {"name": "w", "emptyDir": {}}],
            "containers": [{"name": "c", "resources": {"limits": limits}}, {"name": "d"}]
        }}))
        .unwrap()
    }

    fn stats(volume: u64, layer: u64, total: u64) -> PodStats {
        let fs = |bytes| FsStats { used_bytes: Some(bytes), ..FsStats::default() };
        PodStats {
            volumes: vec![
                VolumeStats { fs: fs(volume), name: "v".into(), in_memory: false },
                VolumeStats { fs: fs(1 << 40), name: "w".into(), in_memory: false },
            ],
            containers: vec![ContainerStats {
                name: "c".into(),
                rootfs: Some(fs(layer)),
                logs: Some(fs(10)),
                ..ContainerStats::default()
            }],
            ephemeral_storage: Some(fs(total)),
            ..PodStats::default()
        }
    }

    #[test]
    fn each_limit_has_its_message() {
        assert!(has_limit(&pod(true)));
        assert!(!has_limit(&Pod::default()));
        assert_eq!(exceeded(&pod(true), &stats(2048, 1000, 1024), false), None);
        assert_eq!(
            exceeded(&pod(true), &stats(2049, 0, 0), false).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"2Ki\". "
        );
        assert_eq!(
            exceeded(&pod(true), &stats(0, 0, 1025), false).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. "
        );
        assert_eq!(
            exceeded(&pod(true), &stats(0, 1015, 0), false).unwrap(),
            "Container c exceeded its local ephemeral storage limit \"1Ki\". "
        );
        assert_eq!(exceeded(&pod(true), &stats(0, 1015, 0), true), None, "the layer is on another filesystem");
        assert_eq!(exceeded(&pod(false), &stats(0, 1 << 30, 1 << 30), false), None);
    }
}
