//! `skerry edge`: the services of a node in one process.
//!
//! edgehub and edged run as tasks; edged reaches edgehub over its unix socket, as it would from a
//! process of its own. A task that ends is fatal: the process stops and its supervisor starts it again,
//! while pods go on. systemd is told when the services are up, and its watchdog is fed while they are
//! alive. SIGTERM drains within [`DRAIN`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use skerry_common::{NodeName, exit};
use skerry_identity::{Clock, CredentialStore, Credentials, TrustDomain};

use crate::failure::{Context as _, Failure, Result};
use crate::places;
use crate::process::write_atomically;

/// Time for the last reports to be stored and the connection to be closed.
const DRAIN: Duration = Duration::from_secs(10);

/// Options of `skerry edge`.
#[derive(Debug, Args)]
pub(crate) struct EdgeArgs {
    /// Directory of the node's state, as `skerry join` wrote it.
    #[arg(long, default_value = places::EDGE_DIR)]
    data_dir: PathBuf,
}

/// A taint of the Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Taint {
    /// Its key.
    pub(crate) key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub(crate) value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub(crate) effect: String,
}

impl Taint {
    /// Reads `key=value:Effect` or `key:Effect`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || Failure::usage(format!("{text:?} is not a taint")).cure("write it as key=value:NoSchedule");
        let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (key, value) = left.split_once('=').unwrap_or((left, ""));
        if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(wrong());
        }
        Ok(Self { key: key.into(), value: value.into(), effect: effect.into() })
    }
}

/// The configuration of a node: `edge.yaml` in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EdgeConfig {
    /// Name of the node; its certificate says the same.
    pub(crate) node_name: NodeName,
    /// Hubs, as host:port.
    pub(crate) hubs: Vec<String>,
    /// The trust domain of the system.
    pub(crate) trust_domain: String,
    /// Directory of the node's state: where this file is.
    #[serde(skip)]
    pub(crate) data_dir: PathBuf,
    /// CRI socket; found by itself when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime_endpoint: Option<String>,
    /// Address of the admin server.
    pub(crate) admin_listen: SocketAddr,
    /// Labels of the Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Taints of the Node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) taints: Vec<Taint>,
}

impl EdgeConfig {
    /// Reads the configuration of the node in a directory.
    pub(crate) fn load(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(places::EDGE_CONFIG);
        let mut config: Self = skerry_common::load(&path).map_err(|error| {
            Failure::usage("cannot start the node").because(&error).cure("skerry join <hub> --token <token>")
        })?;
        config.data_dir = places::absolute(data_dir)?;
        Ok(config)
    }

    /// Writes it. With this file the node is complete.
    pub(crate) fn save(&self) -> Result<()> {
        let text = serde_saphyr::to_string(self).or_fail(|| "cannot write the node's configuration".into())?;
        write_atomically(&self.data_dir.join(places::EDGE_CONFIG), text.as_bytes(), 0o600)
    }
}

/// The node's newest good credentials.
pub(crate) fn credentials(data_dir: &Path) -> Result<Credentials> {
    let unusable = || Failure::new("the node's credentials cannot be used").code(exit::REFUSED);
    let config = EdgeConfig::load(data_dir)?;
    let domain = TrustDomain::parse(&config.trust_domain).map_err(|error| unusable().because(&error))?;
    let store =
        CredentialStore::open(data_dir.join(places::EDGE_CREDENTIALS)).map_err(|error| unusable().because(&error))?;
    let loaded = store.load(&domain, &Clock::system());
    match (loaded.newest, loaded.rejected.first()) {
        (Some((credentials, ..)), _) => Ok(credentials),
        (None, Some((_, error))) => Err(unusable().because(error).cure("skerry reset, then skerry join")),
        (None, None) => Err(unusable().cause("there are none").cure("skerry join <hub> --token <token>")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = EdgeConfig {
            node_name: NodeName::parse("edge-1").unwrap(),
            hubs: vec!["hub.example:10000".into()],
            trust_domain: "skerry.local".into(),
            data_dir: dir.path().to_owned(),
            runtime_endpoint: None,
            admin_listen: places::loopback(places::EDGE_ADMIN_PORT),
            labels: BTreeMap::from([("zone".into(), "yes".into())]),
            taints: vec![Taint::parse("a=b:NoExecute").unwrap(), Taint::parse("c:NoSchedule").unwrap()],
        };
        config.save().unwrap();
        assert_eq!(EdgeConfig::load(dir.path()).unwrap(), config);
    }

    #[test]
    fn taints_are_checked() {
        for wrong in ["a", "a=b", "a=b:Never", "=b:NoSchedule", ":NoSchedule"] {
            assert!(Taint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
