//! What this machine has at one moment, so that a test can say that nothing was left behind.
//!
//! Read before and after; the difference is what stayed. Only kinds of things that a system of
//! `skerry up` makes are looked at. Tests that use it run one at a time (`.config/nextest.toml`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A picture of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine(BTreeSet<String>);

impl Machine {
    /// Looks at the machine. Processes count when their command line names `dir`.
    #[must_use]
    pub fn look(dir: &Path) -> Self {
        let mut found = BTreeSet::new();
        let mut add = |kind: &str, what: &str| {
            found.insert(format!("{kind}: {what}"));
        };
        let dir = dir.display().to_string();
        for pid in names("/proc").iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            if line.contains(&dir) && *pid != std::process::id().to_string() {
                add("process", &format!("{pid} {line}"));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = [dir.as_str(), "/run/netns", "/run/containerd", "/var/lib/containerd"];
        for point in mounts.lines().filter_map(|l| l.split(' ').nth(4)) {
            if ours.iter().any(|place| point.starts_with(place)) {
                add("mount", point);
            }
        }
        for name in names("/run/netns") {
            add("network namespace", &name);
        }
        for name in names("/sys/class/net") {
            add("interface", &name);
        }
        for name in names("/var/lib/cni/results") {
            add("network result", &name);
        }
        for name in names("/run/containerd/s") {
            add("shim socket", &name);
        }
        for table in ["nat", "filter"] {
            for rule in output("iptables", &["-w", "-t", table, "-S"]).lines().filter(|l| l.starts_with("-A")) {
                add("rule", &format!("{table} {rule}"));
            }
        }
        groups(Path::new("/sys/fs/cgroup"), 6, &mut |group| {
            if group.contains("k8s.io") || group.contains("kubepods") || group.contains("skerry") {
                add("control group", group);
            }
        });
        Self(found)
    }

    /// What is here and was not there before.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

fn groups(directory: &Path, depth: usize, add: &mut impl FnMut(&str)) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()) {
        add(&path.display().to_string());
        if depth > 0 {
            groups(&path, depth - 1, add);
        }
    }
}
