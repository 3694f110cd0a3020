//! What a control group uses: version 1 with one hierarchy per controller, and version 2.
//!
//! Called by the collector for each pod; blocking, a few small files of the kernel. A group that is
//! gone or a file that a kernel lacks gives nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the hierarchies are mounted.
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// Above this a limit of version 1 means "none".
const NO_LIMIT: u64 = 1 << 62;
/// Sandbox and containers lie one level below the pod; one more for runtimes that nest.
const PROCESS_DEPTH: usize = 2;
/// With version 1 one controller is enough to find a pod's processes.
const V1_CONTROLLERS: [&str; 3] = ["memory", "cpuacct", "pids"];

/// A control group's figures. CPU in nanoseconds, memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) working_set: Option<u64>,
    pub(crate) rss: Option<u64>,
    pub(crate) limit: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
    pub(crate) swap: Option<u64>,
    pub(crate) pids: Option<u64>,
}

/// A control group by its path below the hierarchies, `skerrypods/burstable/pod…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    mount: PathBuf,
    relative: PathBuf,
}

impl Group {
    /// `parent` is what the runtime was told: a path, or the name of a slice whose levels are
    /// separated by dashes.
    pub(crate) fn new(parent: &str) -> Option<Self> {
        Self::below(Path::new(MOUNT), parent)
    }

    fn below(mount: &Path, parent: &str) -> Option<Self> {
        let relative = match parent.strip_suffix(".slice") {
            Some(name) if !name.contains('/') => slice_path(name),
            _ => PathBuf::from(parent.trim_start_matches('/')),
        };
        (!relative.as_os_str().is_empty()).then(|| Self { mount: mount.to_owned(), relative })
    }

    fn unified(&self) -> bool {
        self.mount.join("cgroup.controllers").exists()
    }

    fn path(&self, controller: &str) -> PathBuf {
        if self.unified() { self.mount.join(&self.relative) } else { self.mount.join(controller).join(&self.relative) }
    }

    /// `None`: there is no such group.
    pub(crate) fn usage(&self) -> Option<Usage> {
        if self.unified() { self.usage_v2() } else { self.usage_v1() }
    }

    fn usage_v2(&self) -> Option<Usage> {
        let dir = self.path("");
        if !dir.is_dir() {
            return None;
        }
        let number = |file: &str| read_number(&dir.join(file));
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let cpu = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
        let memory = number("memory.current");
        Some(Usage {
            cpu_ns: field(&cpu, "usage_usec").map(|us| us.saturating_mul(1_000)),
            memory,
            working_set: working_set(memory, field(&stat, "inactive_file")),
            rss: field(&stat, "anon"),
            limit: number("memory.max"),
            page_faults: field(&stat, "pgfault"),
            major_page_faults: field(&stat, "pgmajfault"),
            swap: number("memory.swap.current"),
            pids: number("pids.current"),
        })
    }

    fn usage_v1(&self) -> Option<Usage> {
        let memory_dir = self.path("memory");
        let number = |file: &str| read_number(&memory_dir.join(file));
        let stat = fs::read_to_string(memory_dir.join("memory.stat")).unwrap_or_default();
        let memory = number("memory.usage_in_bytes");
        let usage = Usage {
            cpu_ns: read_number(&self.path("cpuacct").join("cpuacct.usage")),
            memory,
            working_set: working_set(memory, field(&stat, "total_inactive_file")),
            rss: field(&stat, "total_rss"),
            limit: number("memory.limit_in_bytes").filter(|l| *l < NO_LIMIT),
            page_faults: field(&stat, "total_pgfault"),
            major_page_faults: field(&stat, "total_pgmajfault"),
            swap: field(&stat, "total_swap"),
            pids: read_number(&self.path("pids").join("pids.current")),
        };
        (usage != Usage::default()).then_some(usage)
    }

    /// Any process of the group or of those below it.
    pub(crate) fn any_process(&self) -> Option<u32> {
        if self.unified() {
            return first_process(&self.path(""), PROCESS_DEPTH);
        }
        V1_CONTROLLERS.iter().find_map(|c| first_process(&self.path(c), PROCESS_DEPTH))
    }
}

fn first_process(dir: &Path, depth: usize) -> Option<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
    // Zero stands for a process of another namespace.
    if let Some(pid) = text.lines().filter_map(|l| l.trim().parse::<u32>().ok()).find(|p| *p > 0) {
        return Some(pid);
    }
    let below = depth.checked_sub(1)?;
    let entries = fs::read_dir(dir).ok()?;
    let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    dirs.into_iter().find_map(|e| first_process(&e.path(), below))
}

/// What the kubelet calls so: the usage without the file pages that were not used lately.
pub(crate) fn working_set(usage: Option<u64>, inactive_file: Option<u64>) -> Option<u64> {
    usage.map(|u| u.saturating_sub(inactive_file.unwrap_or(0)))
}

fn slice_path(name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    path
}

/// `name value` lines.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(crate) fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn version_2_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("cgroup.controllers", "cpu memory pids"),
                ("skerrypods/podu/cpu.stat", "usage_usec 7\nuser_usec 3\n"),
                ("skerrypods/podu/memory.current", "1000\n"),
                ("skerrypods/podu/memory.max", "max\n"),
                ("skerrypods/podu/memory.stat", "anon 400\nfile 600\ninactive_file 250\npgfault 5\npgmajfault 1\n"),
                ("skerrypods/podu/pids.current", "3\n"),
                ("skerrypods/podu/cgroup.procs", ""),
                ("skerrypods/podu/a/cgroup.procs", "41\n42\n"),
            ],
        );
        let group = Group::below(dir.path(), "/skerrypods/podu").unwrap();
        let usage = group.usage().unwrap();
        assert_eq!((usage.cpu_ns, usage.memory, usage.working_set), (Some(7_000), Some(1_000), Some(750)));
        assert_eq!((usage.rss, usage.limit, usage.pids), (Some(400), None, Some(3)));
        assert_eq!((usage.page_faults, usage.major_page_faults, usage.swap), (Some(5), Some(1), None));
        assert_eq!(group.any_process(), Some(41));
        assert_eq!(Group::below(dir.path(), "/skerrypods/podv").unwrap().usage(), None);
    }

    #[test]
    fn version_1_is_read_from_each_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("cpuacct/s/podu/cpuacct.usage", "99\n"),
                ("memory/s/podu/memory.usage_in_bytes", "500\n"),
                ("memory/s/podu/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/s/podu/memory.stat", "inactive_file 1\ntotal_inactive_file 900\ntotal_rss 80\n"),
                ("pids/s/podu/pids.current", "2\n"),
                ("memory/s/podu/cgroup.procs", "0\n7\n"),
            ],
        );
        let group = Group::below(dir.path(), "/s/podu").unwrap();
        let usage = group.usage().unwrap();
        assert_eq!((usage.cpu_ns, usage.working_set, usage.limit), (Some(99), Some(0), None));
        assert_eq!((usage.rss, usage.pids), (Some(80), Some(2)));
        assert_eq!(group.any_process(), Some(7));
        assert_eq!(Group::below(dir.path(), "/s/podv").unwrap().usage(), None);
    }

    #[test]
    fn slices_lie_below_each_other() {
        let group = Group::below(Path::new("/m"), "skerrypods-besteffort-poda_b.slice").unwrap();
        assert_eq!(
            group.relative,
            Path::new("skerrypods.slice/skerrypods-besteffort.slice/skerrypods-besteffort-poda_b.slice")
        );
        assert_eq!(Group::below(Path::new("/m"), ""), None);
    }
}
