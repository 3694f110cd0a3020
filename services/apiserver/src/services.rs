//! Cluster IPs and node ports of Services.
//!
//! Called by create, update and delete of Services. Invariants: an address belongs to one Service at a
//! time; the first address of the range is that of `default/kubernetes`.
//! Limits: the size of the service CIDR; [`NODE_PORTS`]. Rebuilt from the stored Services at start.

use serde_json::Value;
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{int_at, list_at, str_at};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kubernetes' default range.
pub(crate) const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// An IPv4 network for Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// Parses `10.96.0.0/16`; /30 to /8.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=30).contains(p))?;
        let base = u32::from(address.parse::<Ipv4Addr>().ok()?) & (u32::MAX << (32 - u32::from(prefix)));
        Some(Self { base, prefix })
    }
    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }
    /// The n-th address; 1 is the API's own.
    pub(crate) fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.wrapping_add(n))
    }
    fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.base);
        offset > 0 && offset < self.size() - 1
    }
}

#[derive(Default)]
struct Used {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// Hands out addresses and ports.
pub(crate) struct Allocator {
    cidr: Cidr,
    used: Mutex<Used>,
}

/// What an allocation took; given back if the write fails.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

fn held(service: &Value) -> Taken {
    let addresses = str_at(service, "/spec/clusterIP").parse().into_iter().collect();
    let ports = list_at(service, "/spec/ports")
        .iter()
        .filter_map(|p| u16::try_from(int_at(p, "/nodePort")?).ok())
        .filter(|p| *p > 0);
    Taken { addresses, ports: ports.collect() }
}

impl Allocator {
    pub(crate) fn new(cidr: Cidr) -> Self {
        Self { cidr, used: Mutex::default() }
    }

    /// The address of `default/kubernetes`.
    pub(crate) fn own(&self) -> Ipv4Addr {
        self.cidr.nth(1)
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a stored Service holds (at start).
    pub(crate) fn note(&self, service: &Value) {
        let taken = held(service);
        let mut used = self.lock();
        used.addresses.extend(taken.addresses);
        used.ports.extend(taken.ports);
    }

    /// Gives back what a removed Service held.
    pub(crate) fn release(&self, service: &Value) {
        self.give_back(held(service));
    }

    /// Gives back what a changed Service held before and does not hold now.
    pub(crate) fn settle(&self, old: &Value, new: &Value) {
        let (mut before, after) = (held(old), held(new));
        before.addresses.retain(|address| !after.addresses.contains(address));
        before.ports.retain(|port| !after.ports.contains(port));
        self.give_back(before);
    }

    /// Gives back an allocation that was not used.
    pub(crate) fn give_back(&self, taken: Taken) {
        let mut used = self.lock();
        for address in taken.addresses {
            used.addresses.remove(&address);
        }
        for port in taken.ports {
            used.ports.remove(&port);
        }
    }

    /// Fills clusterIP(s) and nodePorts of a new or changed Service. `old` is the stored state.
    pub(crate) fn fill(&self, service: &mut Value, old: Option<&Value>) -> Result<Taken, FieldError> {
        let mut taken = Taken::default();
        let kind = str_at(service, "/spec/type").to_owned();
        let result = self.fill_inner(service, old, &kind, &mut taken);
        if result.is_err() {
            self.give_back(std::mem::take(&mut taken));
        }
        result.map(|()| taken)
    }

    fn fill_inner(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        kind: &str,
        taken: &mut Taken,
    ) -> Result<(), FieldError> {
        let before = old.map(held).unwrap_or_default();
        let mut used = self.lock();
        if kind == "ExternalName" {
            skerry_apimachinery::json::remove(service, &["spec"], "clusterIP");
            skerry_apimachinery::json::remove(service, &["spec"], "clusterIPs");
        } else {
            let wanted = str_at(service, "/spec/clusterIP").to_owned();
            let address = match wanted.as_str() {
                "None" => None,
                "" => Some(self.free(&used).ok_or_else(|| {
                    FieldError::invalid("spec.clusterIP", "", "failed to allocate an IP: the service range is full")
                })?),
                text => match text.parse::<Ipv4Addr>() {
                    Ok(ip) if before.addresses.contains(&ip) => None,
                    Ok(ip) if !self.cidr.contains(ip) => {
                        return Err(FieldError::invalid(
                            "spec.clusterIP",
                            text,
                            "the provided IP is not in the valid range",
                        ));
                    }
                    Ok(ip) if used.addresses.contains(&ip) => {
                        return Err(FieldError::invalid(
                            "spec.clusterIP",
                            text,
                            "failed to allocate IP: provided IP is already allocated",
                        ));
                    }
                    Ok(ip) => Some(ip),
                    Err(_) => {
                        return Err(FieldError::invalid(
                            "spec.clusterIP",
                            text,
                            "must be a valid IP address, 'None', or empty",
                        ));
                    }
                },
            };
            let text = address.map_or(wanted, |ip| ip.to_string());
            if let Some(ip) = address {
                used.addresses.insert(ip);
                taken.addresses.push(ip);
            }
            skerry_apimachinery::json::set(service, &["spec"], "clusterIP", text.clone());
            skerry_apimachinery::json::set(service, &["spec"], "clusterIPs", vec![Value::from(text)]);
        }
        if matches!(kind, "NodePort" | "LoadBalancer")
            && let Some(Value::Array(ports)) = service.pointer_mut("/spec/ports")
        {
            for (index, port) in ports.iter_mut().enumerate() {
                let field = format!("spec.ports[{index}].nodePort");
                let chosen = match int_at(port, "/nodePort").and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
                    Some(n) if before.ports.contains(&n) => continue,
                    Some(n) if !NODE_PORTS.contains(&n) => {
                        return Err(FieldError::invalid(
                            field,
                            n,
                            "provided port is not in the valid range. The range of valid ports is 30000-32767",
                        ));
                    }
                    Some(n) if used.ports.contains(&n) => {
                        return Err(FieldError::invalid(field, n, "provided port is already allocated"));
                    }
                    Some(n) => n,
                    None => NODE_PORTS
                        .clone()
                        .find(|n| !used.ports.contains(n))
                        .ok_or_else(|| FieldError::invalid(field, 0, "no node port is free"))?,
                };
                used.ports.insert(chosen);
                taken.ports.push(chosen);
                skerry_apimachinery::json::set(port, &[], "nodePort", chosen);
            }
        }
        Ok(())
    }

    fn free(&self, used: &Used) -> Option<Ipv4Addr> {
        let size = self.cidr.size();
        let start = rand::random::<u32>() % size;
        // The lower addresses are left for Services that ask for one, as Kubernetes does.
        let reserved = (size / 16).clamp(2, 256);
        let all = (0..size).map(|i| start.wrapping_add(i) % size);
        let usable = |n: &u32| *n > 1 && *n < size - 1 && !used.addresses.contains(&self.cidr.nth(*n));
        all.clone()
            .filter(|n| *n >= reserved)
            .find(usable)
            .or_else(|| all.into_iter().find(usable))
            .map(|n| self.cidr.nth(n))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_given_once_and_returned() {
        let allocator = Allocator::new(Cidr::parse("10.0.0.0/29").unwrap());
        let mut given = HashSet::new();
        for _ in 0..5 {
            let mut service = json!({"spec": {"type": "ClusterIP"}});
            allocator.fill(&mut service, None).unwrap();
            assert!(given.insert(str_at(&service, "/spec/clusterIP").to_owned()));
        }
        assert!(allocator.fill(&mut json!({"spec": {"type": "ClusterIP"}}), None).is_err());
        allocator.release(&json!({"spec": {"clusterIP": "10.0.0.3"}}));
        assert!(allocator.fill(&mut json!({"spec": {"clusterIP": "10.0.0.3"}}), None).is_ok());
        assert!(allocator.fill(&mut json!({"spec": {"clusterIP": "10.1.0.3"}}), None).is_err());
        assert!(Cidr::parse("10.0.0.0/33").is_none());
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.3"}});
        let mut new = json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.3"}});
        allocator.fill(&mut new, Some(&old)).unwrap();
        assert_eq!(new, json!({"spec": {"type": "ExternalName"}}));
        allocator.settle(&old, &new);
        assert!(allocator.fill(&mut json!({"spec": {"clusterIP": "10.0.0.3"}}), None).is_ok());
    }
}
