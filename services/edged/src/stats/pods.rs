//! The figures of one pod, put together from what the runtime, its control group and the disk say.
//! No IO.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skerry_proto::cri::v1::{ContainerStats as CriStats, UInt64Value};

use super::cgroup::Usage;
use super::disk::Used;
use super::model::{
    ContainerStats, CpuStats, FsStats, MemoryStats, NetworkStats, PodReference, PodStats, ProcessStats, SwapStats,
    VolumeStats,
};

/// Everything that was found of one pod.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) reference: PodReference,
    pub(super) started: Option<Time>,
    /// Newest attempt of each container.
    pub(super) containers: Vec<FoundContainer>,
    /// With the rate of the CPU.
    pub(super) group: Option<(Usage, Option<u64>)>,
    pub(super) network: Option<NetworkStats>,
    pub(super) volumes: Vec<VolumeStats>,
    /// Files of the pod that belong to none of the above, such as its hosts file.
    pub(super) other: Used,
    /// The filesystem of logs and volumes, and that of writable layers.
    pub(super) node_fs: Option<FsStats>,
    pub(super) image_fs: Option<FsStats>,
}

#[derive(Debug, Default)]
pub(super) struct FoundContainer {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) started: Option<Time>,
    pub(super) stats: Option<CriStats>,
    pub(super) rate: Option<u64>,
    /// `None`: not looked at.
    pub(super) logs: Option<Used>,
}

fn value(v: Option<&UInt64Value>) -> Option<u64> {
    v.map(|v| v.value)
}

/// The runtime's times are nanoseconds since 1970.
pub(super) fn time(ns: i64) -> Option<Time> {
    (ns > 0).then(|| jiff::Timestamp::from_second(ns / 1_000_000_000).ok()).flatten().map(Time::from)
}

/// See the module documentation.
pub(super) fn pod(found: Found, now: &Time) -> PodStats {
    let Found { reference, started, containers, group, network, volumes, other, node_fs, image_fs } = found;
    let looked_at_disk = containers.iter().any(|c| c.logs.is_some()) || !volumes.is_empty();
    let containers: Vec<ContainerStats> =
        containers.into_iter().map(|c| container(c, node_fs.as_ref(), image_fs.as_ref(), now)).collect();
    let (cpu, memory, swap, pids) = match group {
        Some((usage, rate)) => {
            (Some(group_cpu(&usage, rate, now)), Some(group_memory(&usage, now)), group_swap(&usage, now), usage.pids)
        }
        None => (sum_cpu(&containers, now), sum_memory(&containers, now), None, None),
    };
    let ephemeral_storage = looked_at_disk.then(|| {
        let files = containers.iter().flat_map(|c| c.rootfs.iter().chain(&c.logs));
        let on_disk = volumes.iter().filter(|v| !v.in_memory).map(|v| &v.fs);
        let (mut bytes, mut inodes) = (other.bytes, other.inodes);
        for fs in files.chain(on_disk) {
            bytes = bytes.saturating_add(fs.used_bytes.unwrap_or(0));
            inodes = inodes.saturating_add(fs.inodes_used.unwrap_or(0));
        }
        on(node_fs.as_ref(), Some(bytes), Some(inodes), now)
    });
    PodStats {
        pod_ref: reference,
        start_time: started,
        containers,
        cpu,
        memory,
        network,
        volumes,
        ephemeral_storage,
        process_stats: pids.map(|pids| ProcessStats { process_count: Some(pids) }),
        swap,
    }
}

/// What is used on a filesystem, with what that has left.
pub(super) fn on(fs: Option<&FsStats>, bytes: Option<u64>, inodes: Option<u64>, now: &Time) -> FsStats {
    FsStats { time: Some(now.clone()), used_bytes: bytes, inodes_used: inodes, ..fs.cloned().unwrap_or_default() }
}

fn container(
    found: FoundContainer,
    node_fs: Option<&FsStats>,
    image_fs: Option<&FsStats>,
    now: &Time,
) -> ContainerStats {
    let stats = found.stats.unwrap_or_default();
    let cpu = stats.cpu.as_ref().map(|c| CpuStats {
        time: time(c.timestamp).or_else(|| Some(now.clone())),
        usage_nano_cores: value(c.usage_nano_cores.as_ref()).or(found.rate),
        usage_core_nano_seconds: value(c.usage_core_nano_seconds.as_ref()),
    });
    let memory = stats.memory.as_ref().map(|m| MemoryStats {
        time: time(m.timestamp).or_else(|| Some(now.clone())),
        available_bytes: value(m.available_bytes.as_ref()).filter(|b| *b > 0),
        usage_bytes: value(m.usage_bytes.as_ref()),
        working_set_bytes: value(m.working_set_bytes.as_ref()),
        rss_bytes: value(m.rss_bytes.as_ref()),
        page_faults: value(m.page_faults.as_ref()),
        major_page_faults: value(m.major_page_faults.as_ref()),
    });
    let layer = stats.writable_layer.as_ref();
    ContainerStats {
        name: found.name,
        start_time: found.started,
        cpu,
        memory,
        rootfs: layer.map(|l| on(image_fs, value(l.used_bytes.as_ref()), value(l.inodes_used.as_ref()), now)),
        logs: found.logs.map(|used| on(node_fs, Some(used.bytes), Some(used.inodes), now)),
        swap: stats.swap.as_ref().map(|s| SwapStats {
            time: Some(now.clone()),
            swap_available_bytes: value(s.swap_available_bytes.as_ref()),
            swap_usage_bytes: value(s.swap_usage_bytes.as_ref()),
        }),
        id: found.id,
        image: found.image,
    }
}

pub(super) fn group_cpu(usage: &Usage, rate: Option<u64>, now: &Time) -> CpuStats {
    CpuStats { time: Some(now.clone()), usage_nano_cores: rate, usage_core_nano_seconds: usage.cpu_ns }
}

pub(super) fn group_memory(usage: &Usage, now: &Time) -> MemoryStats {
    MemoryStats {
        time: Some(now.clone()),
        available_bytes: usage.limit.zip(usage.working_set).map(|(limit, used)| limit.saturating_sub(used)),
        usage_bytes: usage.memory,
        working_set_bytes: usage.working_set,
        rss_bytes: usage.rss,
        page_faults: usage.page_faults,
        major_page_faults: usage.major_page_faults,
    }
}

fn group_swap(usage: &Usage, now: &Time) -> Option<SwapStats> {
    let used = usage.swap?;
    Some(SwapStats { time: Some(now.clone()), swap_available_bytes: None, swap_usage_bytes: Some(used) })
}

fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(u64::saturating_add)
}

fn sum_cpu(containers: &[ContainerStats], now: &Time) -> Option<CpuStats> {
    let all = || containers.iter().filter_map(|c| c.cpu.as_ref());
    let total = sum(all().map(|c| c.usage_core_nano_seconds))?;
    Some(CpuStats {
        time: Some(now.clone()),
        usage_nano_cores: sum(all().map(|c| c.usage_nano_cores)),
        usage_core_nano_seconds: Some(total),
    })
}

fn sum_memory(containers: &[ContainerStats], now: &Time) -> Option<MemoryStats> {
    let all = || containers.iter().filter_map(|c| c.memory.as_ref());
    let working_set = sum(all().map(|m| m.working_set_bytes))?;
    Some(MemoryStats {
        time: Some(now.clone()),
        available_bytes: None,
        usage_bytes: sum(all().map(|m| m.usage_bytes)),
        working_set_bytes: Some(working_set),
        rss_bytes: sum(all().map(|m| m.rss_bytes)),
        page_faults: sum(all().map(|m| m.page_faults)),
        major_page_faults: sum(all().map(|m| m.major_page_faults)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use skerry_proto::cri::v1 as cri;

    fn n(value: u64) -> Option<UInt64Value> {
        Some(UInt64Value { value })
    }

    fn found() -> Found {
        let stats = CriStats {
            cpu: Some(cri::CpuUsage {
                timestamp: 5_000_000_000,
                usage_core_nano_seconds: n(70),
                usage_nano_cores: None,
            }),
            memory: Some(cri::MemoryUsage { working_set_bytes: n(40), usage_bytes: n(50), ..Default::default() }),
            writable_layer: Some(cri::FilesystemUsage {
                used_bytes: n(1_000),
                inodes_used: n(3),
                ..Default::default()
            }),
            ..CriStats::default()
        };
        Found {
            containers: vec![FoundContainer {
                name: "c".into(),
                stats: Some(stats),
                rate: Some(9),
                logs: Some(Used { bytes: 200, inodes: 1 }),
                ..FoundContainer::default()
            }],
            volumes: vec![
                VolumeStats {
                    name: "disk".into(),
                    fs: FsStats { used_bytes: Some(30), inodes_used: Some(2), ..FsStats::default() },
                    in_memory: false,
                },
                VolumeStats {
                    name: "memory".into(),
                    fs: FsStats { used_bytes: Some(5_000), ..FsStats::default() },
                    in_memory: true,
                },
            ],
            other: Used { bytes: 4, inodes: 1 },
            ..Found::default()
        }
    }

    #[test]
    fn the_pods_disk_is_everything_but_memory() {
        let now = Time::from(jiff::Timestamp::UNIX_EPOCH);
        let pod = pod(found(), &now);
        let disk = pod.ephemeral_storage.unwrap();
        assert_eq!((disk.used_bytes, disk.inodes_used), (Some(1_234), Some(7)));
        let memory = pod.memory.unwrap();
        assert_eq!((memory.working_set_bytes, memory.usage_bytes, memory.rss_bytes), (Some(40), Some(50), None));
        let container = &pod.containers[0];
        assert_eq!(container.cpu.as_ref().unwrap().usage_nano_cores, Some(9));
        assert_eq!(pod.cpu.unwrap().usage_core_nano_seconds, Some(70));
    }

    #[test]
    fn the_control_group_knows_better_than_the_sum() {
        let now = Time::from(jiff::Timestamp::UNIX_EPOCH);
        let usage =
            Usage { cpu_ns: Some(100), working_set: Some(60), limit: Some(100), pids: Some(4), ..Usage::default() };
        let pod = pod(Found { group: Some((usage, Some(3))), ..found() }, &now);
        assert_eq!(pod.cpu.unwrap().usage_nano_cores, Some(3));
        assert_eq!(pod.memory.unwrap().available_bytes, Some(40));
        assert_eq!(pod.process_stats.unwrap().process_count, Some(4));
    }

    #[test]
    fn names_are_those_of_the_summary_api() {
        let now = Time::from(jiff::Timestamp::UNIX_EPOCH);
        let json = serde_json::to_value(pod(found(), &now)).unwrap();
        for path in [
            "/podRef/uid",
            "/containers/0/rootfs/usedBytes",
            "/containers/0/logs/inodesUsed",
            "/containers/0/cpu/usageCoreNanoSeconds",
            "/containers/0/memory/workingSetBytes",
            "/volume/0/name",
            "/volume/0/usedBytes",
            "/ephemeral-storage/usedBytes",
        ] {
            assert!(json.pointer(path).is_some(), "{path}: {json:#}");
        }
        assert_eq!(json.pointer("/containers/0/cpu/time").unwrap(), "1970-01-01T00:00:05Z");
    }
}
