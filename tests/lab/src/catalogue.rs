//! Topologies that are used again and again: sites by the kind of their way to the internet, and pairs of them.
//!
//! Sites are IPv4 only where their name speaks of a NAT, so that IPv6 does not help them out.

use std::fmt;
use std::str::FromStr;

use crate::{Egress, Families, Host, Nat, Network, Topology};

/// How a host reaches the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// With public addresses of both families and no firewall.
    Public,
    /// Behind a full cone.
    FullCone,
    /// Behind a restricted cone.
    Restricted,
    /// Behind a port-restricted cone: most homes.
    PortRestricted,
    /// Behind a symmetric NAT: many companies and mobile networks.
    Symmetric,
    /// Behind two port-restricted cones: a router behind the provider's.
    DoubleNat,
    /// Behind a port-restricted cone and a carrier's NAT as RFC 6888 wants it: random ports, hair-pinning.
    CarrierNat,
    /// Behind a port-restricted cone and a symmetric carrier.
    SymmetricCarrier,
    /// Behind a gateway that lets no UDP out.
    NoUdp,
    /// Behind a gateway that lets TCP to port 443 out and nothing else.
    Https,
    /// With public IPv6 addresses behind a firewall, and no IPv4.
    V6Only,
    /// The same and IPv4 behind a port-restricted cone.
    DualStack,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Public,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::DoubleNat,
        Self::CarrierNat,
        Self::SymmetricCarrier,
        Self::NoUdp,
        Self::Https,
        Self::V6Only,
        Self::DualStack,
    ];

    /// Its name, as [`Site::from_str`] reads it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::DoubleNat => "double-nat",
            Self::CarrierNat => "carrier-nat",
            Self::SymmetricCarrier => "symmetric-carrier",
            Self::NoUdp => "no-udp",
            Self::Https => "https",
            Self::V6Only => "v6-only",
            Self::DualStack => "dual-stack",
        }
    }

    /// Adds a host at such a site. Its gateway is called `<host>-home`, one around that `<host>-carrier`; the last
    /// of host, home and carrier that exists has the cable to the internet, see [`Site::top`].
    #[must_use]
    pub fn add(self, topology: Topology, host: &str) -> Topology {
        let (home, carrier) = (format!("{host}-home"), format!("{host}-carrier"));
        let behind = |nat| topology.clone().network(Network::behind(&home, nat));
        let twice = |outer| {
            let inner = Network::behind(&home, Nat::PORT_RESTRICTED).attached_to(&carrier);
            topology.clone().network(Network::behind(&carrier, outer)).network(inner)
        };
        let other = |change: fn(Network) -> Network| {
            topology.clone().network(change(Network::behind(&home, Nat::PORT_RESTRICTED)))
        };
        let around = match self {
            Self::Public => return topology.host(Host::public(host)),
            Self::FullCone => behind(Nat::FULL_CONE),
            Self::Restricted => behind(Nat::RESTRICTED),
            Self::PortRestricted => behind(Nat::PORT_RESTRICTED),
            Self::Symmetric => behind(Nat::SYMMETRIC),
            Self::DoubleNat => twice(Nat::PORT_RESTRICTED),
            Self::CarrierNat => twice(Nat::PORT_RESTRICTED.random_ports().hairpin()),
            Self::SymmetricCarrier => twice(Nat::SYMMETRIC),
            Self::NoUdp => other(|network| network.egress(Egress::NoUdp)),
            Self::Https => other(|network| network.egress(Egress::Https)),
            Self::V6Only => other(|network| network.families(Families::V6)),
            Self::DualStack => other(|network| network.families(Families::Dual)),
        };
        around.host(Host::inside(host, &home))
    }

    /// The node with this site's cable to the internet: what to cut, to renumber, to slow down.
    #[must_use]
    pub fn top(self, host: &str) -> String {
        match self {
            Self::Public => host.to_owned(),
            Self::DoubleNat | Self::CarrierNat | Self::SymmetricCarrier => format!("{host}-carrier"),
            _ => format!("{host}-home"),
        }
    }

    /// Whether hosts at these sites, in different networks, can exchange datagrams directly when each knows the other's
    /// outside address as a third party sees it, and both send. Guessing the ports of a symmetric NAT is not counted.
    #[must_use]
    pub fn punches(self, other: Self) -> bool {
        let v6 = |site| matches!(site, Self::Public | Self::V6Only | Self::DualStack);
        let no_udp = |site| matches!(site, Self::NoUdp | Self::Https);
        let symmetric = |site| matches!(site, Self::Symmetric | Self::SymmetricCarrier);
        // Lets in datagrams from a port that it has not sent to.
        let any_port = |site| matches!(site, Self::Public | Self::FullCone | Self::Restricted);
        if no_udp(self) || no_udp(other) {
            return false;
        }
        if v6(self) && v6(other) {
            return true;
        }
        if self == Self::V6Only || other == Self::V6Only {
            return false;
        }
        (!symmetric(self) || any_port(other)) && (!symmetric(other) || any_port(self))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Site {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|site| site.name() == name).ok_or_else(|| format!("one of {}", known()))
    }
}

/// Two public hosts, `relay-1` and `relay-2`, each with two addresses of each family.
fn relays() -> Topology {
    let relay = |name| Host::public(name).addresses(2);
    Topology::new().host(relay("relay-1")).host(relay("relay-2"))
}

/// Hosts `left` and `right` at two sites, `relay-1` and `relay-2` at the internet.
#[must_use]
pub fn pair(left: Site, right: Site) -> Topology {
    right.add(left.add(relays(), "left"), "right")
}

/// `left` and `right` in two homes behind one carrier, whose NAT does hair-pinning or not; and the relays.
#[must_use]
pub fn shared_carrier(hairpin: bool) -> Topology {
    let nat = Nat { hairpin, ..Nat::PORT_RESTRICTED.random_ports() };
    let home = |name| Network::behind(name, Nat::PORT_RESTRICTED).attached_to("carrier");
    relays()
        .network(Network::behind("carrier", nat))
        .network(home("left-home"))
        .network(home("right-home"))
        .host(Host::inside("left", "left-home"))
        .host(Host::inside("right", "right-home"))
}

/// `left` and `right` in one dual-stack network behind a port-restricted cone, with multicast or without; and the relays.
#[must_use]
pub fn lan(multicast: bool) -> Topology {
    let home = Network { multicast, ..Network::behind("home", Nat::PORT_RESTRICTED).families(Families::Dual) };
    relays().network(home).host(Host::inside("left", "home")).host(Host::inside("right", "home"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_all_is_valid() {
        for site in Site::ALL {
            assert_eq!(site.name().parse(), Ok(site));
            for other in Site::ALL {
                assert!(pair(site, other).validate().is_ok(), "{site} {other}");
                assert_eq!(site.punches(other), other.punches(site), "{site} {other}");
            }
            let topology = site.add(Topology::new(), "a");
            let known = topology.networks.iter().map(|n| &n.name).chain(topology.hosts.iter().map(|h| &h.name));
            assert!(known.into_iter().any(|name| *name == site.top("a")), "{site}");
        }
        assert!("moon".parse::<Site>().unwrap_err().contains("full-cone"));
        assert!(shared_carrier(true).validate().is_ok() && lan(false).validate().is_ok());
    }
}
