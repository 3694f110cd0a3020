//! Where control groups are, and what they are called.
//!
//! Names and the reading of the mount table are pure; [`Layout::detect`] and the two functions at the
//! end look at the machine. Version 2 is in force where it is mounted at the top, as runtimes see it;
//! a version 2 hierarchy elsewhere limits nothing but is cleaned.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::resources::{self, Qos};

const TOP: &str = "/sys/fs/cgroup";
/// Controllers that pods are limited by (version 2).
const CONTROLLERS: [&str; 6] = ["cpu", "memory", "pids", "hugetlb", "cpuset", "io"];

/// Who manages control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Not known: the runtime chooses the parent.
    #[default]
    Unknown,
    Cgroupfs,
    Systemd,
}

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    unified: bool,
    /// Mount points with the controllers of each; none with version 2.
    mounts: Vec<(PathBuf, Vec<String>)>,
}

impl Layout {
    pub(crate) fn detect() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Reads a mount table in the format of mountinfo.
    fn parse(table: &str) -> Self {
        let mut layout = Self { unified: false, mounts: Vec::new() };
        for line in table.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let (Some(point), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
            let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
            match kind {
                "cgroup" => {
                    layout.mounts.push((point.into(), options.split(',').map(str::to_owned).collect()));
                }
                "cgroup2" => {
                    layout.unified |= point == TOP;
                    layout.mounts.push((point.into(), Vec::new()));
                }
                _ => {}
            }
        }
        layout
    }

    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// Every hierarchy.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().map(|(path, _)| path.as_path())
    }

    /// The hierarchy of a controller, if it has one.
    pub(crate) fn mount_of(&self, controller: &str) -> Option<&Path> {
        if self.unified {
            return self.mounts().find(|p| *p == Path::new(TOP));
        }
        self.mounts.iter().find(|(_, all)| all.iter().any(|c| c == controller)).map(|(path, _)| path.as_path())
    }

    /// Whether swap can be forbidden per group: the file is there in our own.
    pub(crate) fn limits_swap(&self) -> bool {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
        let top = Path::new(TOP);
        // The top group has no such file.
        self.unified && [own, "init.scope"].iter().any(|group| top.join(group).join("memory.swap.max").exists())
    }
}

/// The group above all pods, in the runtime's terms.
pub(crate) fn top(root: &str, driver: Driver) -> String {
    match driver {
        Driver::Unknown => String::new(),
        Driver::Cgroupfs => format!("/{root}"),
        Driver::Systemd => format!("{}.slice", root.replace('-', "_")),
    }
}

/// The control group of a pod below its class, in the runtime's terms.
pub(crate) fn parent_of_pod(root: &str, class: Qos, uid: &str, driver: Driver) -> String {
    let class = match class {
        Qos::Guaranteed => "",
        Qos::Burstable => "burstable",
        Qos::BestEffort => "besteffort",
    };
    match driver {
        Driver::Unknown => String::new(),
        Driver::Cgroupfs if class.is_empty() => format!("/{root}/pod{uid}"),
        Driver::Cgroupfs => format!("/{root}/{class}/pod{uid}"),
        Driver::Systemd => {
            // A dash separates the levels of slices.
            let (root, uid) = (root.replace('-', "_"), uid.replace('-', "_"));
            if class.is_empty() { format!("{root}-pod{uid}.slice") } else { format!("{root}-{class}-pod{uid}.slice") }
        }
    }
}

/// Sizes of huge pages that the kernel offers, as control groups name them.
pub(crate) fn huge_pages() -> Vec<String> {
    let mut sizes: Vec<String> =
        huge_page_pools(Path::new(HUGE_PAGES)).keys().filter_map(|name| resources::huge_page_size(name)).collect();
    sizes.sort();
    sizes
}

/// Where the kernel shows its pools of huge pages.
pub(crate) const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// The machine's huge pages: names of resources (`hugepages-2Mi`), and bytes in the pool of that size.
pub(crate) fn huge_page_pools(dir: &Path) -> BTreeMap<String, i64> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let pool = |entry: fs::DirEntry| {
        let kilobytes: i64 =
            entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: i64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let size = match kilobytes {
            k if k % (1 << 20) == 0 => format!("{}Gi", k >> 20),
            k if k % (1 << 10) == 0 => format!("{}Mi", k >> 10),
            k => format!("{k}Ki"),
        };
        Some((format!("hugepages-{size}"), pages.checked_mul(kilobytes)?.checked_mul(1024)?))
    };
    entries.flatten().filter_map(pool).collect()
}

/// Lets the children of a group have limits (version 2). What the kernel lacks is skipped; what it
/// refuses shows when the limit is written.
pub(crate) fn delegate(dir: &Path) {
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in CONTROLLERS.iter().filter(|c| !enabled.split_whitespace().any(|e| e == **c)) {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V1: &str = "\
24 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
26 24 0:22 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 24 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
28 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found_by_controller() {
        let v1 = Layout::parse(V1);
        assert!(!v1.is_unified());
        assert_eq!(v1.mount_of("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(v1.mount_of("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(v1.mount_of("hugetlb"), None);
        assert_eq!(v1.mounts().count(), 4);
        let v2 = Layout::parse("30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(v2.is_unified());
        assert_eq!(v2.mount_of("cpu"), Some(Path::new(TOP)));
        assert_eq!(Layout::parse("garbage\n- - -\n").mounts().count(), 0);
    }

    #[test]
    fn pools_of_huge_pages_are_resources() {
        let dir = tempfile::tempdir().unwrap();
        for (size, pages) in [("64", "3"), ("2048", "5"), ("1048576", "0"), ("2048x", "9")] {
            let pool = dir.path().join(format!("hugepages-{size}kB"));
            fs::create_dir(&pool).unwrap();
            fs::write(pool.join("nr_hugepages"), format!("{pages}\n")).unwrap();
        }
        let pools = [("hugepages-1Gi", 0), ("hugepages-2Mi", 10 << 20), ("hugepages-64Ki", 192 << 10)];
        assert_eq!(huge_page_pools(dir.path()), pools.map(|(name, bytes)| (name.to_owned(), bytes)).into());
        assert_eq!(huge_page_pools(&dir.path().join("none")), BTreeMap::new());
    }

    #[test]
    fn pods_lie_below_their_class() {
        let name = |class, driver| parent_of_pod("pods", class, "a-b", driver);
        assert_eq!(name(Qos::Guaranteed, Driver::Cgroupfs), "/pods/poda-b");
        assert_eq!(name(Qos::BestEffort, Driver::Cgroupfs), "/pods/besteffort/poda-b");
        assert_eq!(name(Qos::BestEffort, Driver::Systemd), "pods-besteffort-poda_b.slice");
        assert_eq!(name(Qos::Guaranteed, Driver::Systemd), "pods-poda_b.slice");
        assert_eq!(name(Qos::Burstable, Driver::Unknown), "");
        let tops = [Driver::Unknown, Driver::Cgroupfs, Driver::Systemd].map(|d| top("a-pods", d));
        assert_eq!(tops, ["", "/a-pods", "a_pods.slice"]);
    }
}
