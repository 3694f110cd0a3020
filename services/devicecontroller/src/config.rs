//! Configuration of DeviceController, as in its YAML file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use skerry_identity::{DEFAULT_TRUST_DOMAIN, TrustDomain};

use crate::error::DeviceControllerError;

/// Port for cloudhub.
const DEFAULT_PORT: u16 = 10_110;

/// Port of the admission webhook.
const DEFAULT_WEBHOOK_PORT: u16 = 10_111;

/// How often values of one device are written at most: what people look at, and far below what wears an etcd.
const DEFAULT_VALUE_SECONDS: u64 = 10;

/// Longest interval: beyond it nobody would call the values current.
const MAX_VALUE_SECONDS: u64 = 3_600;

/// Writes a second towards the API server, over all devices.
const DEFAULT_WRITES_PER_SECOND: u32 = 200;

/// More writes a second than any API server takes from one client.
const MAX_WRITES_PER_SECOND: u32 = 10_000;

/// Longest URL of the webhook.
const MAX_URL: usize = 1_024;

/// As in the YAML file. Unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// Address for cloudhub. Every address by default: hubs are other pods or machines, and mutual TLS lets
    /// in nobody but the service `cloudhub`.
    pub listen: SocketAddr,
    /// Address of the admission webhook, for the Kubernetes API server.
    pub webhook: SocketAddr,
    /// Where the API server reaches the webhook, as `https://host:port`; then it is told so. Without it an
    /// operator registers the webhook.
    pub webhook_url: Option<String>,
    /// The kubeconfig; without it `KUBECONFIG`, the home folder, or the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// Folder in which EdgeController keeps the certificate of the service `devicecontroller`.
    pub credentials: PathBuf,
    /// The trust domain of the system.
    pub trust_domain: String,
    /// Values of one device are written at most once in so many seconds; its state always at once.
    pub value_seconds: u64,
    /// Writes a second towards the API server, over all devices.
    pub writes_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            webhook: SocketAddr::from(([0, 0, 0, 0], DEFAULT_WEBHOOK_PORT)),
            webhook_url: None,
            kubeconfig: None,
            credentials: PathBuf::from("/etc/skerry/credentials"),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            value_seconds: DEFAULT_VALUE_SECONDS,
            writes_per_second: DEFAULT_WRITES_PER_SECOND,
        }
    }
}

/// A configuration that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) value_interval: Duration,
    pub(crate) writes_per_second: u32,
}

impl Config {
    pub(crate) fn check(&self) -> Result<Checked, DeviceControllerError> {
        let setting = |name, reason: String| DeviceControllerError::Setting { name, reason };
        let trust_domain =
            TrustDomain::parse(&self.trust_domain).map_err(|e| setting("trustDomain", skerry_common::chain(&e)))?;
        if !(1..=MAX_VALUE_SECONDS).contains(&self.value_seconds) {
            return Err(setting("valueSeconds", format!("must be 1 to {MAX_VALUE_SECONDS}")));
        }
        if !(1..=MAX_WRITES_PER_SECOND).contains(&self.writes_per_second) {
            return Err(setting("writesPerSecond", format!("must be 1 to {MAX_WRITES_PER_SECOND}")));
        }
        if self.webhook_url.as_deref().is_some_and(|url| !url.starts_with("https://") || url.len() > MAX_URL) {
            return Err(setting("webhookUrl", "must be https://host:port".to_owned()));
        }
        let value_interval = Duration::from_secs(self.value_seconds);
        Ok(Checked { trust_domain, value_interval, writes_per_second: self.writes_per_second })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults_are_good_and_unknown_keys_are_not() {
        assert!(Config::default().check().is_ok());
        let parse = |text: &str| skerry_common::parse::<Config>(text, "test");
        assert!(parse("listen: 127.0.0.1:0\nvalueSeconds: 60\n").unwrap().check().is_ok());
        assert!(parse("listn: 127.0.0.1:0\n").is_err());
        for wrong in [
            "valueSeconds: 0\n",
            "valueSeconds: 3601\n",
            "writesPerSecond: 0\n",
            "webhookUrl: http://x\n",
            "trustDomain: 'a b'\n",
        ] {
            assert!(parse(wrong).unwrap().check().is_err(), "{wrong}");
        }
    }
}
