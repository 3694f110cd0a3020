//! What this machine is: CPUs, memory, disk, addresses, names. Reads /proc, /sys and /etc.
//!
//! Called at start and with every status. A file that cannot be read gives an empty or zero value:
//! the node's status must never depend on one of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cgroups;
use crate::config::Config;
use crate::eviction;
use crate::fields::Facts;

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
    let Resources { allocatable, .. } = resources(config);
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

/// What the machine has, and what of it pods may ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Resources {
    pub(crate) capacity: BTreeMap<String, Quantity>,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// Capacity, and allocatable: that without what is reserved and without what eviction keeps free.
pub(crate) fn resources(config: &Config) -> Resources {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = memory_capacity();
    let disk = nix::sys::statvfs::statvfs(&config.root_dir)
        .map_or(0, |s| i64::try_from(s.blocks().saturating_mul(s.fragment_size())).unwrap_or(i64::MAX));
    let kept = |signal, capacity: i64| eviction::kept_free(&config.node, signal, u64::try_from(capacity).unwrap_or(0));
    let left = |name: &str, capacity: i64, kept: i64| {
        let reserved = i64::try_from(config.node.reserved_milli(name) / 1000).unwrap_or(i64::MAX);
        capacity.saturating_sub(reserved).saturating_sub(kept).max(0)
    };
    let milli_cpu = i128::try_from(cpus).unwrap_or(1).saturating_mul(1000);
    let milli_left = milli_cpu.saturating_sub(config.node.reserved_milli("cpu")).max(0);
    let cpu = |milli: i128| if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
    let pages = cgroups::huge_page_pools(Path::new(cgroups::HUGE_PAGES));
    // What lies in a pool of huge pages is no ordinary memory any more.
    let pooled = pages.values().fold(0, |sum: i64, bytes| sum.saturating_add(*bytes));
    let map = |cpu: String, memory: i64, disk: i64| {
        let mut all = BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu)),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk / 1024))),
            ("pods".to_owned(), Quantity(config.node.max_pods.to_string())),
        ]);
        all.extend(pages.iter().map(|(name, bytes)| (name.clone(), Quantity(amount(*bytes)))));
        all
    };
    Resources {
        capacity: map(cpu(milli_cpu), memory, disk),
        allocatable: map(
            cpu(milli_left),
            left("memory", memory, kept("memory.available", memory).saturating_add(pooled)),
            left("ephemeral-storage", disk, kept("nodefs.available", disk)),
        ),
    }
}

/// Bytes in the largest unit that has a whole number of them, as the API shows it.
fn amount(bytes: i64) -> String {
    let units = [(1_i64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.iter().find(|(size, _)| bytes != 0 && bytes % size == 0);
    unit.map_or_else(|| bytes.to_string(), |(size, name)| format!("{}{name}", bytes / size))
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
    /// `None` without swap.
    pub(crate) swap_bytes: Option<i64>,
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
        swap_bytes: Some(meminfo("SwapTotal")).filter(|b| *b > 0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]
    use super::*;

    fn config() -> Config {
        let mut config = Config::new(skerry_common::NodeName::parse("n").unwrap());
        config.root_dir = "/".into();
        config
    }

    #[test]
    fn this_machine_has_something_of_everything() {
        let Resources { capacity, allocatable } = resources(&config());
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            assert!(crate::resources::units(&capacity[name]).is_some_and(|v| v > 0), "{name}");
            assert!(crate::resources::units(&allocatable[name]) <= crate::resources::units(&capacity[name]), "{name}");
        }
        for (name, bytes) in cgroups::huge_page_pools(Path::new(cgroups::HUGE_PAGES)) {
            assert_eq!(crate::resources::units(&capacity[&name]), Some(bytes), "{name}");
            assert_eq!(capacity[&name], allocatable[&name]);
        }
        assert_eq!([0, 5, 3 << 10, 512 << 20, 2 << 30].map(amount), ["0", "5", "3Ki", "512Mi", "2Gi"]);
        assert!(!addresses(None).is_empty());
        assert!(!machine().kernel.is_empty());
    }

    #[test]
    fn what_is_reserved_and_kept_free_is_not_for_pods() {
        let mut config = config();
        config.node.eviction_hard = BTreeMap::from([("memory.available".to_owned(), "64Mi".to_owned())]);
        config.node.kube_reserved = BTreeMap::from([
            ("cpu".to_owned(), Quantity("100m".into())),
            ("memory".to_owned(), Quantity("32Mi".into())),
        ]);
        config.node.system_reserved = BTreeMap::from([("memory".to_owned(), Quantity("32Mi".into()))]);
        let Resources { capacity, allocatable } = resources(&config);
        let units = |map: &BTreeMap<String, Quantity>, name: &str| crate::resources::units(&map[name]).unwrap();
        let pooled: i64 = cgroups::huge_page_pools(Path::new(cgroups::HUGE_PAGES)).values().sum();
        assert_eq!(units(&capacity, "memory") - units(&allocatable, "memory"), pooled + (128 << 20));
        assert_eq!(capacity["ephemeral-storage"], allocatable["ephemeral-storage"]);
        let milli = |map: &BTreeMap<String, Quantity>| crate::resources::milli(&map["cpu"]).unwrap();
        assert_eq!(milli(&capacity) - milli(&allocatable), 100);
    }
}
