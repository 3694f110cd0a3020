//! Who has to go, and the words for it. No IO.
//!
//! For memory and disk: first who uses more than was asked for, then who matters less, then who uses
//! most above the request. For process numbers: who matters less, then who has most. A pod of which
//! nothing is known goes before the others of its kind, as in the kubelet.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::decide::Observations;
use super::threshold::{Resource, Signal, Threshold};
use crate::pod::priority::{is_critical, priority};
use crate::pod::spec::{PodExt, is_sidecar};
use crate::resources;
use crate::stats::model::{ContainerStats, FsStats, PodStats};

/// A pod and what it uses; without the latter nothing is known of it.
pub(crate) type Candidate = (Arc<Pod>, Option<PodStats>);

/// What of a pod counts against a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    writable_layers: bool,
    logs_and_volumes: bool,
}

impl Measured {
    /// With a filesystem of their own for images, writable layers fill that, logs and volumes the node's.
    pub(crate) fn of(signal: Signal, image_fs_is_own: bool) -> Self {
        Self {
            writable_layers: !image_fs_is_own || signal.is_image_fs(),
            logs_and_volumes: !image_fs_is_own || !signal.is_image_fs(),
        }
    }
}

/// The candidates that may be evicted, first to go first.
pub(crate) fn rank(mut pods: Vec<Candidate>, signal: Signal, image_fs_is_own: bool) -> Vec<Candidate> {
    let resource = signal.resource();
    let measured = Measured::of(signal, image_fs_is_own);
    pods.retain(|(pod, _)| !is_critical(pod));
    pods.sort_by_cached_key(|(pod, stats)| {
        let used = stats.as_ref().map(|s| used(s, resource, measured));
        let asked = i128::from(request(pod, resource));
        let above = used.map_or(i128::MAX, |u| i128::from(u).saturating_sub(asked));
        let exceeds = resource != Resource::Pids && used.is_none_or(|u| i128::from(u) > asked);
        (Reverse(exceeds), priority(pod), Reverse(above), pod.uid().to_owned())
    });
    pods
}

fn used(stats: &PodStats, resource: Resource, measured: Measured) -> u64 {
    match resource {
        Resource::Memory => stats.memory.as_ref().and_then(|m| m.working_set_bytes).unwrap_or(0),
        Resource::Pids => stats.process_stats.as_ref().and_then(|p| p.process_count).unwrap_or(0),
        Resource::Disk => disk(stats, measured, |fs| fs.used_bytes),
        Resource::Inodes => disk(stats, measured, |fs| fs.inodes_used),
    }
}

fn disk(stats: &PodStats, measured: Measured, of: impl Fn(&FsStats) -> Option<u64>) -> u64 {
    let layers = stats.containers.iter().filter(|_| measured.writable_layers).flat_map(|c| &c.rootfs);
    let logs = stats.containers.iter().filter(|_| measured.logs_and_volumes).flat_map(|c| &c.logs);
    let volumes = stats.volumes.iter().filter(|v| measured.logs_and_volumes && !v.in_memory).map(|v| &v.fs);
    layers.chain(logs).chain(volumes).filter_map(of).fold(0, u64::saturating_add)
}

/// A container's request; limits count as requests, as the API server fills them in.
fn asked(container: &Container, name: &str, limit: bool) -> Option<i64> {
    let r = container.resources.as_ref()?;
    let find = |map: &Option<BTreeMap<_, _>>| map.as_ref().and_then(|m| m.get(name)).and_then(resources::units);
    if limit { find(&r.limits) } else { find(&r.requests).or_else(|| find(&r.limits)) }
}

/// What the pod asked for: its containers together, or its largest init container.
fn sum(pod: &Pod, name: &str, limit: bool) -> Option<i64> {
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let together = pod.containers().iter().chain(sidecars).filter_map(|c| asked(c, name, limit));
    let init = pod.init_containers().iter().filter(|c| !is_sidecar(c)).filter_map(|c| asked(c, name, limit)).max();
    together.reduce(i64::saturating_add).max(init)
}

fn request(pod: &Pod, resource: Resource) -> i64 {
    match resource {
        Resource::Memory | Resource::Disk => sum(pod, resource.name(), false).unwrap_or(0),
        Resource::Inodes | Resource::Pids => 0,
    }
}

/// The pod's limit of local storage, if all of its containers together have one.
pub(super) fn storage_limit(pod: &Pod) -> Option<i64> {
    sum(pod, Resource::Disk.name(), true)
}

/// The message of an eviction, in the kubelet's words.
pub(crate) fn message(pod: &Pod, stats: Option<&PodStats>, threshold: &Threshold, seen: &Observations) -> String {
    let resource = threshold.signal.resource();
    let name = resource.name();
    let mut text = format!("The node was low on resource: {name}. ");
    if let Some(o) = seen.get(&threshold.signal) {
        let quantity = resource.text(threshold.value.of(o.capacity));
        let _ = write!(text, "Threshold quantity: {quantity}, available: {}. ", resource.text(o.available));
    }
    for c in stats.iter().flat_map(|s| &s.containers) {
        let mut specs = pod.containers().iter().chain(pod.init_containers());
        let (Some(spec), Some(used)) = (specs.find(|s| s.name == c.name), container_used(c, resource)) else {
            continue;
        };
        let request = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(name));
        let asked = request.and_then(resources::units).and_then(|r| u64::try_from(r).ok()).unwrap_or(0);
        if used > asked {
            let request = request.map_or("0", |q| q.0.as_str());
            let used = resource.text(used);
            let _ = write!(
                text,
                "Container {} was using {used}, request is {request}, has larger consumption of {name}. ",
                c.name
            );
        }
    }
    text
}

fn container_used(stats: &ContainerStats, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Memory => stats.memory.as_ref()?.working_set_bytes,
        Resource::Disk => Some(stats.rootfs.as_ref()?.used_bytes?.saturating_add(stats.logs.as_ref()?.used_bytes?)),
        Resource::Inodes | Resource::Pids => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::decide::Observation;
    use super::super::threshold::Amount;
    use super::*;
    use crate::stats::model::{MemoryStats, ProcessStats, VolumeStats};
    use serde_json::json;

    fn candidate(uid: &str, priority: i32, request: u64, used: Option<u64>) -> Candidate {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources":
                {"requests": {"memory": request.to_string(), "ephemeral-storage": request.to_string()}}}]}
        }));
        let fs = |bytes| Some(FsStats { used_bytes: Some(bytes), ..FsStats::default() });
        let stats = used.map(|used| PodStats {
            memory: Some(MemoryStats { working_set_bytes: Some(used), ..MemoryStats::default() }),
            process_stats: Some(ProcessStats { process_count: Some(used) }),
            containers: vec![ContainerStats {
                name: "c".into(),
                memory: Some(MemoryStats { working_set_bytes: Some(used), ..MemoryStats::default() }),
                rootfs: fs(used),
                logs: fs(1),
                ..ContainerStats::default()
            }],
            volumes: vec![VolumeStats { fs: fs(2).unwrap(), name: "v".into(), in_memory: false }],
            ..PodStats::default()
        });
        (Arc::new(pod.unwrap()), stats)
    }

    fn order(pods: Vec<Candidate>, signal: Signal) -> Vec<String> {
        rank(pods, signal, true).iter().map(|(p, _)| p.uid().to_owned()).collect()
    }

    #[test]
    fn who_exceeds_goes_first_then_who_matters_less_then_who_uses_most() {
        let pods = || {
            vec![
                candidate("within", -5, 100, Some(90)),
                candidate("over-important", 10, 100, Some(900)),
                candidate("over-a-little", 0, 100, Some(101)),
                candidate("over-much", 0, 500, Some(700)),
                candidate("unknown", 0, 100, None),
                candidate("critical", 2_000_000_000, 0, Some(9_999)),
            ]
        };
        let want = ["unknown", "over-much", "over-a-little", "over-important", "within"];
        assert_eq!(order(pods(), Signal::MemoryAvailable), want);
        let want = ["within", "unknown", "over-much", "over-a-little", "over-important"];
        assert_eq!(order(pods(), Signal::PidAvailable), want);
    }

    #[test]
    fn each_filesystem_has_its_own_culprits() {
        let (_, stats) = candidate("a", 0, 0, Some(50));
        let stats = stats.unwrap();
        let of = |signal, own| disk(&stats, Measured::of(signal, own), |fs| fs.used_bytes);
        assert_eq!(of(Signal::ImageFsAvailable, true), 50);
        assert_eq!(of(Signal::NodeFsAvailable, true), 3);
        assert_eq!(of(Signal::NodeFsAvailable, false), 53);
    }

    #[test]
    fn requests_are_those_of_what_runs_together() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "i", "resources": {"requests": {"memory": "50"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"memory": "7"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"memory": "10"}}},
                           {"name": "b", "resources": {"limits": {"memory": "20", "ephemeral-storage": "1k"}}}]
        }}))
        .unwrap();
        assert_eq!(request(&pod, Resource::Memory), 50);
        assert_eq!(request(&pod, Resource::Inodes), 0);
        assert_eq!(storage_limit(&pod), Some(1_000));
    }

    #[test]
    fn the_message_says_what_was_short_and_who_took_it() {
        let (pod, stats) = candidate("a", 0, 100, Some(2048));
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            value: Amount::Absolute(100 << 20),
            grace_ms: 0,
            min_reclaim: Amount::Absolute(0),
        };
        let seen = Observations::from([(threshold.signal, Observation { available: 1 << 20, capacity: 1 << 30 })]);
        assert_eq!(
            message(&pod, stats.as_ref(), &threshold, &seen),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Mi. \
             Container c was using 2Ki, request is 100, has larger consumption of memory. "
        );
    }
}
