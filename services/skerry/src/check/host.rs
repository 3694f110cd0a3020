//! Probes of the machine itself: user, kernel, control groups, clock, memory, disk.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::Finding;

/// Oldest kernel that is tried: 4.19 has overlayfs as we use it.
const OLDEST_KERNEL: (u32, u32) = (4, 19);
/// A store, logs and a few images.
const MIN_FREE_DISK: u64 = 1 << 30;
/// Below this share of free blocks the node reports disk pressure.
const MIN_FREE_DISK_PERCENT: u64 = 10;
/// The node services and one small pod.
const MIN_FREE_MEMORY_KB: u64 = 128 * 1024;
/// Nobody's clock is right before this software was written (2026-01-01).
const EARLIEST_UNIX: i64 = 1_767_225_600;
/// Each pod with configuration uses a few.
const MIN_INOTIFY_INSTANCES: u64 = 128;
/// Control groups that a runtime needs.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// All of them.
pub(super) fn probes(data_dir: &Path) -> Vec<Finding> {
    vec![user(), kernel(), filesystems(), namespaces(), cgroups(), clock(), memory(), disk(data_dir), inotify()]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn user() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::ok("user", "root")
    } else {
        Finding::failed("user", "not root: containers, mounts and namespaces need it", "run as root")
    }
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_KERNEL {
        Finding::ok("kernel", release)
    } else {
        Finding::failed("kernel", release, format!("use Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1))
    }
}

fn filesystems() -> Finding {
    let known = read("/proc/filesystems");
    let has = |name: &str| known.lines().any(|l| l.split_whitespace().last() == Some(name));
    if has("overlay") {
        return Finding::ok("overlayfs", "the kernel knows it");
    }
    let module = format!("/lib/modules/{}/kernel/fs/overlayfs", read("/proc/sys/kernel/osrelease"));
    if Path::new(&module).exists() {
        Finding::ok("overlayfs", "as a module, loaded when it is needed")
    } else {
        Finding::warning("overlayfs", "the kernel does not know it: images take more space", "modprobe overlay")
    }
}

fn namespaces() -> Finding {
    let missing: Vec<_> = ["net", "pid", "mnt", "uts", "ipc"]
        .into_iter()
        .filter(|n| !Path::new("/proc/self/ns").join(n).exists())
        .collect();
    if missing.is_empty() {
        Finding::ok("namespaces", "net, pid, mnt, uts, ipc")
    } else {
        Finding::failed("namespaces", format!("missing: {}", missing.join(", ")), "use a kernel with these namespaces")
    }
}

fn cgroups() -> Finding {
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let hybrid = read("/proc/cgroups");
    let v2 = !unified.is_empty();
    let has = |name: &&str| {
        if v2 {
            unified.split(' ').any(|c| c == *name)
        } else {
            Path::new("/sys/fs/cgroup").join(name).is_dir()
                && hybrid.lines().any(|l| l.split_whitespace().next() == Some(*name) && l.ends_with('1'))
        }
    };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|c| !has(c)).collect();
    if missing.is_empty() {
        Finding::ok("cgroups", format!("version {}: {}", if v2 { 2 } else { 1 }, CONTROLLERS.join(", ")))
    } else {
        Finding::failed(
            "cgroups",
            format!("missing: {}", missing.join(", ")),
            "mount /sys/fs/cgroup; on a Raspberry Pi add cgroup_enable=memory cgroup_memory=1 to cmdline.txt",
        )
    }
}

fn clock() -> Finding {
    let now = jiff::Timestamp::now();
    if now.as_second() < EARLIEST_UNIX {
        return Finding::failed(
            "clock",
            format!("it shows {now}, certificates would not be valid yet"),
            "set the time (date -s), then start a time service such as chrony or systemd-timesyncd",
        );
    }
    let services =
        ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];
    if services.iter().any(|p| Path::new(p).exists()) {
        Finding::ok("clock", format!("{now}, kept by a time service"))
    } else {
        Finding::warning(
            "clock",
            format!("{now}, no time service was found"),
            "install chrony or systemd-timesyncd: a clock that drifts makes certificates invalid",
        )
    }
}

fn memory() -> Finding {
    let free = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    let detail = format!("{} MB available", free / 1024);
    if free >= MIN_FREE_MEMORY_KB {
        Finding::ok("memory", detail)
    } else {
        Finding::warning("memory", detail, format!("free memory: {} MB are needed", MIN_FREE_MEMORY_KB / 1024))
    }
}

fn disk(data_dir: &Path) -> Finding {
    // The directory may not be there yet: its nearest parent that exists is on the same disk.
    let Some((path, stats)) = data_dir.ancestors().find_map(|p| Some((p, statvfs(p).ok()?))) else {
        return Finding::failed("disk", "no file system", "mount a file system");
    };
    let block = stats.fragment_size();
    let free = stats.blocks_available().saturating_mul(block);
    let percent = stats.blocks_available().saturating_mul(100) / stats.blocks().max(1);
    let detail = format!("{} free ({percent} %) at {}", crate::ui::bytes(free), path.display());
    if free < MIN_FREE_DISK {
        Finding::failed("disk", detail, "free at least 1 GB, or choose another --data-dir")
    } else if percent < MIN_FREE_DISK_PERCENT {
        Finding::warning("disk", detail, "free some space: the node will report disk pressure")
    } else {
        Finding::ok("disk", detail)
    }
}

fn inotify() -> Finding {
    let limit: u64 = read("/proc/sys/fs/inotify/max_user_instances").parse().unwrap_or(0);
    if limit >= MIN_INOTIFY_INSTANCES {
        Finding::ok("inotify", format!("{limit} instances"))
    } else {
        Finding::warning("inotify", format!("{limit} instances"), "sysctl -w fs.inotify.max_user_instances=8192")
    }
}
