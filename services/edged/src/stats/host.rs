//! What the machine itself uses: CPU, memory, network, process numbers. Reads /proc.
//!
//! Called by the collector, blocking, a handful of small files. The working set of the node is what is
//! in use without the file pages that were not used lately, as the kubelet computes it: memory that
//! the kernel gives back at once is available.

use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::cgroup::field;
use super::model::{InterfaceStats, MemoryStats, NetworkStats, RlimitStats, SwapStats};

/// The kernel counts CPU time for programs in hundredths of a second.
const TICK_NS: u64 = 10_000_000;
/// user nice system idle iowait irq softirq steal; guests are part of user.
const CPU_FIELDS: [usize; 6] = [0, 1, 2, 5, 6, 7];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// One value of /proc/meminfo in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let kib = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix("kB"))?;
    Some(kib.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// CPU time of all processors since the start, in nanoseconds.
pub(crate) fn cpu_ns() -> Option<u64> {
    cpu_of(&read("/proc/stat"))
}

fn cpu_of(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let values: Vec<u64> = line.split_whitespace().filter_map(|v| v.parse().ok()).collect();
    let ticks: u64 = CPU_FIELDS.iter().filter_map(|i| values.get(*i)).sum();
    Some(ticks.saturating_mul(TICK_NS))
}

/// Memory of the machine.
pub(crate) fn memory(time: &Time) -> MemoryStats {
    memory_of(&read("/proc/meminfo"), &read("/proc/vmstat"), time)
}

fn memory_of(info: &str, vm: &str, time: &Time) -> MemoryStats {
    let total = meminfo(info, "MemTotal");
    let usage = total.zip(meminfo(info, "MemFree")).map(|(total, free)| total.saturating_sub(free));
    let working_set = super::cgroup::working_set(usage, meminfo(info, "Inactive(file)"));
    MemoryStats {
        time: Some(time.clone()),
        available_bytes: total.zip(working_set).map(|(total, used)| total.saturating_sub(used)),
        usage_bytes: usage,
        working_set_bytes: working_set,
        rss_bytes: meminfo(info, "AnonPages"),
        page_faults: field(vm, "pgfault"),
        major_page_faults: field(vm, "pgmajfault"),
    }
}

/// Swap of the machine; `None` without any.
pub(crate) fn swap(time: &Time) -> Option<SwapStats> {
    let info = read("/proc/meminfo");
    let (total, free) = meminfo(&info, "SwapTotal").filter(|t| *t > 0).zip(meminfo(&info, "SwapFree"))?;
    Some(SwapStats {
        time: Some(time.clone()),
        swap_available_bytes: Some(free),
        swap_usage_bytes: Some(total.saturating_sub(free)),
    })
}

/// Process numbers: how many there are, and how many are taken.
pub(crate) fn processes(time: &Time) -> RlimitStats {
    let number = |path: &str| read(path).trim().parse::<i64>().ok();
    let tasks = read("/proc/loadavg").split_whitespace().nth(3).and_then(|t| t.split_once('/')?.1.parse::<i64>().ok());
    let max = number("/proc/sys/kernel/pid_max").into_iter().chain(number("/proc/sys/kernel/threads-max")).min();
    RlimitStats { time: Some(time.clone()), max_pid: max, running: tasks }
}

/// When the machine was started.
pub(crate) fn boot_time() -> Option<Time> {
    let seconds = field(&read("/proc/stat"), "btime")?;
    jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(Time::from)
}

/// Traffic in the network namespace of a process, or of this one.
pub(crate) fn network(pid: Option<u32>, time: &Time) -> Option<NetworkStats> {
    let base = pid.map_or_else(|| "/proc/self/net".to_owned(), |pid| format!("/proc/{pid}/net"));
    let devices = fs::read_to_string(Path::new(&base).join("dev")).ok()?;
    let interfaces = interfaces_of(&devices);
    let name = default_interface(&read(&format!("{base}/route")));
    let default = interfaces.iter().find(|i| Some(&i.name) == name.as_ref()).or(interfaces.first()).cloned();
    Some(NetworkStats { time: Some(time.clone()), default, interfaces })
}

fn default_interface(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|l| {
        let mut words = l.split_whitespace();
        let name = words.next()?;
        (words.next()? == "00000000").then(|| name.to_owned())
    })
}

/// Without the loopback and the ends of the pods' interfaces on the host, whose traffic is the pods'.
fn interfaces_of(text: &str) -> Vec<InterfaceStats> {
    let parse = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let values: Vec<u64> = rest.split_whitespace().filter_map(|v| v.parse().ok()).collect();
        let name = name.trim();
        if name == "lo" || name.starts_with("veth") {
            return None;
        }
        Some(InterfaceStats {
            name: name.to_owned(),
            rx_bytes: *values.first()?,
            rx_errors: *values.get(2)?,
            tx_bytes: *values.get(8)?,
            tx_errors: *values.get(10)?,
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn now() -> Time {
        Time::from(jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_working_set_leaves_out_files_that_nobody_used_lately() {
        let info = "MemTotal: 100 kB\nMemFree: 30 kB\nInactive(file): 20 kB\nAnonPages: 11 kB\n";
        let memory = memory_of(info, "pgfault 5\npgmajfault 2\n", &now());
        let kib = |v: Option<u64>| v.unwrap() / 1024;
        assert_eq!((kib(memory.usage_bytes), kib(memory.working_set_bytes), kib(memory.available_bytes)), (70, 50, 50));
        assert_eq!((kib(memory.rss_bytes), memory.page_faults, memory.major_page_faults), (11, Some(5), Some(2)));
        assert_eq!(memory_of("", "", &now()).working_set_bytes, None);
    }

    #[test]
    fn cpu_time_is_what_was_not_idle() {
        assert_eq!(cpu_of("cpu  1 2 3 100 100 4 5 6 0 0\ncpu0 1\n"), Some(21 * TICK_NS));
        assert_eq!(cpu_of(""), None);
    }

    #[test]
    fn traffic_is_counted_by_interface() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0\n\
                    eth0: 10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\nveth12: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n";
        let want = InterfaceStats { name: "eth0".into(), rx_bytes: 10, rx_errors: 2, tx_bytes: 20, tx_errors: 3 };
        assert_eq!(interfaces_of(text), [want]);
        assert_eq!(default_interface("Iface Destination\neth1 000200C0 0\neth0\t00000000\t01\n").unwrap(), "eth0");
    }

    #[test]
    fn this_machine_has_figures() {
        assert!(cpu_ns().unwrap() > 0);
        assert!(memory(&now()).available_bytes.unwrap() > 0);
        let pids = processes(&now());
        assert!(pids.max_pid.unwrap() > pids.running.unwrap());
        assert!(boot_time().is_some());
        assert!(network(None, &now()).is_some());
    }
}
