//! Which kernel parameters a pod may set. Pure.
//!
//! Those that are namespaced and harmless to other pods are always allowed; further namespaced ones
//! when the operator lists them. Asked at admission. Names may be written with dots or slashes, as for `sysctl`.

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::PodExt;

/// Allowed on every node: the kubelet's list.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// The kernel's limit for a path of names, which the API server applies too.
const MAX_LENGTH: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    /// The namespace that a parameter, or every one that begins so, belongs to.
    fn of(name: &str) -> Option<Self> {
        let is = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
        if name == "kernel.sem" || is(&["kernel.shm", "kernel.msg", "fs.mqueue."]) {
            Some(Self::Ipc)
        } else if is(&["net."]) {
            Some(Self::Net)
        } else {
            None
        }
    }
}

/// What pods may set on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowlist {
    names: Vec<(String, Namespace)>,
    prefixes: Vec<(String, Namespace)>,
}

impl Allowlist {
    /// The safe parameters and the operator's own: names, or beginnings of names with a star.
    ///
    /// # Errors
    /// A text for people about the first one that is not a name or belongs to the whole machine.
    pub(crate) fn new(unsafe_patterns: &[String]) -> Result<Self, String> {
        let mut list = Self { names: Vec::new(), prefixes: Vec::new() };
        for pattern in SAFE.iter().copied().chain(unsafe_patterns.iter().map(String::as_str)) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if name.is_empty() || pattern.len() > MAX_LENGTH || !name.chars().all(plain) {
                return Err(format!("the sysctl {pattern:?} is not a name"));
            }
            let dotted = with_dots(name);
            let Some(namespace) = Namespace::of(&dotted) else {
                return Err(format!("the sysctl {pattern:?} is not known to be namespaced"));
            };
            let to = if pattern.ends_with('*') { &mut list.prefixes } else { &mut list.names };
            to.push((dotted, namespace));
        }
        Ok(list)
    }

    fn namespace(&self, name: &str) -> Option<Namespace> {
        let exact = self.names.iter().find(|(n, _)| n == name);
        exact.or_else(|| self.prefixes.iter().find(|(p, _)| name.starts_with(p.as_str()))).map(|(_, ns)| *ns)
    }

    /// Refuses a pod that would set what it may not, or what it shares with the host.
    ///
    /// # Errors
    /// The kubelet's message.
    pub(crate) fn check(&self, pod: &Pod) -> Result<(), String> {
        let spec = pod.spec();
        for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
            let name = with_dots(&sysctl.name);
            let shared = |namespace: &str| format!("{name:?} not allowed with host {namespace} enabled");
            let problem = match self.namespace(&name) {
                None => Some(format!("{name:?} not allowlisted")),
                Some(Namespace::Net) if pod.host_network() => Some(shared("net")),
                Some(Namespace::Ipc) if spec.host_ipc.unwrap_or(false) => Some(shared("ipc")),
                Some(_) => None,
            };
            if let Some(problem) = problem {
                return Err(format!("forbidden sysctl: {problem}"));
            }
        }
        Ok(())
    }
}

/// Levels separated by dots. The first separator decides which one is in use: after a slash, a dot is
/// part of a name, and is written as a slash.
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.get(at..).is_some_and(|rest| rest.starts_with('/')) => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn check(allowed: &[&str], sysctl: &str, more: Value) -> Result<(), String> {
        let mut spec = json!({"securityContext": {"sysctls": [{"name": sysctl, "value": "1"}]}, "containers": []});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let allowed: Vec<String> = allowed.iter().map(|s| (*s).to_owned()).collect();
        Allowlist::new(&allowed).unwrap().check(&pod)
    }

    #[test]
    fn only_listed_parameters_of_own_namespaces_pass() {
        let refused = |text: &str| Err(format!("forbidden sysctl: {text}"));
        for (allowed, name, more, want) in [
            (&[][..], "kernel.shm_rmid_forced", json!({}), Ok(())),
            (&[], "net/ipv4/tcp_syncookies", json!({}), Ok(())),
            (&[], "kernel.msgmax", json!({}), refused("\"kernel.msgmax\" not allowlisted")),
            (&["kernel.msg*"], "kernel.msgmax", json!({}), Ok(())),
            (&["net.ipv4.conf.*"], "net/ipv4/conf/eth0.1/forwarding", json!({}), Ok(())),
            (
                &["net.core.somaxconn"],
                "net.core.somaxconn",
                json!({"hostNetwork": true}),
                refused("\"net.core.somaxconn\" not allowed with host net enabled"),
            ),
            (
                &[],
                "kernel.shm_rmid_forced",
                json!({"hostIPC": true}),
                refused("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
            (&[], "kernel.shm_rmid_forced", json!({"hostNetwork": true}), Ok(())),
            (&[], "kernel.panic", json!({}), refused("\"kernel.panic\" not allowlisted")),
        ] {
            assert_eq!(check(allowed, name, more), want, "{name}");
        }
    }

    #[test]
    fn what_belongs_to_the_machine_cannot_be_allowed() {
        for bad in ["kernel.panic", "vm.*", "*", "", "net.ipv4.a b"] {
            assert!(Allowlist::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
