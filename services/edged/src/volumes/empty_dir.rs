//! emptyDir volumes: a directory on the disk of the node, a tmpfs, or huge pages.
//!
//! Called on a blocking thread. What is there stays, also over a restart of the agent; only a tmpfs is
//! gone with the machine's memory. Limits: a tmpfs takes the least of its size limit, the memory limit
//! of the pod and what the node gives to pods; a directory's size limit is the eviction's business.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{make_dir, ownership};
use crate::fields::Facts;
use crate::{mounts, resources};

/// Anybody may write: the containers of the pod decide among themselves.
const MODE: u32 = 0o777;

/// Sets the volume up.
///
/// # Errors
/// A medium that is not supported, or the file system's trouble.
pub(super) fn set_up(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    path: &Path,
    facts: &Facts,
    group: Option<u32>,
) -> io::Result<()> {
    let mut fresh = !path.exists();
    if fresh {
        make_dir(path, MODE)?;
    }
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let options =
                tmpfs_size(pod, source, facts).map_or("mode=0777".to_owned(), |s| format!("size={s},mode=0777"));
            fresh |= mounts::tmpfs(path, &options)?;
        }
        other => {
            let bytes = page_bytes(pod, other).map_err(io::Error::other)?;
            fresh |= mounts::huge_pages(path, &format!("pagesize={bytes},mode=0777"))?;
        }
    }
    match group {
        Some(gid) if fresh => ownership::give_to_group(path, gid),
        _ => Ok(()),
    }
}

/// Size of the huge pages of a medium: the one it names, or the only one that the pod asks for.
fn page_bytes(pod: &Pod, medium: &str) -> Result<i64, String> {
    let asked: Vec<&str> =
        resources::requested_names(pod).into_iter().filter_map(|name| name.strip_prefix("hugepages-")).collect();
    let size = match (medium.strip_prefix("HugePages"), asked.as_slice()) {
        (Some(""), [only]) => only,
        (Some(""), []) => return Err("the medium HugePages needs a container that asks for huge pages".into()),
        (Some(""), _) => return Err("the medium HugePages can be used only with huge pages of one size".into()),
        (Some(named), _) => match named.strip_prefix('-') {
            Some(size) if asked.contains(&size) => size,
            _ => return Err(format!("no container asks for the huge pages of the medium {medium:?}")),
        },
        (None, _) => return Err(format!("the medium {medium:?} is not supported")),
    };
    let bytes = resources::units(&Quantity(size.to_owned())).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("{size:?} is not a size of huge pages"))
}

/// Size of a tmpfs in bytes, as the kubelet computes it.
fn tmpfs_size(pod: &Pod, source: &EmptyDirVolumeSource, facts: &Facts) -> Option<i64> {
    let node = facts.allocatable.get("memory").and_then(resources::units);
    let limit = Some(resources::of_pod(pod).memory_limit_in_bytes);
    let own = source.size_limit.as_ref().and_then(resources::units);
    [node, limit, own].into_iter().flatten().filter(|size| *size > 0).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn huge_pages_are_those_that_the_pod_asks_for() {
        let pod = |sizes: &[&str]| -> Pod {
            let limits: serde_json::Map<_, _> =
                sizes.iter().map(|s| (format!("hugepages-{s}"), json!("4Mi"))).collect();
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}),
            )
            .unwrap()
        };
        for (sizes, medium, want) in [
            (&["2Mi"][..], "HugePages", Some(2 << 20)),
            (&["2Mi", "1Gi"], "HugePages-1Gi", Some(1 << 30)),
            (&["2Mi", "1Gi"], "HugePages", None),
            (&["2Mi"], "HugePages-1Gi", None),
            (&[], "HugePages", None),
            (&["2Mi"], "HugePages2Mi", None),
            (&["2Mi"], "Disk", None),
        ] {
            assert_eq!(page_bytes(&pod(sizes), medium).ok(), want, "{sizes:?} {medium}");
        }
    }

    #[test]
    fn a_tmpfs_is_as_large_as_the_least_limit() {
        for (node, limit, own, want) in [
            (None, None, None, None),
            (Some("100Mi"), None, None, Some(100 << 20)),
            (Some("100Mi"), Some("50Mi"), None, Some(50 << 20)),
            (Some("100Mi"), Some("50Mi"), Some("10Mi"), Some(10 << 20)),
            (Some("100Mi"), Some("50Mi"), Some("70Mi"), Some(50 << 20)),
            (Some("100Mi"), None, Some("0"), Some(100 << 20)),
        ] {
            let limits = limit.map(|m| json!({"limits": {"memory": m}}));
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": limits}]}}),
            )
            .unwrap();
            let source: EmptyDirVolumeSource = serde_json::from_value(json!({"sizeLimit": own})).unwrap();
            let mut facts = Facts::default();
            if let Some(node) = node {
                facts.allocatable.insert("memory".into(), serde_json::from_value(json!(node)).unwrap());
            }
            assert_eq!(tmpfs_size(&pod, &source, &facts), want, "{node:?} {limit:?} {own:?}");
        }
    }
}
