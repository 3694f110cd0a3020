//! Configuration of edged: what its YAML file holds, with defaults.
//!
//! Read once at start by `main` or made by whoever runs edged inside another process. Unknown keys
//! are refused. Every default has its reason beside it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use skerry_common::NodeName;

use crate::error::Error;
use crate::node_config::NodeConfig;

/// Where EdgeHub listens by default.
pub const DEFAULT_EDGEHUB: &str = "/run/skerry/edgehub.sock";
/// The kubelet's port.
pub const DEFAULT_API_PORT: u16 = 10_250;
/// State of pods: volumes, hosts files, termination messages.
const DEFAULT_ROOT: &str = "/var/lib/skerry/edged";
/// Where the kubelet keeps logs and log collectors look for them.
const DEFAULT_LOGS: &str = "/var/log/pods";
const DEFAULT_LINKS: &str = "/var/log/containers";
/// The control group above all pods. Not the kubelet's name, so that both can be told apart.
pub const DEFAULT_CGROUP_ROOT: &str = "skerrypods";

/// See the module documentation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Name of the Node.
    pub node_name: NodeName,
    /// Directory for the state of pods.
    #[serde(default = "root")]
    pub root_dir: PathBuf,
    /// Directory for the logs of pods.
    #[serde(default = "logs")]
    pub pod_log_dir: PathBuf,
    /// Path or `unix://` URL of the CRI socket; found by itself when not set.
    #[serde(default)]
    pub runtime_endpoint: Option<String>,
    /// Socket of EdgeHub, for a process of its own.
    #[serde(default = "edgehub")]
    pub edgehub: PathBuf,
    /// Address of this machine that pods and the cloud use; found by itself when not set.
    #[serde(default)]
    pub node_ip: Option<std::net::IpAddr>,
    /// Labels of the Node, besides the usual ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Control group above all pods.
    #[serde(default = "cgroup_root")]
    pub cgroup_root: String,
    /// The kubelet API; not served without it.
    #[serde(default)]
    pub api: Option<Api>,
    /// Directory of manifests of pods that run whatever the API says; none when not set.
    #[serde(default)]
    pub static_pod_path: Option<PathBuf>,
    /// What users of the kubelet know from its configuration.
    #[serde(default)]
    pub node: NodeConfig,
}

/// The kubelet API: who may reach it and what it shows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Api {
    /// Address to listen on.
    #[serde(default = "api_listen")]
    pub listen: SocketAddr,
    /// Folder of the node's credentials, which edgehub keeps fresh.
    pub credentials: PathBuf,
    /// The trust domain of the system.
    pub trust_domain: String,
    /// CA of users' client certificates, PEM: that of a kube-apiserver's kubelet client.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Certificate to show instead of the node's, PEM, for a kube-apiserver that verifies its kubelets.
    #[serde(default)]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub tls_private_key_file: Option<PathBuf>,
}

impl Api {
    /// With the defaults.
    pub fn new(credentials: PathBuf, trust_domain: String) -> Self {
        Self {
            listen: api_listen(),
            credentials,
            trust_domain,
            client_ca_file: None,
            tls_cert_file: None,
            tls_private_key_file: None,
        }
    }
}

/// A taint of the Node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

/// How edged reaches EdgeHub.
#[derive(Debug, Clone)]
pub enum Connect {
    /// Over its socket.
    Socket(PathBuf),
    /// In this process.
    Pipe(skerry_rpc::PipeConnector),
}

impl Config {
    /// A configuration with all defaults.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            root_dir: root(),
            pod_log_dir: logs(),
            runtime_endpoint: None,
            edgehub: edgehub(),
            node_ip: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cgroup_root: cgroup_root(),
            api: None,
            static_pod_path: None,
            node: NodeConfig::default(),
        }
    }

    /// Where links to the logs of containers are made: as configured, or where collectors look for
    /// them if the logs themselves are where collectors look.
    pub(crate) fn log_links(&self) -> Option<PathBuf> {
        let usual = self.pod_log_dir == logs();
        self.node.container_log_links.clone().or_else(|| usual.then(|| DEFAULT_LINKS.into()))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |why: String| Err(Error::Options(why));
        for (name, dir) in [("rootDir", &self.root_dir), ("podLogDir", &self.pod_log_dir)] {
            if !dir.is_absolute() || dir.to_str().is_none() {
                return bad(format!("{name} must be an absolute path"));
            }
        }
        if self.static_pod_path.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            return bad("staticPodPath must be an absolute path".into());
        }
        for taint in &self.taints {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            if taint.key.is_empty() || !effects.contains(&taint.effect.as_str()) {
                return bad(format!("the taint {:?} needs a key and one of {}", taint.key, effects.join(", ")));
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.cgroup_root.is_empty() || self.cgroup_root.starts_with('-') || !self.cgroup_root.chars().all(plain) {
            return bad("cgroupRoot must be letters, digits, '_' and '-'".into());
        }
        if self.api.as_ref().is_some_and(|a| a.tls_cert_file.is_some() != a.tls_private_key_file.is_some()) {
            return bad("tlsCertFile and tlsPrivateKeyFile belong together".into());
        }
        self.node.check()
    }
}

fn root() -> PathBuf {
    DEFAULT_ROOT.into()
}

fn logs() -> PathBuf {
    DEFAULT_LOGS.into()
}

fn edgehub() -> PathBuf {
    DEFAULT_EDGEHUB.into()
}

fn api_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], DEFAULT_API_PORT))
}

fn cgroup_root() -> String {
    DEFAULT_CGROUP_ROOT.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_enough_and_unknown_keys_are_refused() {
        let config: Config = skerry_common::parse("nodeName: edge-1\n", "test").unwrap();
        assert_eq!(config.edgehub, PathBuf::from(DEFAULT_EDGEHUB));
        config.check().unwrap();
        assert!(skerry_common::parse::<Config>("nodeName: edge-1\nnode: x\n", "test").is_err());
        let wrong = "nodeName: edge-1\ntaints: [{key: a, effect: Never}]\n";
        assert!(skerry_common::parse::<Config>(wrong, "test").unwrap().check().is_err());
    }
}
