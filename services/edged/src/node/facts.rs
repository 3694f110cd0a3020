//! What this machine is: CPUs, memory, disk, addresses, names. Reads /proc, /sys and /etc.
//!
//! Called at start and with every status. A file that cannot be read gives an empty or zero value:
//! the node's status must never depend on one of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Config;
use crate::fields::Facts;

/// Memory that pods do not get, because the kernel and the node's services need it: the kubelet's
/// threshold of eviction.
const RESERVED_MEMORY: i64 = 100 << 20;
/// Below this share of the filesystem (and of its inodes) the disk is under pressure; the kubelet's.
const DISK_PRESSURE_PERCENT: u64 = 10;
const INODE_PRESSURE_PERCENT: u64 = 5;
/// Above this share of the kernel's process numbers there are too many processes.
const PID_PRESSURE_PERCENT: u64 = 90;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// One value of /proc/meminfo in bytes.
fn meminfo(name: &str) -> i64 {
    read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<i64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
}

/// Memory of the machine in bytes.
pub(crate) fn memory_capacity() -> i64 {
    meminfo("MemTotal")
}

/// What fields of pods may show.
pub(crate) fn facts(config: &Config) -> Facts {
    let (_, allocatable) = resources(&config.root_dir, config.max_pods);
    Facts {
        node: config.node_name.to_string(),
        host_ips: addresses(config.node_ip).iter().map(ToString::to_string).collect(),
        pod_ips: Vec::new(),
        allocatable,
    }
}

/// The addresses of this machine, primary first.
pub(crate) fn addresses(configured: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(ip) = configured {
        return vec![ip];
    }
    // The address that the kernel would use towards others. Documentation addresses; nothing is sent.
    let towards = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    let v4 = towards("0.0.0.0:0", "192.0.2.1:9").or_else(|| local_v4().map(IpAddr::V4));
    let v6 = towards("[::]:0", "[2001:db8::1]:9");
    let all: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    if all.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { all }
}

/// Without a default route: the first address that is not the loopback's.
fn local_v4() -> Option<std::net::Ipv4Addr> {
    let table = read("/proc/net/fib_trie");
    let mut last = None;
    for line in table.lines() {
        if let Some(ip) = line.trim().strip_prefix("|-- ") {
            last = ip.parse::<std::net::Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(ip) = last.filter(|ip| !ip.is_loopback())
        {
            return Some(ip);
        }
    }
    None
}

/// Capacity and allocatable.
pub(crate) fn resources(root: &Path, max_pods: u32) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = memory_capacity();
    let disk = nix::sys::statvfs::statvfs(root).map_or(0, |s| s.blocks().saturating_mul(s.fragment_size()));
    let map = |memory: i64, disk: u64| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk / 1024))),
            ("pods".to_owned(), Quantity(max_pods.to_string())),
        ])
    };
    (map(memory, disk), map(memory.saturating_sub(RESERVED_MEMORY).max(0), disk / 10 * 9))
}

/// What the machine lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

pub(crate) fn pressure(root: &Path) -> Pressure {
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    let disk = nix::sys::statvfs::statvfs(root).is_ok_and(|s| {
        let blocks = percent(s.blocks_available(), s.blocks());
        // Filesystems without a table of inodes say zero.
        let inodes = if s.files() == 0 { 100 } else { percent(s.files_available(), s.files()) };
        blocks < DISK_PRESSURE_PERCENT || inodes < INODE_PRESSURE_PERCENT
    });
    let tasks = read("/proc/loadavg").split_whitespace().nth(3).and_then(|t| t.split('/').nth(1)?.parse::<u64>().ok());
    let limit = read("/proc/sys/kernel/pid_max").parse::<u64>().unwrap_or(0);
    Pressure {
        memory: meminfo("MemAvailable") < RESERVED_MEMORY,
        disk,
        pids: limit > 0 && percent(tasks.unwrap_or(0), limit) > PID_PRESSURE_PERCENT,
    }
}

/// Names and versions of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) architecture: String,
    pub(crate) boot_id: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) hostname: String,
}

pub(crate) fn machine() -> Machine {
    let pretty = read("/etc/os-release")
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME=").map(|v| v.trim_matches('"').to_owned()))
        .unwrap_or_default();
    Machine {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        machine_id: read("/etc/machine-id"),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image: pretty,
        hostname: read("/proc/sys/kernel/hostname"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        let (capacity, allocatable) = resources(Path::new("/"), 110);
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            assert!(crate::resources::units(&capacity[name]).is_some_and(|v| v > 0), "{name}");
            assert!(crate::resources::units(&allocatable[name]) <= crate::resources::units(&capacity[name]), "{name}");
        }
        assert!(!addresses(None).is_empty());
        assert!(!machine().kernel.is_empty());
    }
}
