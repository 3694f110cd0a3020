//! Names: resolv.conf, /etc/hosts and the hostname of a pod. Pure but for reading the host's files.
//!
//! Called when a sandbox or a container is configured. Without a cluster DNS address, `ClusterFirst`
//! falls back to the host's resolver, as in the kubelet.

use std::fmt::Write as _;
use std::fs;

use k8s_openapi::api::core::v1::Pod;
use skerry_proto::cri::v1::DnsConfig;

use crate::pod::spec::PodExt;

/// The C library's limits, which users expect.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Longest hostname on Linux.
const MAX_HOSTNAME: usize = 63;

/// What the operator configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterDns {
    pub(crate) servers: Vec<String>,
    pub(crate) domain: String,
}

/// The host's resolv.conf. systemd-resolved's stub listens on the host's loopback, where no pod
/// reaches it, so its file with the real servers is preferred.
pub(crate) fn host() -> DnsConfig {
    let read = |path: &str| fs::read_to_string(path).map(|t| parse(&t)).unwrap_or_default();
    let config = read("/etc/resolv.conf");
    if config.servers.iter().any(|s| s == "127.0.0.53") {
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.servers.is_empty() {
            return real;
        }
    }
    config
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

/// The resolver of a pod.
pub(crate) fn of_pod(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> DnsConfig {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if wants_cluster && !cluster.servers.is_empty() {
        let mut searches = Vec::new();
        if !cluster.domain.is_empty() {
            searches.push(format!("{}.svc.{}", pod.namespace(), cluster.domain));
            searches.push(format!("svc.{}", cluster.domain));
            searches.push(cluster.domain.clone());
        }
        searches.extend(host.searches.iter().cloned());
        DnsConfig { servers: cluster.servers.clone(), searches, options: vec!["ndots:5".into()] }
    } else {
        host.clone()
    };
    if let Some(extra) = &spec.dns_config {
        config.servers.extend(extra.nameservers.iter().flatten().cloned());
        config.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(option.value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}:{v}")));
        }
    }
    dedup(&mut config.servers, MAX_SERVERS);
    dedup(&mut config.searches, MAX_SEARCHES);
    config
}

/// What a resolv.conf line can carry, each once.
fn dedup(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| !s.is_empty() && !s.contains(char::is_whitespace) && seen.insert(s.clone()));
    list.truncate(most);
}

/// Hostname inside the pod.
pub(crate) fn hostname(pod: &Pod) -> String {
    let name = pod.spec().hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod.name());
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The file that is mounted as /etc/hosts.
pub(crate) fn hosts_file(pod: &Pod, ips: &[String], domain: &str) -> String {
    let mut text = String::new();
    if pod.host_network() {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(&fs::read_to_string("/etc/hosts").unwrap_or_default());
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let hostname = hostname(pod);
        let subdomain = pod.spec().subdomain.as_deref().filter(|s| !s.is_empty());
        for ip in ips {
            match subdomain {
                Some(sub) => {
                    let _ = writeln!(text, "{ip}\t{hostname}.{sub}.{}.svc.{domain}\t{hostname}", pod.namespace());
                }
                None => {
                    let _ = writeln!(text, "{ip}\t{hostname}");
                }
            }
        }
    }
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn config(spec: &Value, cluster: bool) -> (Vec<String>, Vec<String>, Vec<String>) {
        let cluster = ClusterDns {
            servers: if cluster { vec!["10.0.0.10".into()] } else { Vec::new() },
            domain: "cluster.local".into(),
        };
        let host = parse("nameserver 9.9.9.9\nsearch example.org\noptions timeout:1\n");
        let c = of_pod(&pod(spec), &cluster, &host);
        (c.servers, c.searches, c.options)
    }

    #[test]
    fn every_policy_gives_its_resolver() {
        let v = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let cluster = (
            v(&["10.0.0.10"]),
            v(&["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]),
            v(&["ndots:5"]),
        );
        let host = (v(&["9.9.9.9"]), v(&["example.org"]), v(&["timeout:1"]));
        let spec = |policy: &str| json!({"containers": [], "dnsPolicy": policy});
        assert_eq!(config(&spec("ClusterFirst"), true), cluster);
        assert_eq!(config(&spec("ClusterFirst"), false), host);
        assert_eq!(config(&spec("Default"), true), host);
        assert_eq!(config(&json!({"containers": [], "hostNetwork": true}), true), host);
        let with_host = json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(config(&with_host, true), cluster);
        let none = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]
        }});
        assert_eq!(config(&none, true), (v(&["1.1.1.1"]), v(&["x"]), v(&["ndots:2", "edns0"])));
    }

    #[test]
    fn the_hosts_file_names_the_pod() {
        let pod = pod(&json!({"containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &["10.1.0.2".into()], "cluster.local");
        assert!(text.contains("10.1.0.2\th.s.ns.svc.cluster.local\th\n"));
        assert!(text.contains("1.2.3.4\ta\tb\n"));
    }

    #[test]
    fn hostnames_are_cut_to_what_linux_takes() {
        let mut long = pod(&json!({"containers": []}));
        long.metadata.name = Some(format!("{}-b", "a".repeat(62)));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}
