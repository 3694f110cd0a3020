//! What a node has of pods: everywhere where something of a pod can stay behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use skerry_test_support::Containerd;

use crate::node::find_paths;

/// The places of one node.
pub(crate) struct Places {
    slot: PathBuf,
    socket: PathBuf,
    bridge: String,
    snapshotter: &'static str,
}

impl Places {
    pub(crate) fn of(containerd: &mut Containerd) -> Self {
        let (slot, socket) = (containerd.dir().to_owned(), containerd.socket());
        let runtime = containerd.runtime().unwrap();
        Self { slot, socket, bridge: runtime.options().bridge.clone(), snapshotter: runtime.snapshotter().name() }
    }

    /// All that is there of pods whose uid begins with `uids`; empty on a clean node.
    pub(crate) fn left(&self, uids: &str) -> Vec<String> {
        let state = self.slot.join("state/containerd");
        let mut left = Vec::new();
        let mut add = |what: &str, names: Vec<String>| left.extend(names.iter().map(|n| format!("{what}: {n}")));
        add("container", self.ctr(&["containers", "ls", "-q"]).lines().map(str::to_owned).collect());
        let active = self.ctr(&["snapshots", "--snapshotter", self.snapshotter, "ls"]);
        add("snapshot", active.lines().filter(|l| l.contains("Active")).map(str::to_owned).collect());
        for (what, dir) in [
            ("task", state.join("io.containerd.runtime.v2.task/k8s.io")),
            ("sandbox", state.join("io.containerd.grpc.v1.cri/sandboxes")),
            ("container", state.join("io.containerd.grpc.v1.cri/containers")),
            ("network namespace", state.join("io.containerd.grpc.v1.cri/netns")),
            ("pod directory", self.slot.join("edged/pods")),
            ("pod directory in memory", self.slot.join("edged/memory")),
            ("log directory", self.slot.join("logs")),
            ("interface", Path::new("/sys/class/net").join(&self.bridge).join("brif")),
        ] {
            add(what, names(&dir));
        }
        let leases = names(&self.slot.join("state/cni/leases").join(&self.bridge));
        add("address", leases.into_iter().filter(|n| n.parse::<std::net::IpAddr>().is_ok()).collect());
        let groups = find_paths(Path::new("/sys/fs/cgroup"), &format!("pod{uids}"), 4);
        add("control group", groups.iter().map(|g| g.display().to_string()).collect());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The directory in memory is itself a mount, as long as the node is.
        let memory = self.slot.join("edged/memory");
        let points = table.lines().filter_map(|l| l.split(' ').nth(4));
        let points = points.filter(|p| Path::new(p).starts_with(&self.slot) && Path::new(p) != memory);
        add("mount", points.map(str::to_owned).collect());
        left
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        let out = Command::new("ctr").arg("--address").arg(&self.socket).args(["-n", "k8s.io"]).args(args).output();
        let out = out.unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}
