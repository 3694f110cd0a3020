//! The address plan: from a [`Topology`] to what each namespace has. No IO; [`crate::Lab`] carries it out.
//!
//! - The n-th cable at the internet is 11.x.y.0/24 and 2a00:11:n::/64; its router is .1, the node is .2 and following.
//!   These are no documentation addresses, because programs rightly do not take those for public.
//! - The n-th network is 192.168.n.0/24 (10.x.y.0/24 beyond 254; 100.64.n.0/24 if gateways are attached to it) and
//!   2a00:12:n::/64; its gateway is .1, its members are .10 and following. Gateways route IPv6 without translation.
//! - A changed address is 120 above the first one, and changes back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::topology::{Cable, Families, Host, MAX_ADDRESSES, MAX_MEMBERS, Network, Place, Topology, Uplink};
use crate::{LabError, gateway};

/// The name of the router in the middle.
pub(crate) const INTERNET: &str = "internet";
/// The interface of hosts.
const HOST: &str = "eth0";
/// Interfaces of gateways.
const WAN: &str = "wan";
const LAN: &str = "lan";
/// The first member of a network.
const FIRST: u16 = 10;
/// How far a changed address is from the first one: beyond all members, and within a /24.
const CHANGED: u16 = 120;
const _: () = assert!(MAX_MEMBERS + FIRST as usize <= 130 && 130 + CHANGED <= 254 && MAX_ADDRESSES < 120);

/// Everything that is built.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// By the node that the cable leads up from.
    pub(crate) cables: BTreeMap<String, Wire>,
}

/// One namespace.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    /// Lines for `ip -batch`, once its cables are there.
    pub(crate) lines: Vec<String>,
    /// Lines for `tc -batch`.
    pub(crate) shaping: Vec<String>,
    /// Text for `nft -f`.
    pub(crate) rules: String,
    /// Whether it forwards.
    pub(crate) router: bool,
    /// The gateway's way out, to make its rules again.
    pub(crate) uplink: Option<Uplink>,
}

/// One cable, with what its node has at it.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The interface in the namespace of the node.
    pub(crate) near: &'static str,
    /// The namespace at the other end.
    pub(crate) far: String,
    /// The interface there.
    pub(crate) port: String,
    pub(crate) cable: Cable,
    pub(crate) subnet4: Option<Ipv4Addr>,
    pub(crate) subnet6: Option<Ipv6Addr>,
    /// The last part of the address that it has, and of the one that it began with; how many there are.
    pub(crate) at: u16,
    first: u16,
    count: u16,
    /// IPv6 networks behind the node, which the far side reaches through it.
    pub(crate) behind: Vec<Ipv6Addr>,
    /// Whether the far end is a router of its own for this cable, and not a port of a bridge.
    pub(crate) routed: bool,
}

impl Wire {
    /// Addresses of the node at this cable, IPv4 before IPv6.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let parts = self.at..self.at + self.count;
        let v4 = self.subnet4.map(|net| parts.clone().map(move |part| IpAddr::V4(member4(net, part))));
        let v6 = self.subnet6.map(|net| parts.map(move |part| IpAddr::V6(member6(net, part))));
        v4.into_iter().flatten().chain(v6.into_iter().flatten()).collect()
    }

    pub(crate) fn address4(&self) -> Option<Ipv4Addr> {
        self.subnet4.map(|net| member4(net, self.at))
    }

    /// Lines for `ip` that give the node its addresses and its way out.
    pub(crate) fn near_lines(&self) -> Vec<String> {
        let near = self.near;
        let mut lines: Vec<String> = self.addresses().iter().map(|a| add(*a, near)).collect();
        if let Some(net) = self.subnet4 {
            lines.push(format!("route replace default via {} dev {near}", member4(net, 1)));
        }
        if let Some(net) = self.subnet6 {
            lines.push(format!("route replace ::/0 via {} dev {near}", member6(net, 1)));
        }
        lines
    }

    /// Lines for `ip` that take its addresses away.
    pub(crate) fn remove_lines(&self) -> Vec<String> {
        let prefix = |address: &IpAddr| if address.is_ipv4() { 24 } else { 64 };
        let remove = |a: &IpAddr| format!("address delete {a}/{} dev {}", prefix(a), self.near);
        self.addresses().iter().map(remove).collect()
    }

    /// Lines for `ip` at the far end; they may be repeated after the interface was down.
    pub(crate) fn far_lines(&self) -> Vec<String> {
        let port = &self.port;
        let mut lines = vec![format!("link set {port} up")];
        if self.routed {
            lines.extend(self.subnet4.map(|net| add(IpAddr::V4(member4(net, 1)), port)));
            lines.extend(self.subnet6.map(|net| add(IpAddr::V6(member6(net, 1)), port)));
        }
        if let Some(net) = self.subnet6 {
            let via = member6(net, self.at);
            lines.extend(self.behind.iter().map(|net| format!("route replace {net}/64 via {via}")));
        }
        lines
    }

    /// Moves the node to its other addresses.
    pub(crate) fn renumber(&mut self) {
        self.at = if self.at > self.first { self.first } else { self.first + CHANGED };
    }
}

fn add(address: IpAddr, interface: &str) -> String {
    match address {
        IpAddr::V4(a) => format!("address replace {a}/24 dev {interface}"),
        // Nobody else has it: no second of waiting until that is found out.
        IpAddr::V6(a) => format!("address replace {a}/64 dev {interface} nodad"),
    }
}

/// A line for `tc`: a bucket of 10 ms, at least of a burst that a kernel hands over at once, and a queue of 50 ms.
fn shape(interface: &str, kilobits: u32) -> String {
    let burst = (u64::from(kilobits) * 10 / 8).max(16_384);
    format!("qdisc replace dev {interface} root tbf rate {kilobits}kbit burst {burst} latency 50ms")
}

fn member4(net: Ipv4Addr, part: u16) -> Ipv4Addr {
    let [a, b, c, _] = net.octets();
    Ipv4Addr::new(a, b, c, u8::try_from(part).unwrap_or(u8::MAX))
}

fn member6(net: Ipv6Addr, part: u16) -> Ipv6Addr {
    let [a, b, c, d, ..] = net.segments();
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, part)
}

/// The plan under construction.
struct Planner<'a> {
    topology: &'a Topology,
    plan: Plan,
    /// Cables at the internet so far.
    at_internet: u16,
    /// Members of each network so far.
    members: BTreeMap<&'a str, u16>,
}

impl Plan {
    pub(crate) fn new(topology: &Topology) -> Result<Self, LabError> {
        topology.validate()?;
        let mut planner = Planner { topology, plan: Self::default(), at_internet: 0, members: BTreeMap::new() };
        let internet = Namespace { rules: gateway::internet(), router: true, ..Namespace::default() };
        planner.plan.namespaces.insert(INTERNET.into(), internet);
        for network in &topology.networks {
            planner.network(network);
        }
        for network in &topology.networks {
            planner.uplink(network);
        }
        for host in &topology.hosts {
            planner.host(host);
        }
        planner.finish();
        Ok(planner.plan)
    }
}

impl<'a> Planner<'a> {
    fn index(&self, name: &str) -> u16 {
        let at = self.topology.networks.iter().position(|network| network.name == name);
        at.and_then(|at| u16::try_from(at).ok()).unwrap_or_default()
    }

    fn subnet4(&self, network: &Network) -> Option<Ipv4Addr> {
        let [block, low] = (self.index(&network.name) + 1).to_be_bytes();
        let carrier = self
            .topology
            .networks
            .iter()
            .any(|inner| inner.uplink.as_ref().is_some_and(|u| u.to == Place::Network(network.name.clone())));
        let [a, b, c] = match network.subnet {
            Some(chosen) => chosen,
            None if carrier => [100, 64 + block, low],
            None if block == 0 && low < 255 => [192, 168, low],
            None => [10, block, low],
        };
        network.families.v4().then(|| Ipv4Addr::new(a, b, c, 0))
    }

    fn subnet6(&self, network: &Network) -> Option<Ipv6Addr> {
        let number = self.index(&network.name) + 1;
        network.families.v6().then(|| Ipv6Addr::new(0x2a00, 0x12, number, 0, 0, 0, 0, 0))
    }

    fn network(&mut self, network: &'a Network) {
        let mut lines =
            vec![format!("link add {LAN} type bridge stp_state 0 mcast_snooping 0"), format!("link set {LAN} up")];
        lines.extend(self.subnet4(network).map(|net| add(IpAddr::V4(member4(net, 1)), LAN)));
        lines.extend(self.subnet6(network).map(|net| add(IpAddr::V6(member6(net, 1)), LAN)));
        let namespace = Namespace { lines, router: true, uplink: network.uplink.clone(), ..Namespace::default() };
        self.plan.namespaces.insert(network.name.clone(), namespace);
        self.members.insert(&network.name, 0);
    }

    fn uplink(&mut self, network: &'a Network) {
        let Some(uplink) = &network.uplink else {
            return;
        };
        self.attach(&network.name, WAN, &uplink.to, &uplink.cable, network.families, 1);
        let outside = self.plan.cables.get(&network.name).and_then(Wire::address4);
        if let Some(namespace) = self.plan.namespaces.get_mut(&network.name) {
            namespace.rules = gateway::gateway(uplink, outside);
        }
    }

    fn host(&mut self, host: &'a Host) {
        self.plan.namespaces.insert(host.name.clone(), Namespace::default());
        self.attach(&host.name, HOST, &host.at, &host.cable, host.families, u16::from(host.addresses));
    }

    fn attach(&mut self, node: &str, near: &'static str, to: &'a Place, cable: &Cable, families: Families, count: u16) {
        let wire = match to {
            Place::Internet => {
                self.at_internet += 1;
                let number = self.at_internet;
                let [block, low] = number.to_be_bytes();
                Wire {
                    near,
                    far: INTERNET.into(),
                    port: format!("c{number}"),
                    cable: cable.clone(),
                    subnet4: families.v4().then(|| Ipv4Addr::new(11, block, low, 0)),
                    subnet6: families.v6().then(|| Ipv6Addr::new(0x2a00, 0x11, number, 0, 0, 0, 0, 0)),
                    at: 2,
                    first: 2,
                    count,
                    behind: Vec::new(),
                    routed: true,
                }
            }
            Place::Network(name) => {
                let number = self.members.entry(name).or_default();
                *number += 1;
                let number = *number;
                let network = self.topology.find(name);
                Wire {
                    near,
                    far: name.clone(),
                    port: format!("p{number}"),
                    cable: cable.clone(),
                    subnet4: network.and_then(|network| self.subnet4(network)),
                    subnet6: network.and_then(|network| self.subnet6(network)),
                    at: FIRST + number,
                    first: FIRST + number,
                    count: 1,
                    behind: Vec::new(),
                    routed: false,
                }
            }
        };
        self.plan.cables.insert(node.into(), wire);
    }

    /// What needs all cables to be known: routes to networks, ports of bridges, rules of ports.
    fn finish(&mut self) {
        for namespace in self.plan.namespaces.values_mut() {
            namespace.lines.insert(0, "link set lo up".into());
        }
        for network in &self.topology.networks {
            let Some(net) = self.subnet6(network) else {
                continue;
            };
            let mut at = network;
            while let Some(uplink) = &at.uplink {
                if let Some(wire) = self.plan.cables.get_mut(&at.name) {
                    wire.behind.push(net);
                }
                let Place::Network(outer) = &uplink.to else {
                    break;
                };
                let Some(outer) = self.topology.find(outer) else {
                    break;
                };
                at = outer;
            }
        }
        let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (node, wire) in &self.plan.cables {
            let mtu = |interface: &str| format!("link set {interface} mtu {}", wire.cable.mtu);
            let rate = |interface: &str| wire.cable.rate.map(|kilobits| shape(interface, kilobits));
            if let Some(near) = self.plan.namespaces.get_mut(node) {
                near.shaping.extend(rate(wire.near));
                near.lines.push(mtu(wire.near));
                near.lines.push(format!("link set {} up", wire.near));
                near.lines.extend(wire.near_lines());
            }
            if let Some(far) = self.plan.namespaces.get_mut(&wire.far) {
                far.shaping.extend(rate(&wire.port));
                far.lines.push(mtu(&wire.port));
                if !wire.routed {
                    far.lines.push(format!("link set {} master {LAN}", wire.port));
                    ports.entry(&wire.far).or_default().push(wire.port.clone());
                }
                far.lines.extend(wire.far_lines());
            }
        }
        for network in self.topology.networks.iter().filter(|network| !network.multicast) {
            let members = ports.remove(network.name.as_str()).unwrap_or_default();
            if let Some(namespace) = self.plan.namespaces.get_mut(&network.name) {
                namespace.rules += &gateway::no_multicast(&members);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Nat;

    #[test]
    fn every_address_is_there_once_and_changes() {
        let mut topology = Topology::new();
        for n in 0..160 {
            let families = if n % 2 == 0 { Families::Dual } else { Families::V4 };
            let (home, host) = (format!("home{n}"), format!("host{n}"));
            topology = topology.network(Network::behind(&home, Nat::FULL_CONE).families(families));
            topology = topology.host(Host::inside(&host, &home)).host(Host::public(&format!("relay{n}")).addresses(3));
        }
        let mut plan = Plan::new(&topology).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            for wire in plan.cables.values_mut() {
                assert!(wire.addresses().into_iter().all(|address| seen.insert(address)), "{wire:?}");
                wire.renumber();
            }
        }
        for wire in plan.cables.values() {
            assert!(wire.addresses().iter().all(|address| seen.contains(address)), "and back: {wire:?}");
        }
        assert_eq!(seen.len(), 2 * (80 * 2 + 80 + 80 * 2 + 80 + 160 * 6));
    }

    #[test]
    fn networks_behind_networks_are_routed_to() {
        let topology = Topology::new()
            .network(Network::behind("carrier", Nat::SYMMETRIC).families(Families::Dual))
            .network(Network::behind("home", Nat::FULL_CONE).families(Families::Dual).attached_to("carrier"))
            .host(Host::inside("a", "home"));
        let plan = Plan::new(&topology).unwrap();
        let home: Ipv6Addr = "2a00:12:2::".parse().unwrap();
        assert!(plan.cables["carrier"].behind.contains(&home));
        assert_eq!(plan.cables["home"].behind, [home]);
        assert_eq!(plan.cables["home"].addresses()[0].to_string(), "100.64.1.11");
        assert_eq!(plan.cables["a"].addresses()[0].to_string(), "192.168.2.11");
        assert!(plan.namespaces["carrier"].lines.contains(&"route replace 2a00:12:2::/64 via 2a00:12:1::b".to_owned()));
    }
}
