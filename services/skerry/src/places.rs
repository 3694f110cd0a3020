//! Addresses, ports and directories that the commands agree on.
//!
//! README's port table is the same list for people; a test compares the two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Where a node keeps its state: credentials, configuration, store.
pub(crate) const EDGE_DIR: &str = "/var/lib/skerry";
/// Where `skerry up` keeps everything.
pub(crate) const UP_DIR: &str = ".skerry";
/// The node's configuration, in its directory. Written last by `join`: with it the node is complete.
pub(crate) const EDGE_CONFIG: &str = "edge.yaml";
/// The node's credentials, in its directory.
pub(crate) const EDGE_CREDENTIALS: &str = "credentials";
/// edgehub's socket for the services of its node, in its directory.
pub(crate) const EDGE_SOCKET: &str = "edgehub.sock";
/// Folder of edgehub's store, in its directory.
pub(crate) const EDGE_STORE: &str = "store";
/// Folder of edged's volumes and files of pods, in its directory.
pub(crate) const EDGED_ROOT: &str = "edged";
/// Folder of dmi's store, in its directory.
pub(crate) const DMI_STORE: &str = "dmi";
/// dmi's socket for mappers in the directory of a node that shares its machine with others.
#[cfg(feature = "cloud")]
pub(crate) const DMI_SOCKET: &str = "dmi.sock";
/// Where the logs of pods go on a node: where log collectors look for them.
pub(crate) const POD_LOG_DIR: &str = "/var/log/pods";
/// Name of the kubeconfig in the directory of `up`.
pub(crate) const KUBECONFIG: &str = "kubeconfig";
/// Trust domain of `up`.
pub(crate) const TRUST_DOMAIN: &str = "skerry.local";
/// Node that `up` makes.
pub(crate) const UP_NODE: &str = "edge-1";

/// cloudhub's port for nodes.
pub(crate) const HUB_PORT: u16 = 10000;
/// The embedded API server's port.
pub(crate) const APISERVER_PORT: u16 = 16443;
/// edgecontroller's port for cloudhub.
pub(crate) const EDGECONTROLLER_PORT: u16 = 10100;
/// devicecontroller's port for cloudhub.
pub(crate) const DEVICECONTROLLER_PORT: u16 = 10110;
/// devicecontroller's port for admission reviews.
pub(crate) const DEVICECONTROLLER_WEBHOOK_PORT: u16 = 10111;
/// Admin port of devicecontroller.
pub(crate) const DEVICECONTROLLER_ADMIN_PORT: u16 = 9098;
/// Admin port of cloudhub.
pub(crate) const HUB_ADMIN_PORT: u16 = 9091;
/// Admin port of edgecontroller.
pub(crate) const EDGECONTROLLER_ADMIN_PORT: u16 = 9092;
/// Admin port of the embedded API server.
pub(crate) const APISERVER_ADMIN_PORT: u16 = 9093;
/// Admin port of the embedded controllers.
pub(crate) const CONTROLLERS_ADMIN_PORT: u16 = 9094;
/// Port of edged's kubelet API.
pub(crate) const KUBELET_PORT: u16 = skerry_edged::DEFAULT_API_PORT;
/// Admin port of edgehub.
pub(crate) const EDGEHUB_ADMIN_PORT: u16 = 9095;

/// An address of this machine only.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The path from the root: other processes run in other directories.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Failure::new(format!("cannot find {}", path.display())).because(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_ports_are_those_of_the_readme() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
        let table: Vec<&str> = readme.lines().filter(|l| l.starts_with("| ") && l.contains(" | ")).collect();
        for (process, address) in [
            ("cloudhub", format!("0.0.0.0:{HUB_PORT}")),
            ("cloudhub", loopback(HUB_ADMIN_PORT).to_string()),
            ("edgecontroller", loopback(EDGECONTROLLER_PORT).to_string()),
            ("edgecontroller", loopback(EDGECONTROLLER_ADMIN_PORT).to_string()),
            ("devicecontroller", loopback(DEVICECONTROLLER_PORT).to_string()),
            ("devicecontroller", loopback(DEVICECONTROLLER_WEBHOOK_PORT).to_string()),
            ("devicecontroller", loopback(DEVICECONTROLLER_ADMIN_PORT).to_string()),
            ("apiserver", loopback(APISERVER_PORT).to_string()),
            ("apiserver", loopback(APISERVER_ADMIN_PORT).to_string()),
            ("controllers", loopback(CONTROLLERS_ADMIN_PORT).to_string()),
            ("edgehub", format!("<data-dir>/{EDGE_SOCKET}")),
            ("edgehub", loopback(EDGEHUB_ADMIN_PORT).to_string()),
            ("edged", loopback(EDGEHUB_ADMIN_PORT + 1).to_string()),
            ("edged", format!("0.0.0.0:{KUBELET_PORT}")),
            ("dmi", skerry_dmi::DEFAULT_SOCKET.to_owned()),
            ("dmi", loopback(EDGEHUB_ADMIN_PORT + 2).to_string()),
        ] {
            assert!(
                table.iter().any(|l| l.starts_with(&format!("| {process} ")) && l.contains(&format!("| {address} |"))),
                "{process} {address} is not in README's port table"
            );
        }
    }
}
