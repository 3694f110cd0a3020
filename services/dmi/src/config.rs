//! Configuration of dmi.
//!
//! Raw keys that are unknown are refused; [`Config::check`] checks the rest. Every default is a constant with
//! its reason.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skerry_common::NodeName;

use crate::bus::Mqtt;
use crate::error::Error;

/// Where KubeEdge's mappers look for it.
pub const DEFAULT_SOCKET: &str = "/etc/kubeedge/dmi.sock";
/// Socket of EdgeHub, for a process of its own.
const DEFAULT_EDGEHUB: &str = "/run/skerry/edgehub.sock";
/// Folders below which mappers have their sockets, beside that of our own.
const MAPPER_DIRS: [&str; 2] = ["/etc/kubeedge", "/run"];
/// Between two statuses of a device with changed values: a thousand devices are a hundred writes a second.
const STATUS_SECONDS: u64 = 10;
/// Between two statuses whose values are only confirmed.
const REFRESH_SECONDS: u64 = 60;
/// Between two statuses of a device while the cloud is away: each is a write to the node's disk.
const OFFLINE_SECONDS: u64 = 300;
/// Between two checkpoints of reported values: what a crash loses, which mappers report again; each is a
/// write to the node's disk.
const CHECKPOINT_SECONDS: u64 = 300;
/// Values of one mapper in a second: a tenth of it is a busy line, and one mapper must not take a fleet.
const VALUES_PER_SECOND: u32 = 200_000;
/// Unary calls of one mapper in a second; KubeEdge's mappers make one for each property and cycle.
const CALLS_PER_SECOND: u32 = 5_000;

/// What one mapper may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Quotas {
    /// Values in one second; a second's worth may come at once.
    pub values_per_second: u32,
    /// Unary calls in one second; likewise.
    pub calls_per_second: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { values_per_second: VALUES_PER_SECOND, calls_per_second: CALLS_PER_SECOND }
    }
}

/// What can be configured of devices on a node: `dmi` in `edge.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Options {
    /// Socket for mappers and people.
    pub socket: PathBuf,
    /// Group that may use the socket, beside root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// Users that may use the socket, if its file lets them: by default only root, and members of the group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_uids: Vec<u32>,
    /// Folders below which mappers may have their sockets; the usual ones when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mapper_socket_dirs: Vec<PathBuf>,
    /// Seconds between two statuses of a device with changed values.
    pub status_seconds: u64,
    /// Seconds between two statuses of a device whose values are only confirmed.
    pub refresh_seconds: u64,
    /// Seconds between two checkpoints of reported values.
    pub checkpoint_seconds: u64,
    /// What one mapper may do.
    pub quotas: Quotas,
    /// Broker of the event bus; there is none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<Mqtt>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            socket_group: None,
            allowed_uids: Vec::new(),
            mapper_socket_dirs: Vec::new(),
            status_seconds: STATUS_SECONDS,
            refresh_seconds: REFRESH_SECONDS,
            checkpoint_seconds: CHECKPOINT_SECONDS,
            quotas: Quotas::default(),
            mqtt: None,
        }
    }
}

/// See the module documentation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Name of the Node.
    pub node_name: NodeName,
    /// Folder of the store.
    pub store: PathBuf,
    /// Socket of EdgeHub, for a process of its own.
    #[serde(default = "edgehub")]
    pub edgehub: PathBuf,
    /// Everything else.
    #[serde(default)]
    pub dmi: Options,
}

/// How dmi reaches EdgeHub.
#[derive(Debug, Clone)]
pub enum Connect {
    /// Over its socket.
    Socket(PathBuf),
    /// In this process.
    Pipe(skerry_rpc::PipeConnector),
}

impl Config {
    /// A configuration with all defaults.
    pub fn new(node_name: NodeName, store: PathBuf) -> Self {
        Self { node_name, store, edgehub: edgehub(), dmi: Options::default() }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |why: &str| Err(Error::Options(why.into()));
        let absolute = |path: &Path| path.is_absolute() && path.to_str().is_some();
        if !absolute(&self.store) || !absolute(&self.dmi.socket) {
            return bad("store and socket must be absolute paths");
        }
        if self.dmi.mapper_socket_dirs.iter().any(|dir| !absolute(dir)) {
            return bad("mapperSocketDirs must be absolute paths");
        }
        if self.dmi.quotas.values_per_second == 0 || self.dmi.quotas.calls_per_second == 0 {
            return bad("quotas must be at least 1");
        }
        if self.dmi.status_seconds == 0 || self.dmi.refresh_seconds == 0 || self.dmi.checkpoint_seconds == 0 {
            return bad("statusSeconds, refreshSeconds and checkpointSeconds must be at least 1");
        }
        self.dmi.mqtt.as_ref().map_or(Ok(()), Mqtt::check).map_err(Error::Options)
    }

    /// Folders below which mappers may have their sockets.
    pub(crate) fn mapper_dirs(&self) -> Vec<PathBuf> {
        if !self.dmi.mapper_socket_dirs.is_empty() {
            return self.dmi.mapper_socket_dirs.clone();
        }
        let own = self.dmi.socket.parent().map(Path::to_owned);
        MAPPER_DIRS.iter().map(PathBuf::from).chain(own).collect()
    }

    pub(crate) fn settings(&self) -> crate::fleet::Settings {
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        crate::fleet::Settings {
            limits: crate::fleet::Limits {
                values_per_second: self.dmi.quotas.values_per_second,
                calls_per_second: self.dmi.quotas.calls_per_second,
            },
            pace: crate::fleet::Pace {
                values_ms: ms(self.dmi.status_seconds),
                refresh_ms: ms(self.dmi.refresh_seconds),
            },
            offline_ms: ms(OFFLINE_SECONDS),
        }
    }
}

fn edgehub() -> PathBuf {
    DEFAULT_EDGEHUB.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_and_a_store_are_enough_and_unknown_keys_are_refused() {
        let parse = |text: &str| skerry_common::parse::<Config>(text, "test");
        let config = parse("nodeName: edge-1\nstore: /var/lib/skerry/dmi\n").unwrap();
        config.check().unwrap();
        assert_eq!(config.dmi.socket, PathBuf::from(DEFAULT_SOCKET));
        assert!(parse("nodeName: edge-1\nstore: /s\nport: 1\n").is_err());
        assert!(parse("nodeName: edge-1\nstore: /s\ndmi: {port: 1}\n").is_err());
        assert!(parse("nodeName: edge-1\nstore: s\n").unwrap().check().is_err());
        for wrong in [
            "socket: dmi.sock",
            "statusSeconds: 0",
            "quotas: {callsPerSecond: 0}",
            "mapperSocketDirs: [run]",
            "mqtt: {server: 'h:1'}",
        ] {
            let text = format!("nodeName: edge-1\nstore: /s\ndmi: {{{wrong}}}\n");
            assert!(parse(&text).unwrap().check().is_err(), "{wrong}");
        }
    }
}
