//! What the kernel shall do, as plain values: addresses of Services and who serves them.
//!
//! The agent makes a [`State`] from its Services and EndpointSlices and gives it to
//! [`Netfilter::apply`](crate::Netfilter::apply). Everything is checked when it goes in, so that what renders rules
//! has nothing to refuse: a backend has the family of its frontend, and no count is above its limit. Values here are
//! addresses, numbers and nothing else: no text of a user ever reaches a rule.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Frontends of one node: ten times the Services that a site of 500 has, each with several addresses. A state of this
/// size is about 30 MB in the kernel.
pub const MAX_FRONTENDS: usize = 20_000;

/// Slots of one frontend: the most endpoints that Kubernetes puts into one EndpointSlice.
pub const MAX_SLOTS: usize = 1_000;

/// Slots of all frontends together, so that one transaction stays below what netlink takes at once.
pub const MAX_ALL_SLOTS: usize = 200_000;

/// Places of the table of a frontend with session affinity, which count as slots, for up to [`FEW`] of them: with ten
/// backends each has its share within a quarter.
const PLACES: usize = 256;
/// Slots for which that is enough; more have 1,024 places, so that nearly all of [`MAX_SLOTS`] get one.
const FEW: usize = 32;

/// The longest time that Kubernetes allows for session affinity.
pub const MAX_AFFINITY: Duration = Duration::from_secs(86_400);

/// A transport protocol of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP; only to backends in the kernel, the proxy does not speak it.
    Sctp,
}

impl Protocol {
    /// All of them, for rules that are written once for each.
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As nft writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for rules that are written once for each.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Where a frontend listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// A ClusterIP, an externalIP or the address of a load balancer.
    Address(IpAddr),
    /// Every address of this node but those of `lo`: a NodePort. Once for each family.
    Node(Family),
}

/// Where clients find a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub at: At,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, never 0.
    pub port: u16,
}

impl Frontend {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.at {
            At::Address(address) => Family::of(address),
            At::Node(family) => family,
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Address(address) => write!(f, "{}/{}", SocketAddr::new(address, self.port), self.protocol),
            At::Node(Family::V4) => write!(f, "node port {}/{}", self.port, self.protocol),
            At::Node(Family::V6) => write!(f, "node port {}/{} (IPv6)", self.port, self.protocol),
        }
    }
}

/// One share of the traffic of a frontend. All slots of a frontend get the same share; a weight is a slot more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Goes to this address in the kernel.
    Backend(SocketAddr),
    /// Goes to the proxy in user space, at the port of [`Config::proxy`](crate::Config::proxy).
    Proxy,
}

/// Who serves a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Who serves. Empty: connections are refused.
    pub slots: Vec<Slot>,
    /// Only backends of this node serve traffic from outside of it, and see the client's address
    /// (`externalTrafficPolicy: Local`). Empty: such traffic is dropped. Without, outside traffic is served by
    /// `slots` and gets an address of this node as its source, so that the answers come back this way.
    pub local: Option<Vec<Slot>>,
    /// A client stays with its backend until it has been silent for so long (`sessionAffinity: ClientIP`), in whole
    /// seconds. New backends take nobody from the others, but in two cases: a client of the proxy, and one of IPv6,
    /// stay by a hash of their address, which moves the share of the new backend.
    pub affinity: Option<Duration>,
}

/// The desired state. Two states are equal if the kernel shall do the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    services: BTreeMap<Frontend, Service>,
    slots: usize,
}

/// Why a frontend was not taken. The state is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The address is none that a Service can have.
    #[error("{0}: not an address for a Service")]
    Address(Frontend),
    /// Port 0.
    #[error("{0}: port 0")]
    Port(Frontend),
    /// A backend has another family than the frontend, or no address or port.
    #[error("{0}: cannot be served by {1}")]
    Backend(Frontend, SocketAddr),
    /// The proxy speaks TCP and UDP.
    #[error("{0}: the proxy does not speak this protocol")]
    Proxy(Frontend),
    /// Not within 1 s and [`MAX_AFFINITY`].
    #[error("{0}: session affinity of {1:?} is not within one second and one day")]
    Affinity(Frontend, Duration),
    /// More than [`MAX_SLOTS`].
    #[error("{0}: more than {MAX_SLOTS} slots")]
    Slots(Frontend),
    /// More than [`MAX_FRONTENDS`] or [`MAX_ALL_SLOTS`].
    #[error("{0}: more than {MAX_FRONTENDS} frontends or {MAX_ALL_SLOTS} slots on this node")]
    Full(Frontend),
}

impl State {
    /// Puts a frontend in, in place of what it was.
    ///
    /// # Errors
    /// [`StateError`] when a value is out of range; the state is as before.
    pub fn insert(&mut self, frontend: Frontend, service: Service) -> Result<(), StateError> {
        check(&frontend, &service)?;
        let before = self.services.get(&frontend).map(count);
        let slots = self.slots - before.unwrap_or(0) + count(&service);
        if slots > MAX_ALL_SLOTS || (before.is_none() && self.services.len() >= MAX_FRONTENDS) {
            return Err(StateError::Full(frontend));
        }
        self.slots = slots;
        self.services.insert(frontend, service);
        Ok(())
    }

    /// Takes a frontend out.
    pub fn remove(&mut self, frontend: &Frontend) -> Option<Service> {
        let service = self.services.remove(frontend)?;
        self.slots -= count(&service);
        Some(service)
    }

    /// Who serves this frontend.
    #[must_use]
    pub fn get(&self, frontend: &Frontend) -> Option<&Service> {
        self.services.get(frontend)
    }

    /// All frontends in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&Frontend, &Service)> {
        self.services.iter()
    }

    /// Number of frontends.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

impl Service {
    /// All slots, of both kinds of traffic.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().chain(self.local.iter().flatten())
    }

    /// All addresses that serve in the kernel, some of them more than once.
    pub(crate) fn backends(&self) -> impl Iterator<Item = SocketAddr> {
        self.all_slots().filter_map(|slot| match slot {
            Slot::Backend(backend) => Some(*backend),
            Slot::Proxy => None,
        })
    }
}

/// Places that so many slots with session affinity share.
pub(crate) fn places(slots: usize) -> usize {
    match slots {
        0 => 0,
        1..=FEW => PLACES,
        _ => PLACES * 4,
    }
}

/// Slots as the kernel has them.
fn count(service: &Service) -> usize {
    let local = service.local.as_ref().map_or(0, Vec::len);
    match service.affinity {
        Some(_) => places(service.slots.len()) + places(local),
        None => service.slots.len() + local,
    }
}

fn check(frontend: &Frontend, service: &Service) -> Result<(), StateError> {
    if let At::Address(address) = frontend.at
        && (address.is_unspecified() || address.is_loopback() || address.is_multicast())
    {
        return Err(StateError::Address(*frontend));
    }
    if frontend.port == 0 {
        return Err(StateError::Port(*frontend));
    }
    for backend in service.backends() {
        let ip = backend.ip();
        let wrong = Family::of(ip) != frontend.family() || ip.is_unspecified() || ip.is_multicast();
        if wrong || backend.port() == 0 {
            return Err(StateError::Backend(*frontend, backend));
        }
    }
    if frontend.protocol == Protocol::Sctp && service.all_slots().any(|slot| *slot == Slot::Proxy) {
        return Err(StateError::Proxy(*frontend));
    }
    if let Some(time) = service.affinity
        && (time < Duration::from_secs(1) || time > MAX_AFFINITY)
    {
        return Err(StateError::Affinity(*frontend, time));
    }
    if service.slots.len() > MAX_SLOTS || service.local.as_ref().is_some_and(|local| local.len() > MAX_SLOTS) {
        return Err(StateError::Slots(*frontend));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(at: &str, port: u16) -> Frontend {
        Frontend { at: At::Address(at.parse().unwrap()), protocol: Protocol::Tcp, port }
    }

    fn served(by: &[&str]) -> Service {
        let slots = by.iter().map(|b| Slot::Backend(b.parse().unwrap())).collect();
        Service { slots, ..Service::default() }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut state = State::default();
        let web = frontend("10.96.0.1", 80);
        let sctp = Frontend { protocol: Protocol::Sctp, ..web };
        let proxied = Service { slots: vec![Slot::Proxy], ..Service::default() };
        let sticky = |time| Service { affinity: Some(time), ..Service::default() };
        let many = Service { slots: vec![Slot::Proxy; MAX_SLOTS + 1], ..Service::default() };
        for (frontend, service) in [
            (frontend("0.0.0.0", 80), served(&[])),
            (frontend("127.0.0.1", 80), served(&[])),
            (frontend("ff02::1", 80), served(&[])),
            (frontend("10.96.0.1", 0), served(&[])),
            (web, served(&["[fd00::1]:80"])),
            (web, served(&["0.0.0.0:80"])),
            (web, served(&["10.0.0.1:0"])),
            (web, Service { local: Some(served(&["[fd00::1]:80"]).slots), ..Service::default() }),
            (sctp, proxied),
            (web, sticky(Duration::from_millis(999))),
            (web, sticky(MAX_AFFINITY + Duration::from_secs(1))),
            (web, many),
        ] {
            let error = state.insert(frontend, service).unwrap_err();
            assert!(!error.to_string().is_empty());
            assert_eq!(state, State::default());
        }
    }

    #[test]
    fn frontends_and_slots_are_bounded() {
        let mut state = State::default();
        let full = |at: u32| frontend(&std::net::Ipv4Addr::from(0x0a60_0000 + at).to_string(), 80);
        let service = Service { slots: vec![Slot::Proxy; MAX_SLOTS], ..Service::default() };
        let fits = u32::try_from(MAX_ALL_SLOTS / MAX_SLOTS).unwrap();
        for at in 1..=fits {
            state.insert(full(at), service.clone()).unwrap();
        }
        assert_eq!(state.insert(full(fits + 1), service.clone()), Err(StateError::Full(full(fits + 1))));
        state.insert(full(1), service.clone()).unwrap();
        state.remove(&full(1)).unwrap();
        state.insert(full(fits + 1), service).unwrap();

        let mut state = State::default();
        for at in 0..u32::try_from(MAX_FRONTENDS).unwrap() {
            state.insert(full(at), Service::default()).unwrap();
        }
        let one_more = full(u32::try_from(MAX_FRONTENDS).unwrap());
        assert_eq!(state.insert(one_more, Service::default()), Err(StateError::Full(one_more)));
        assert_eq!(state.len(), MAX_FRONTENDS);
    }
}
