//! Configuration of the node's DNS.
//!
//! Unknown keys are refused; [`Config::check`] checks the rest. Every default is a constant with its reason.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::Limits;
use crate::error::DnsError;
use crate::query::Name;
use crate::sources::UPSTREAM_COST;
use crate::upstream::servers::MAX_SERVERS;

/// The link-local address that pods are told, as in EdgeMesh.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 96, 16)), 53);
/// Kubernetes' own default.
const DOMAIN: &str = "cluster.local";
/// Where the host's programs look.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Twice what the whole server is promised to answer: only a flood is more.
const QUERIES_PER_SECOND: u32 = 100_000;
/// More names than a node uses in a day, and few enough to keep them for a day without upstream.
const CACHE_ENTRIES: usize = 10_000;
/// Memory of what is cached; half of what an idle agent may be off its promise.
const CACHE_BYTES: usize = 4 << 20;
/// RFC 8767 §5 says one to three days: a day without upstream shall not be noticed.
const STALE_SECONDS: u64 = 3 * 24 * 3600;
/// Addresses that are listened on.
const MAX_LISTEN: usize = 16;

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// Where to listen, over UDP and TCP. The addresses need not be there yet.
    pub listen: Vec<SocketAddr>,
    /// Domain of the cluster.
    pub domain: String,
    /// Name servers for everything else; those of `resolv_conf` when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<SocketAddr>,
    /// File that names the servers, followed while it changes.
    pub resolv_conf: PathBuf,
    /// Questions of one source in one second; one that needs a name server counts as 50.
    pub queries_per_second: u32,
    /// Answers of name servers that are kept.
    pub cache_entries: usize,
    /// Bytes that they may take.
    pub cache_bytes: usize,
    /// For how long an answer may be used after its time when no server answers.
    pub stale_seconds: u64,
    /// Sockets for each address over UDP, each served by a task of its own; as many as processors when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![LISTEN],
            domain: DOMAIN.into(),
            upstream: Vec::new(),
            resolv_conf: RESOLV_CONF.into(),
            queries_per_second: QUERIES_PER_SECOND,
            cache_entries: CACHE_ENTRIES,
            cache_bytes: CACHE_BYTES,
            stale_seconds: STALE_SECONDS,
            sockets: None,
        }
    }
}

/// More sockets than this share no more work.
const MAX_SOCKETS: usize = 8;

impl Config {
    /// Checks the values; gives the domain as names are compared.
    pub(crate) fn check(&self) -> Result<Name, DnsError> {
        let bad = |why: &str| Err(DnsError::Config(why.into()));
        if self.listen.is_empty() || self.listen.len() > MAX_LISTEN {
            return Err(DnsError::Config(format!("listen needs 1 to {MAX_LISTEN} addresses")));
        }
        if self.listen.iter().any(|address| address.ip().is_unspecified()) {
            return bad("listen needs addresses: an answer must come from the address that was asked");
        }
        if self.upstream.len() > MAX_SERVERS {
            return Err(DnsError::Config(format!("upstream may have {MAX_SERVERS} servers")));
        }
        if !Path::new(&self.resolv_conf).is_absolute() {
            return bad("resolvConf must be an absolute path");
        }
        if self.queries_per_second < UPSTREAM_COST {
            return Err(DnsError::Config(format!("queriesPerSecond must be at least {UPSTREAM_COST}")));
        }
        if self.cache_entries == 0 || self.cache_bytes == 0 || self.sockets == Some(0) {
            return bad("cacheEntries, cacheBytes and sockets must be at least 1");
        }
        match Name::from_text(&self.domain) {
            Some(domain) if domain.wire().len() > 1 => Ok(domain),
            _ => bad("domain must be a domain"),
        }
    }

    /// Sockets for each address.
    pub(crate) fn sockets(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.sockets.unwrap_or_else(processors).min(MAX_SOCKETS)
    }

    /// Of answers with records.
    pub(crate) fn positive(&self) -> Limits {
        Limits { entries: self.cache_entries, bytes: self.cache_bytes, stale: self.stale() }
    }

    /// Of answers that there is nothing: a flood of names that do not exist must not push out those that do.
    pub(crate) fn negative(&self) -> Limits {
        Limits { entries: self.cache_entries / 2, bytes: self.cache_bytes / 4, stale: self.stale() }
    }

    fn stale(&self) -> Duration {
        Duration::from_secs(self.stale_seconds)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Config, skerry_common::ConfigError> {
        skerry_common::parse(text, "test")
    }

    #[test]
    fn nothing_is_enough() {
        let config = parse("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.check().unwrap().text(), "cluster.local");
        assert_eq!(config.listen, ["169.254.96.16:53".parse().unwrap()]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(parse("port: 53\n").is_err(), "an unknown key");
        for wrong in [
            "listen: []",
            "listen: ['0.0.0.0:53']",
            "listen: ['[::]:53']",
            "domain: ''",
            "domain: .",
            "domain: a..b",
            "resolvConf: resolv.conf",
            "queriesPerSecond: 49",
            "cacheEntries: 0",
            "cacheBytes: 0",
            "sockets: 0",
            "upstream: ['1.1.1.1:53','1.1.1.2:53','1.1.1.3:53','1.1.1.4:53','1.1.1.5:53','1.1.1.6:53','1.1.1.7:53','1.1.1.8:53','1.1.1.9:53']",
        ] {
            assert!(parse(wrong).unwrap().check().is_err(), "{wrong}");
        }
    }
}
