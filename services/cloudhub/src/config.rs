//! Configuration of a hub replica.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use skerry_common::kinds;

use crate::HubError;

/// Port that nodes connect to; KubeEdge users have it open in their firewalls.
const DEFAULT_PORT: u16 = 10000;

/// Configuration of a hub replica, as in its YAML file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Name of this replica, unique in the system; the host name in a pod.
    pub name: String,
    /// Address that nodes connect to.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Folder of the hub's own certificate.
    pub credentials: PathBuf,
    /// The trust domain of the system.
    pub trust_domain: String,
    /// The services that the hub relays to.
    pub sources: Vec<SourceConfig>,
    /// Name of the source that keeps the register of sessions and issues certificates.
    pub registry: String,
}

/// A service that the hub relays to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceConfig {
    /// Its service name, which its certificate must carry.
    pub name: String,
    /// Where it listens; more than one address for replicas.
    pub addresses: Vec<String>,
    /// Kinds that it is the source of.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Kinds of reports that it takes.
    #[serde(default)]
    pub reports: Vec<String>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT))
}

impl SourceConfig {
    /// EdgeController with all the kinds that it serves.
    pub fn edgecontroller(addresses: Vec<String>) -> Self {
        let down = kinds::CONTROL.iter().chain(&kinds::BULK);
        Self::new("edgecontroller", addresses, down, &kinds::REPORTS)
    }

    /// DeviceController with all the kinds that it serves.
    pub fn devicecontroller(addresses: Vec<String>) -> Self {
        Self::new("devicecontroller", addresses, &kinds::DEVICES, &kinds::DEVICE_REPORTS)
    }

    fn new<'a>(
        name: &str,
        addresses: Vec<String>,
        kinds: impl IntoIterator<Item = &'a &'a str>,
        reports: impl IntoIterator<Item = &'a &'a str>,
    ) -> Self {
        let kinds = kinds.into_iter().map(|kind| (*kind).to_owned()).collect();
        let reports = reports.into_iter().map(|kind| (*kind).to_owned()).collect();
        Self { name: name.to_owned(), addresses, kinds, reports }
    }
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// When a kind has two sources, a source has no address, or the registry is no source.
    pub fn validate(&self) -> Result<(), HubError> {
        let mut kinds = std::collections::BTreeSet::new();
        let mut reports = std::collections::BTreeSet::new();
        for source in &self.sources {
            if source.addresses.is_empty() {
                return Err(HubError::Config(format!("source {} has no address", source.name)));
            }
            if let Some(kind) = source.kinds.iter().find(|kind| !kinds.insert(kind.as_str())) {
                return Err(HubError::Config(format!("kind {kind} has two sources")));
            }
            if let Some(kind) = source.reports.iter().find(|kind| !reports.insert(kind.as_str())) {
                return Err(HubError::Config(format!("reports of kind {kind} have two sinks")));
            }
        }
        if !self.sources.iter().any(|source| source.name == self.registry) {
            return Err(HubError::Config(format!("the registry {:?} is not among the sources", self.registry)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Result<(), String> {
        let base = "name: hub-0\ncredentials: /c\ntrustDomain: t\nregistry: a\n";
        let config: Config = skerry_common::parse(&format!("{base}{text}"), "test").map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())
    }

    #[test]
    fn mistakes_are_named() {
        assert!(config("sources: [{name: a, addresses: ['127.0.0.1:1'], kinds: [Pod]}]").is_ok());
        let twice = "sources: [{name: a, addresses: [x], kinds: [Pod]}, {name: b, addresses: [x], kinds: [Pod]}]";
        for (text, message) in [
            (twice, "two sources"),
            ("sources: [{name: a, addresses: []}]", "no address"),
            ("sources: [{name: b, addresses: [x]}]", "registry"),
            ("sources: [{name: a, addresses: [x], knids: [Pod]}]", "knids"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
