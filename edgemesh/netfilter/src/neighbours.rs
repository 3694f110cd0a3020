//! Who else handles Services on this node, and which Services are therefore not ours.
//!
//! [`Neighbours::find`] only decides; what it looks at ([`Sightings`]) is read by [`look`](crate::look). Two who
//! translate the same address are both wrong: the first one wins, and that depends on who started when. So a Service is
//! ours or theirs, by rules that a user can say in advance ([`Policy::decide`]).

use std::collections::BTreeSet;

/// What can be seen of others: names, and nothing of what they do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sightings {
    /// Tables of nftables, as `family name`.
    pub tables: BTreeSet<String>,
    /// Chains of nftables and of iptables, by name.
    pub chains: BTreeSet<String>,
    /// Network interfaces.
    pub interfaces: BTreeSet<String>,
    /// Whether IPVS has a virtual service.
    pub ipvs: bool,
}

/// How kube-proxy works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubeProxy {
    /// By chains of iptables.
    Iptables,
    /// By IPVS.
    Ipvs,
    /// By its table of nftables.
    Nftables,
}

/// Who else is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// kube-proxy, with all Services that are not labelled for somebody else.
    pub kube_proxy: Option<KubeProxy>,
    /// Cilium, which may do kube-proxy's work in eBPF, before any rule is asked.
    pub cilium: bool,
    /// Calico: routes and policies; Services are none of its business here.
    pub calico: bool,
    /// Flannel: routes between nodes.
    pub flannel: bool,
}

impl Neighbours {
    /// Tells them by what they leave behind.
    #[must_use]
    pub fn find(sightings: &Sightings) -> Self {
        let chain = |name: &str| sightings.chains.contains(name);
        let interface = |prefix: &str| sightings.interfaces.iter().any(|name| name.starts_with(prefix));
        let chains = |prefix: &str| sightings.chains.iter().any(|name| name.starts_with(prefix));
        let table = |name: &str| sightings.tables.contains(name);
        let kube_proxy = if table("ip kube-proxy") || table("ip6 kube-proxy") {
            Some(KubeProxy::Nftables)
        } else if interface("kube-ipvs") || sightings.ipvs {
            // Before iptables: in this mode it has a few chains of iptables too.
            Some(KubeProxy::Ipvs)
        } else if chain("KUBE-SERVICES") {
            Some(KubeProxy::Iptables)
        } else {
            // KUBE-MARK-DROP and KUBE-KUBELET-CANARY are the kubelet's, and say nothing of a proxy.
            None
        };
        Self {
            kube_proxy,
            cilium: interface("cilium_") || chains("CILIUM_"),
            calico: interface("cali") || interface("vxlan.calico") || chains("cali-"),
            flannel: interface("flannel.") || interface("flannel-") || chains("FLANNEL-"),
        }
    }

    /// Whether somebody else takes Services that are not labelled otherwise.
    #[must_use]
    pub fn proxies_services(&self) -> bool {
        self.kube_proxy.is_some() || self.cilium
    }
}

/// The label by which a Service names its proxy; kube-proxy, Cilium and others leave alone what has it.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The value of [`PROXY_NAME`] that means us.
pub const PROXY_NAME_OURS: &str = "skerry";
/// EdgeMesh's label, of which only the presence counts.
pub const EDGEMESH_PROXY_NAME: &str = "service.edgemesh.kubeedge.io/service-proxy-name";
/// The label of a Service without an address, which nobody proxies.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Which Services are ours where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// All, unless somebody else is found here who takes them: then those that are labelled for us.
    #[default]
    Auto,
    /// All but those that have EdgeMesh's label (its `FilterIfLabelExists`), whoever else is here.
    All,
    /// Those that have one of the two labels for us (EdgeMesh's `FilterIfLabelDoesNotExists`).
    Labelled,
    /// None: this node is somebody else's.
    Off,
}

/// What we take and what we leave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The mode.
    pub mode: Mode,
    /// Services that are never ours, as `namespace/name`.
    pub except: BTreeSet<String>,
}

/// Why a Service is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It has no address.
    Headless,
    /// Its label names another proxy.
    Label,
    /// The configuration names it, or says that none is ours.
    Configured,
    /// Somebody who was found here has it.
    Neighbour,
}

impl Policy {
    /// Whether a Service is ours; the reason if not. `label` gives the value of a label of the Service.
    ///
    /// # Errors
    /// [`Leave`] says why it is left alone.
    pub fn decide<'a>(
        &self,
        service: &str,
        label: impl Fn(&str) -> Option<&'a str>,
        neighbours: &Neighbours,
    ) -> Result<(), Leave> {
        if label(HEADLESS).is_some() {
            return Err(Leave::Headless);
        }
        if self.mode == Mode::Off || self.except.contains(service) {
            return Err(Leave::Configured);
        }
        let ours = match label(PROXY_NAME) {
            Some(PROXY_NAME_OURS) => true,
            Some(_) => return Err(Leave::Label),
            None => false,
        };
        let edgemesh = label(EDGEMESH_PROXY_NAME).is_some();
        match self.mode {
            _ if ours => Ok(()),
            Mode::Labelled if edgemesh => Ok(()),
            Mode::Labelled => Err(Leave::Label),
            _ if edgemesh => Err(Leave::Label),
            Mode::Auto if neighbours.proxies_services() => Err(Leave::Neighbour),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sightings(tables: &[&str], chains: &[&str], interfaces: &[&str]) -> Sightings {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Sightings { tables: set(tables), chains: set(chains), interfaces: set(interfaces), ipvs: false }
    }

    #[test]
    fn others_are_known_by_what_they_leave_behind() {
        let none = Neighbours::default();
        let iptables = Some(KubeProxy::Iptables);
        for (seen, neighbours) in [
            (sightings(&[], &[], &["lo", "eth0", "cni0"]), none),
            (sightings(&["ip nat"], &["KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "DOCKER"], &["docker0"]), none),
            (sightings(&["ip nat"], &["KUBE-SERVICES"], &[]), Neighbours { kube_proxy: iptables, ..none }),
            (
                sightings(&["ip nat"], &["KUBE-SERVICES"], &["kube-ipvs0"]),
                Neighbours { kube_proxy: Some(KubeProxy::Ipvs), ..none },
            ),
            (
                sightings(&["ip kube-proxy"], &["services"], &[]),
                Neighbours { kube_proxy: Some(KubeProxy::Nftables), ..none },
            ),
            (
                sightings(&["ip6 kube-proxy"], &[], &["cali12ab"]),
                Neighbours { kube_proxy: Some(KubeProxy::Nftables), calico: true, ..none },
            ),
            (sightings(&[], &[], &["cilium_host"]), Neighbours { cilium: true, ..none }),
            (sightings(&[], &["CILIUM_PRE_nat"], &[]), Neighbours { cilium: true, ..none }),
            (sightings(&[], &["cali-PREROUTING"], &[]), Neighbours { calico: true, ..none }),
            (sightings(&[], &["FLANNEL-POSTRTG"], &["flannel.1"]), Neighbours { flannel: true, ..none }),
        ] {
            assert_eq!(Neighbours::find(&seen), neighbours, "{seen:?}");
        }
        let ipvs = Sightings { ipvs: true, ..sightings(&[], &[], &[]) };
        assert!(Neighbours::find(&ipvs).proxies_services());
        assert!(!Neighbours::find(&sightings(&[], &["cali-nat"], &["flannel.1"])).proxies_services());
    }

    #[test]
    fn a_service_is_ours_or_theirs() {
        use Leave::{Configured, Headless, Label, Neighbour};
        let alone = Neighbours::default();
        let beside = Neighbours { kube_proxy: Some(KubeProxy::Ipvs), ..alone };
        let ours: &[(&str, &str)] = &[(PROXY_NAME, "skerry")];
        let other: &[(&str, &str)] = &[(PROXY_NAME, "kube-router")];
        let edgemesh: &[(&str, &str)] = &[(EDGEMESH_PROXY_NAME, "")];
        let headless: &[(&str, &str)] = &[(HEADLESS, ""), (PROXY_NAME, "skerry")];
        for (mode, labels, with_alone, with_others) in [
            (Mode::Auto, &[][..], Ok(()), Err(Neighbour)),
            (Mode::Auto, ours, Ok(()), Ok(())),
            (Mode::Auto, other, Err(Label), Err(Label)),
            (Mode::Auto, edgemesh, Err(Label), Err(Label)),
            (Mode::All, &[], Ok(()), Ok(())),
            (Mode::All, ours, Ok(()), Ok(())),
            (Mode::All, other, Err(Label), Err(Label)),
            (Mode::All, edgemesh, Err(Label), Err(Label)),
            (Mode::Labelled, &[], Err(Label), Err(Label)),
            (Mode::Labelled, ours, Ok(()), Ok(())),
            (Mode::Labelled, edgemesh, Ok(()), Ok(())),
            (Mode::Labelled, other, Err(Label), Err(Label)),
            (Mode::Off, ours, Err(Configured), Err(Configured)),
            (Mode::All, headless, Err(Headless), Err(Headless)),
        ] {
            let policy = Policy { mode, except: BTreeSet::from(["default/kubernetes".to_owned()]) };
            let label = |name: &str| labels.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            assert_eq!(policy.decide("shop/orders", label, &alone), with_alone, "{mode:?} {labels:?}");
            assert_eq!(policy.decide("shop/orders", label, &beside), with_others, "{mode:?} {labels:?}");
            let excepted = policy.decide("default/kubernetes", label, &alone);
            assert_eq!(excepted, Err(if labels == headless { Headless } else { Configured }));
        }
    }
}
