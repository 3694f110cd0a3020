//! Configuration of the edge end.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use skerry_common::NodeName;

/// Configuration of EdgeHub, as in its YAML file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The node's name; the certificate must carry the same.
    pub node_name: NodeName,
    /// Addresses of the hub, `host:port`; more than one for replicas.
    pub hubs: Vec<String>,
    /// The trust domain of the system.
    pub trust_domain: String,
    /// Folder of the node's certificate.
    pub credentials: PathBuf,
    /// Folder of the store.
    pub store: PathBuf,
    /// Whether the node wants Services and EndpointSlices.
    #[serde(default = "yes")]
    pub services: bool,
    /// Whether the node wants its Devices and their DeviceModels.
    #[serde(default = "yes")]
    pub devices: bool,
    /// Waits of the reconnect loop; only tests change them.
    #[serde(skip)]
    pub times: LinkTimes,
}

/// Where EdgeHub serves the services of its node.
#[derive(Debug)]
pub enum Listen {
    /// A unix socket that only its owner may use.
    Socket(PathBuf),
    /// In this process.
    Pipe(skerry_rpc::PipeListener),
}

/// Waits of the reconnect loop.
#[derive(Debug, Clone)]
pub struct LinkTimes {
    /// First ceiling of the wait between attempts.
    pub retry_min: Duration,
    /// Last ceiling while the outage is young: most links are back within minutes, and then nobody
    /// should wait.
    pub retry_soon: Duration,
    /// How long an outage is young.
    pub young: Duration,
    /// Last ceiling after that.
    pub retry_max: Duration,
    /// A connection that lasted this long starts the waits from the beginning.
    pub stable_after: Duration,
}

impl Default for LinkTimes {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(200),
            retry_soon: Duration::from_secs(3),
            young: Duration::from_secs(300),
            retry_max: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
        }
    }
}

fn yes() -> bool {
    true
}
