//! Configuration of EdgeController, as in its YAML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use skerry_identity::{DEFAULT_NODE_LIFETIME, DEFAULT_TRUST_DOMAIN, MAX_NODE_LIFETIME, TrustDomain};

use crate::apply::STATUS_PER_SECOND;
use crate::error::ControllerError;

/// Port for cloudhub.
const DEFAULT_PORT: u16 = 10_100;

/// More status writes a second than any API server takes from one client.
const MAX_STATUS_PER_SECOND: u32 = 10_000;

/// Certificates of nodes live at least this long: two renewals must fit into an outage of the cloud.
const MIN_NODE_LIFETIME: Duration = Duration::from_secs(300);

/// As in the YAML file. Unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// Address for cloudhub. Every address by default: hubs are other pods or machines, and mutual TLS lets
    /// in nobody but the service `cloudhub`.
    pub listen: SocketAddr,
    /// The kubeconfig; without it `KUBECONFIG`, the home folder, or the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// The trust domain of a CA that has to be made. An existing CA keeps its own.
    pub trust_domain: String,
    /// Folders in which certificates of other services are kept and renewed, by service name: for services
    /// on the same machine or volume (`cloudhub`, `admin`).
    pub credentials: BTreeMap<String, PathBuf>,
    /// Life of the certificates of nodes, in seconds.
    pub node_certificate_seconds: u64,
    /// Status writes a second towards the API server, over all nodes.
    pub status_writes_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            kubeconfig: None,
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            credentials: BTreeMap::new(),
            node_certificate_seconds: DEFAULT_NODE_LIFETIME.as_secs(),
            status_writes_per_second: STATUS_PER_SECOND,
        }
    }
}

/// A configuration that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) node_lifetime: Duration,
    pub(crate) status_per_second: u32,
    pub(crate) credentials: BTreeMap<String, PathBuf>,
}

impl Config {
    pub(crate) fn check(&self) -> Result<Checked, ControllerError> {
        let setting = |name, reason: String| ControllerError::Setting { name, reason };
        let trust_domain =
            TrustDomain::parse(&self.trust_domain).map_err(|e| setting("trustDomain", skerry_common::chain(&e)))?;
        let node_lifetime = Duration::from_secs(self.node_certificate_seconds);
        if !(MIN_NODE_LIFETIME..=MAX_NODE_LIFETIME).contains(&node_lifetime) {
            let range = format!("must be {} to {}", MIN_NODE_LIFETIME.as_secs(), MAX_NODE_LIFETIME.as_secs());
            return Err(setting("nodeCertificateSeconds", range));
        }
        if !(1..=MAX_STATUS_PER_SECOND).contains(&self.status_writes_per_second) {
            return Err(setting("statusWritesPerSecond", format!("must be 1 to {MAX_STATUS_PER_SECOND}")));
        }
        Ok(Checked {
            trust_domain,
            node_lifetime,
            status_per_second: self.status_writes_per_second,
            credentials: self.credentials.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults_are_good_and_unknown_keys_are_not() {
        assert!(Config::default().check().is_ok());
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&format!("listens on {} by default", Config::default().listen)));
        let parse = |text: &str| skerry_common::parse::<Config>(text, "test");
        assert!(parse("listen: 127.0.0.1:0\ncredentials: {cloudhub: /tmp/x}\n").unwrap().check().is_ok());
        assert!(parse("listn: 127.0.0.1:0\n").is_err());
        assert!(parse("nodeCertificateSeconds: 5\n").unwrap().check().is_err());
        assert!(parse("statusWritesPerSecond: 0\n").unwrap().check().is_err());
        assert!(parse("trustDomain: 'a b'\n").unwrap().check().is_err());
    }
}
