//! Writes the configuration of the private runtime and of its pod network.
//!
//! Called once per start, before the daemon. Every path in it lies below the two directories of the
//! options, which is what lets the sweep find everything again.
//!
//! Invariants: no default path of containerd is used (root, state, runc's state, `/opt`, network
//! namespaces); strings are checked before they are written into the configuration. A file is
//! replaced as a whole; a crash while writing is repaired by the next start.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::RuntimeOptions;
use crate::error::Error;

/// How the layers of images are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshotter {
    /// The kernel's overlay filesystem: small and fast.
    Overlayfs,
    /// Copies of directories: works everywhere.
    Native,
}

impl Snapshotter {
    /// The name that containerd knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }
}

/// Where distributions put the plugins of the container network interface.
const CNI_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

pub(super) fn parse_subnet(subnet: &str) -> Result<(Ipv4Addr, u8), Error> {
    let bad = || Error::Options(format!("{subnet} is not an IPv4 subnet such as 10.88.0.0/24"));
    let (address, bits) = subnet.split_once('/').ok_or_else(bad)?;
    let bits: u8 = bits.parse().map_err(|_| bad())?;
    let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
    if !(8..=29).contains(&bits) {
        return Err(bad());
    }
    Ok((address, bits))
}

/// Overlay works if a mount in the very directory does; it does not on top of another overlay.
pub(super) fn pick_snapshotter(root: &Path) -> Snapshotter {
    let probe = root.join("overlay-probe");
    let works = (|| {
        for dir in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(probe.join(dir)).ok()?;
        }
        let options = format!("lowerdir={p}/lower,upperdir={p}/upper,workdir={p}/work", p = probe.display());
        let target = probe.join("merged");
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).ok()?;
        umount2(&target, MntFlags::MNT_DETACH).ok()
    })()
    .is_some();
    let _ = fs::remove_dir_all(&probe);
    if works { Snapshotter::Overlayfs } else { Snapshotter::Native }
}

pub(super) fn write_files(options: &RuntimeOptions, snapshotter: Snapshotter) -> Result<(), Error> {
    let cni_conf = options.state.join("cni/net.d");
    fs::create_dir_all(&cni_conf).map_err(|e| Error::io(&cni_conf, e))?;
    let write = |path: PathBuf, text: String| fs::write(&path, text).map_err(|e| Error::io(&path, e));
    write(cni_conf.join("10-skerry.conflist"), network(options)?)?;
    write(options.config_path(), config(options, snapshotter))
}

fn cni_bin_dir() -> &'static str {
    CNI_DIRS.into_iter().find(|d| Path::new(d).join("bridge").is_file()).unwrap_or("/opt/cni/bin")
}

/// The portmap plugin writes its rules with iptables.
pub(super) fn can_publish_ports() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(cni_bin_dir()).join("portmap").is_file()
        && std::env::split_paths(&path).any(|dir| dir.join("iptables").is_file())
}

fn network(options: &RuntimeOptions) -> Result<String, Error> {
    let (address, bits) = parse_subnet(&options.subnet)?;
    let mut plugins = vec![json!({
        "type": "bridge",
        "bridge": options.bridge,
        "isGateway": true,
        "hairpinMode": true,
        "ipMasq": options.masquerade,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": format!("{address}/{bits}") }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
            "dataDir": options.state.join("cni/leases"),
        },
    })];
    if options.host_ports {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    }
    Ok(json!({ "cniVersion": "0.4.0", "name": options.bridge, "plugins": plugins }).to_string())
}

fn config(options: &RuntimeOptions, snapshotter: Snapshotter) -> String {
    let state = options.state.display();
    let root = options.root.display();
    let socket = options.socket();
    let socket = socket.display();
    let cni_bin = cni_bin_dir();
    let sandbox_image = &options.sandbox_image;
    let snapshotter = snapshotter.name();
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE a score below that of the daemon is refused.
    format!(
        r#"version = 2
root = "{root}/containerd"
state = "{state}/containerd"
required_plugins = ["io.containerd.grpc.v1.cri"]
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox_image}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{state}/runc"
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin}"
conf_dir = "{state}/cni/net.d"
"#
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subnets_are_checked() {
        assert!(parse_subnet("10.1.2.0/24").is_ok());
        for bad in ["", "10.1.2.0", "10.1.2.0/33", "10.1.2/24", "::/64", "10.1.2.0/30"] {
            assert!(parse_subnet(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_default_path_of_containerd_is_used() {
        let options = RuntimeOptions::new("/a/root", "/a/state");
        let text = config(&options, Snapshotter::Native);
        for default in ["/run/containerd", "/var/lib/containerd", "/opt/containerd", "/etc/cni"] {
            assert!(!text.contains(default), "{default}");
        }
        let network: serde_json::Value = serde_json::from_str(&network(&options).unwrap()).unwrap();
        assert_eq!(network.pointer("/plugins/0/ipam/dataDir").unwrap(), "/a/state/cni/leases");
    }
}
