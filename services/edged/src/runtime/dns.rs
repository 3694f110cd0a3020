//! Names: resolv.conf, /etc/hosts and the hostname of a pod. Pure but for reading the host's files.
//!
//! Called when a sandbox or a container is configured. Without a cluster DNS address, `ClusterFirst`
//! falls back to the host's resolver, as in the kubelet; [`notes`] says so, and what was cut off, for
//! Events. Limits: those of the C library and of the kernel.

use std::fmt::Write as _;
use std::fs;

use k8s_openapi::api::core::v1::Pod;
use skerry_proto::cri::v1::DnsConfig;

use crate::pod::spec::PodExt;

/// The C library's limits, which users expect.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// All search domains on one line, with the blanks between them.
const MAX_SEARCH_LINE: usize = 2048;
/// Longest label of a name.
const MAX_HOSTNAME: usize = 63;
/// Longest hostname of the kernel.
const MAX_FQDN: usize = 64;

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

/// What a pod should be told about its resolver: reason and message of an Event.
pub(crate) type Note = (&'static str, String);

/// The resolver of a pod.
pub(crate) fn of_pod(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> DnsConfig {
    fitting(pod, cluster, host).0
}

/// A pod wants the cluster's DNS, and the node has no address of it: also said on the Node.
pub(crate) const MISSING_CLUSTER_DNS: &str = "MissingClusterDNS";
pub(crate) const MISSING_CLUSTER_DNS_TEXT: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod \
     using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";

/// What was changed in the resolver that the pod asked for.
pub(crate) fn notes(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> Vec<Note> {
    let mut notes = fitting(pod, cluster, host).1;
    if wants_cluster(pod) && cluster.servers.is_empty() {
        notes.insert(0, (MISSING_CLUSTER_DNS, format!("pod: \"{}\". {MISSING_CLUSTER_DNS_TEXT}", pod.full_name())));
    }
    notes
}

fn wants_cluster(pod: &Pod) -> bool {
    match pod.spec().dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    }
}

fn fitting(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> (DnsConfig, Vec<Note>) {
    let spec = pod.spec();
    let mut config = if spec.dns_policy.as_deref() == Some("None") {
        DnsConfig::default()
    } else if wants_cluster(pod) && !cluster.servers.is_empty() {
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
    let mut notes = Vec::new();
    unique(&mut config.servers);
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        let line = config.servers.join(" ");
        notes.push(("DNSConfigForming", format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}")));
    }
    unique(&mut config.searches);
    if cut_searches(&mut config.searches) {
        let line = config.searches.join(" ");
        notes.push(("DNSConfigForming", format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}")));
    }
    (config, notes)
}

/// What a resolv.conf line can carry, each once.
fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| !s.is_empty() && !s.contains(char::is_whitespace) && seen.insert(s.clone()));
}

/// True when something did not fit.
fn cut_searches(list: &mut Vec<String>) -> bool {
    let before = list.len();
    list.truncate(MAX_SEARCHES);
    let mut length = 0;
    list.retain(|search| {
        let with = length + search.len() + usize::from(length > 0);
        if with <= MAX_SEARCH_LINE {
            length = with;
        }
        with <= MAX_SEARCH_LINE
    });
    list.len() < before
}

/// The name of the pod among others, cut to what a label can hold.
fn short_name(pod: &Pod) -> String {
    let name = pod.spec().hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod.name());
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The domain of a pod with a `subdomain`.
fn domain(pod: &Pod, cluster: &str) -> Option<String> {
    let subdomain = pod.spec().subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{cluster}", pod.namespace()))
}

/// Hostname inside the pod.
///
/// # Errors
/// With `setHostnameAsFQDN`, a name that the kernel cannot take; the pod cannot start.
pub(crate) fn hostname(pod: &Pod, cluster: &str) -> Result<String, String> {
    let short = short_name(pod);
    let Some(domain) = domain(pod, cluster).filter(|_| pod.spec().set_hostname_as_fqdn.unwrap_or(false)) else {
        return Ok(short);
    };
    let fqdn = format!("{short}.{domain}");
    if fqdn.len() > MAX_FQDN {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_FQDN} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// The file that is mounted as /etc/hosts.
pub(crate) fn hosts_file(pod: &Pod, ips: &[String], cluster: &str) -> String {
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
        let hostname = short_name(pod);
        let domain = domain(pod, cluster);
        for ip in ips {
            let _ = match &domain {
                Some(domain) => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
                None => writeln!(text, "{ip}\t{hostname}"),
            };
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
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
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
        assert_eq!(hostname(&long, "cluster.local"), Ok("a".repeat(62)));
    }

    #[test]
    fn a_full_name_as_hostname_must_fit_the_kernel() {
        let with = |name: &str| {
            let spec = json!({"containers": [], "hostname": name, "subdomain": "s", "setHostnameAsFQDN": true});
            hostname(&pod(&spec), "cluster.local")
        };
        assert_eq!(with("h"), Ok("h.s.ns.svc.cluster.local".into()));
        let text = with(&"h".repeat(60)).unwrap_err();
        assert!(text.contains("is too long (64 characters is the max, 83 characters requested)"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let host = parse("nameserver 9.9.9.9\n");
        let cluster = ClusterDns::default();
        let with = |servers: usize, searches: &[String]| {
            let servers: Vec<String> = (0..servers).map(|i| format!("10.0.0.{i}")).collect();
            let pod = pod(
                &json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": searches}}),
            );
            (of_pod(&pod, &cluster, &host), notes(&pod, &cluster, &host))
        };
        let (config, said) = with(3, &[]);
        assert_eq!((config.servers.len(), said), (3, vec![]));
        let (config, said) = with(4, &[]);
        assert_eq!(config.servers.len(), 3);
        assert_eq!(said[0].0, "DNSConfigForming");
        assert!(said[0].1.ends_with("the applied nameserver line is: 10.0.0.0 10.0.0.1 10.0.0.2"));
        let many: Vec<String> = (0..33).map(|i| format!("d{i}.example")).collect();
        let (config, said) = with(1, &many);
        assert_eq!((config.searches.len(), said.len()), (32, 1));
        assert!(said[0].1.starts_with("Search Line limits were exceeded"));
        let long: Vec<String> = (0..20).map(|i| format!("{i}{}", "x".repeat(200))).collect();
        let (config, said) = with(1, &long);
        assert!(config.searches.join(" ").len() <= MAX_SEARCH_LINE && config.searches.len() == 10 && said.len() == 1);
    }

    #[test]
    fn a_missing_cluster_dns_is_said() {
        let host = DnsConfig::default();
        let none = ClusterDns::default();
        let ours = ClusterDns { servers: vec!["10.0.0.10".into()], domain: "cluster.local".into() };
        for (spec, cluster, want) in [
            (json!({"containers": []}), &none, true),
            (json!({"containers": []}), &ours, false),
            (json!({"containers": [], "hostNetwork": true}), &none, false),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), &none, true),
            (json!({"containers": [], "dnsPolicy": "Default"}), &none, false),
        ] {
            let said = notes(&pod(&spec), cluster, &host);
            assert_eq!(said.iter().any(|n| n.0 == "MissingClusterDNS"), want, "{spec}");
        }
    }
}
