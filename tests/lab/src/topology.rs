//! Topologies as data: hosts at cables, networks behind gateways, the internet. No IO; [`crate::Lab`] builds them.
//!
//! Each host and each gateway has exactly one cable upwards, which goes by its name. A network is a bridge in the
//! namespace of its gateway; a gateway may be attached to another network instead of to the internet, which makes
//! double and carrier NAT. Sizes and names are checked by [`Topology::validate`].

use std::collections::BTreeSet;

use crate::{Faults, LabError, Nat};

/// Hosts and networks of one topology: enough for 200 peers behind a gateway each, within the address plan.
pub const MAX_NODES: usize = 500;
/// Hosts and gateways in one network: those of a /24 with room for changed addresses.
pub(crate) const MAX_MEMBERS: usize = 100;
/// Addresses of one public host.
pub(crate) const MAX_ADDRESSES: u8 = 16;
/// Bytes of a name: part of the name of a file.
const MAX_NAME: usize = 32;
/// Gateways one behind another.
const MAX_DEPTH: usize = 4;

/// Hosts and networks.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Networks with their gateways.
    pub networks: Vec<Network>,
    /// Hosts.
    pub hosts: Vec<Host>,
}

/// Where a cable ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The internet: a router with a cable and a subnet for each that is attached.
    Internet,
    /// The network of this name.
    Network(String),
}

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    pub(crate) fn v4(self) -> bool {
        self != Self::V6
    }
    pub(crate) fn v6(self) -> bool {
        self != Self::V4
    }
}

/// A cable between a host or a gateway and the place that it is attached to.
#[derive(Debug, Clone, PartialEq)]
pub struct Cable {
    /// Largest packet in bytes.
    pub mtu: u16,
    /// Rate in each direction in kilobits a second; as fast as it goes without.
    pub rate: Option<u32>,
    /// Delay, loss and reordering in each direction. A cable with faults, also with faults of nothing, goes through
    /// user space: some 100,000 packets a second.
    pub faults: Option<Faults>,
}

impl Default for Cable {
    fn default() -> Self {
        Self { mtu: 1500, rate: None, faults: None }
    }
}

/// What a gateway lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Everything.
    Any,
    /// Everything but UDP.
    NoUdp,
    /// TCP to port 443 and nothing else.
    Https,
}

/// How a network is attached.
#[derive(Debug, Clone, PartialEq)]
pub struct Uplink {
    /// To what.
    pub to: Place,
    /// By which cable.
    pub cable: Cable,
    /// How IPv4 is translated. IPv6 is not translated, but let in only when it belongs to a flow from the inside.
    pub nat: Nat,
    /// What is let out.
    pub egress: Egress,
}

/// A network: a bridge, and a gateway that leads out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its name, and its gateway's.
    pub name: String,
    /// Its way out, if there is one.
    pub uplink: Option<Uplink>,
    /// Families of its members.
    pub families: Families,
    /// The first three bytes of its IPv4 subnet. Without, it is one that no other network has; two homes with
    /// `[192, 168, 1]` are common, too.
    pub subnet: Option<[u8; 3]>,
    /// Whether UDP multicast reaches the other members.
    pub multicast: bool,
}

impl Network {
    /// An IPv4 network behind a NAT at the internet.
    #[must_use]
    pub fn behind(name: &str, nat: Nat) -> Self {
        let uplink = Uplink { to: Place::Internet, cable: Cable::default(), nat, egress: Egress::Any };
        Self { uplink: Some(uplink), ..Self::isolated(name) }
    }

    /// An IPv4 network without a way out.
    #[must_use]
    pub fn isolated(name: &str) -> Self {
        Self { name: name.into(), uplink: None, families: Families::V4, subnet: None, multicast: true }
    }

    /// The same, with other families.
    #[must_use]
    pub fn families(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// The same, with a subnet of one's own choice.
    #[must_use]
    pub fn subnet(self, subnet: [u8; 3]) -> Self {
        Self { subnet: Some(subnet), ..self }
    }

    /// The same, where multicast does not reach anybody.
    #[must_use]
    pub fn without_multicast(self) -> Self {
        Self { multicast: false, ..self }
    }

    /// The same, its gateway attached to another network: a second NAT.
    #[must_use]
    pub fn attached_to(self, network: &str) -> Self {
        self.with_uplink(|uplink| uplink.to = Place::Network(network.into()))
    }

    /// The same, with another cable upwards.
    #[must_use]
    pub fn cable(self, cable: Cable) -> Self {
        self.with_uplink(|uplink| uplink.cable = cable)
    }

    /// The same, letting out less.
    #[must_use]
    pub fn egress(self, egress: Egress) -> Self {
        self.with_uplink(|uplink| uplink.egress = egress)
    }

    fn with_uplink(mut self, change: impl FnOnce(&mut Uplink)) -> Self {
        if let Some(uplink) = &mut self.uplink {
            change(uplink);
        }
        self
    }
}

/// A host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Where it is attached.
    pub at: Place,
    /// By which cable.
    pub cable: Cable,
    /// Its families, at the internet; in a network it has the network's.
    pub families: Families,
    /// How many addresses of each family it has, at the internet.
    pub addresses: u8,
}

impl Host {
    /// A host with both families at the internet: a server, a relay.
    #[must_use]
    pub fn public(name: &str) -> Self {
        let (cable, families) = (Cable::default(), Families::Dual);
        Self { name: name.into(), at: Place::Internet, cable, families, addresses: 1 }
    }

    /// A host in a network.
    #[must_use]
    pub fn inside(name: &str, network: &str) -> Self {
        Self { at: Place::Network(network.into()), ..Self::public(name) }
    }

    /// The same, at another cable.
    #[must_use]
    pub fn cable(self, cable: Cable) -> Self {
        Self { cable, ..self }
    }

    /// The same, with other families.
    #[must_use]
    pub fn families(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// The same, with several addresses.
    #[must_use]
    pub fn addresses(self, addresses: u8) -> Self {
        Self { addresses, ..self }
    }
}

impl Topology {
    /// Nothing but the internet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more network.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    /// With one more host.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.hosts.push(host);
        self
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// Checks names, sizes and references.
    ///
    /// # Errors
    /// [`LabError::Topology`] names the first thing that is wrong.
    pub fn validate(&self) -> Result<(), LabError> {
        let wrong = |what: String| Err(LabError::Topology(what));
        let total = self.networks.len() + self.hosts.len();
        if total > MAX_NODES {
            return wrong(format!("{total} nodes, at most {MAX_NODES}"));
        }
        let mut seen = BTreeSet::from([crate::plan::INTERNET]);
        let hosts = self.hosts.iter().map(|h| (h.name.as_str(), Some(&h.at), Some(&h.cable)));
        let networks = self.networks.iter().map(|n| {
            let uplink = n.uplink.as_ref();
            (n.name.as_str(), uplink.map(|u| &u.to), uplink.map(|u| &u.cable))
        });
        for (name, at, cable) in networks.chain(hosts) {
            let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if name.is_empty() || name.len() > MAX_NAME || !letters {
                return wrong(format!("{name:?} is no name: at most {MAX_NAME} of a-z, 0-9 and -"));
            }
            if !seen.insert(name) {
                return wrong(format!("the name {name} is there twice"));
            }
            if let Some(Place::Network(network)) = at
                && self.find(network).is_none()
            {
                return wrong(format!("{name} is attached to {network}, which is not there"));
            }
            if cable.is_some_and(|cable| cable.mtu < 1280) {
                return wrong(format!("the cable of {name} is too small: IPv6 needs an MTU of 1280"));
            }
            if let Some(faults) = cable.and_then(|cable| cable.faults.as_ref()) {
                faults.validate().map_err(|why| LabError::Topology(format!("the cable of {name}: {why}")))?;
            }
        }
        for network in &self.networks {
            self.depth(network)?;
            let members = self.members(&network.name);
            if members > MAX_MEMBERS {
                return wrong(format!("{members} members in {}, at most {MAX_MEMBERS}", network.name));
            }
        }
        for host in &self.hosts {
            if host.addresses == 0 || host.addresses > MAX_ADDRESSES {
                return wrong(format!("{} addresses at {}, at most {MAX_ADDRESSES}", host.addresses, host.name));
            }
        }
        Ok(())
    }

    fn members(&self, network: &str) -> usize {
        let is = |place: &Place| matches!(place, Place::Network(name) if name == network);
        self.hosts.iter().filter(|h| is(&h.at)).count()
            + self.networks.iter().filter(|n| n.uplink.as_ref().is_some_and(|u| is(&u.to))).count()
    }

    /// The gateway that leads out must come to an end, and families must be those of the network around.
    fn depth(&self, network: &Network) -> Result<(), LabError> {
        let mut at = network;
        for _ in 0..MAX_DEPTH {
            match at.uplink.as_ref().map(|uplink| &uplink.to) {
                None | Some(Place::Internet) => return Ok(()),
                Some(Place::Network(outer)) => {
                    let Some(outer) = self.find(outer) else {
                        return Ok(());
                    };
                    if (at.families.v4() && !outer.families.v4()) || (at.families.v6() && !outer.families.v6()) {
                        return Err(LabError::Topology(format!("{} has a family that {} lacks", at.name, outer.name)));
                    }
                    at = outer;
                }
            }
        }
        Err(LabError::Topology(format!("{} is behind more than {MAX_DEPTH} gateways", network.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(topology: &Topology) -> String {
        topology.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        let home = || Network::behind("home", Nat::FULL_CONE);
        assert!(Topology::new().network(home()).host(Host::inside("a", "home")).validate().is_ok());
        let twice = Topology::new().network(home()).host(Host::public("home"));
        assert!(refused(&twice).contains("home is there twice"));
        assert!(refused(&Topology::new().host(Host::public("internet"))).contains("twice"));
        assert!(refused(&Topology::new().host(Host::inside("a", "b"))).contains("not there"));
        assert!(refused(&Topology::new().host(Host::public("../a"))).contains("no name"));
        assert!(refused(&Topology::new().host(Host::public(&"a".repeat(MAX_NAME + 1)))).contains("no name"));
        assert!(refused(&Topology::new().host(Host::public("a").addresses(MAX_ADDRESSES + 1))).contains("addresses"));
        let small = Cable { mtu: 1279, ..Cable::default() };
        assert!(refused(&Topology::new().host(Host::public("a").cable(small))).contains("1280"));
        let round = Topology::new().network(home().attached_to("home"));
        assert!(refused(&round).contains("more than"));
        let outer = Network::behind("outer", Nat::FULL_CONE);
        let six = Topology::new().network(outer).network(home().families(Families::V6).attached_to("outer"));
        assert!(refused(&six).contains("family"));
    }

    #[test]
    fn sizes_are_bounded() {
        let many = |count: usize, at: fn(usize) -> Host| (0..count).map(at).fold(Topology::new(), Topology::host);
        assert!(many(MAX_NODES, |n| Host::public(&format!("h{n}"))).validate().is_ok());
        assert!(refused(&many(MAX_NODES + 1, |n| Host::public(&format!("h{n}")))).contains("nodes"));
        let crowd = many(MAX_MEMBERS + 1, |n| Host::inside(&format!("h{n}"), "home"));
        assert!(refused(&crowd.network(Network::isolated("home"))).contains("members"));
    }
}
