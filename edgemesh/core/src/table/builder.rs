//! Builds the table from changes of objects.
//!
//! Owned by one task. A slice keeps what was parsed of it, so a change parses one object and builds one
//! Service; the indexes are touched only where that Service's addresses changed. See the module above for
//! invariants and limits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use skerry_common::{Key, NodeName, kinds};

use super::error::{Malformed, Rejected};
use super::filter::Filter;
use super::model::{Endpoint, Family, Host, Node, PortEndpoints, PortSpec, Protocol, Service, ServiceSpec};
use super::parse::{self, Slice};
use super::{Table, index};
use crate::rule::{self, DestinationRule};

/// Most objects of each kind. A cluster has up to 10,000 Services, as Kubernetes is tested; a slice holds a
/// hundred endpoints.
pub const MAX_OBJECTS: usize = 20_000;

/// What a change changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// This Service, what serves it, or its rule. It may be new or gone.
    Service(Key),
    /// This Node. It may be new or gone.
    Node(Arc<str>),
    /// A DestinationRule is now this. Its warnings are for an Event on it, and are empty when all of it holds.
    Rule(Arc<DestinationRule>),
}

/// The rules for one Service: whether it has another name than the Service, its name.
type Rules = BTreeMap<(bool, Arc<str>), Arc<DestinationRule>>;

/// See the module documentation.
#[derive(Debug)]
pub struct TableBuilder {
    filter: Filter,
    table: Table,
    specs: BTreeMap<Key, Arc<ServiceSpec>>,
    slices: BTreeMap<Key, Arc<Slice>>,
    /// Slices by Service.
    slices_of: BTreeMap<Key, BTreeMap<Arc<str>, Arc<Slice>>>,
    rules: BTreeMap<Key, Arc<DestinationRule>>,
    /// Rules by Service. One of the Service's own name comes first, as EdgeMesh has it, then by name.
    rules_of: BTreeMap<Key, Rules>,
}

impl TableBuilder {
    /// An empty table for a node.
    #[must_use]
    pub fn new(node: NodeName, filter: Filter) -> Self {
        let table = Table {
            generation: 0,
            node,
            services: Arc::default(),
            nodes: Arc::default(),
            node_ips: Arc::default(),
            addresses: Arc::default(),
            hosts: Arc::default(),
            locals: Arc::default(),
        };
        Self {
            filter,
            table,
            specs: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            rules: BTreeMap::new(),
            rules_of: BTreeMap::new(),
        }
    }

    /// The table as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Table> {
        Arc::new(self.table.clone())
    }

    /// The object is now this; `body` is its JSON. Without effects no new snapshot is needed.
    ///
    /// # Errors
    /// When the object cannot be used. What the table had of it stays.
    pub fn upsert(&mut self, kind: &str, key: &Key, body: &[u8]) -> Result<Vec<Effect>, Rejected> {
        let effect = match kind {
            kinds::SERVICE => self.upsert_service(key, body),
            kinds::ENDPOINT_SLICE => self.upsert_slice(key, body),
            kinds::NODE => self.upsert_node(key, body),
            kinds::DESTINATION_RULE => self.upsert_rule(key, body),
            _ => Err(Malformed::Kind),
        };
        effect.map_err(|cause| Rejected { kind: kind.chars().take(64).collect(), key: key.clone(), cause })
    }

    /// The object is gone. A kind that the table does not hold changes nothing.
    pub fn delete(&mut self, kind: &str, key: &Key) -> Vec<Effect> {
        match kind {
            kinds::SERVICE => {
                self.specs.remove(key);
                self.rebuild([Some(key.clone())])
            }
            kinds::ENDPOINT_SLICE => {
                let service = self.remove_slice(key);
                self.rebuild([service])
            }
            kinds::NODE => self.set_node(key.name.clone(), None),
            kinds::DESTINATION_RULE => {
                let service = self.remove_rule(key);
                self.rebuild([service])
            }
            _ => Vec::new(),
        }
    }

    fn upsert_service(&mut self, key: &Key, body: &[u8]) -> Result<Vec<Effect>, Malformed> {
        room(&self.specs, key, "Services")?;
        let spec = parse::service(key, body, self.filter)?;
        if self.specs.get(key).is_some_and(|old| **old == spec) {
            return Ok(Vec::new());
        }
        self.specs.insert(key.clone(), Arc::new(spec));
        Ok(self.rebuild([Some(key.clone())]))
    }

    fn upsert_slice(&mut self, key: &Key, body: &[u8]) -> Result<Vec<Effect>, Malformed> {
        room(&self.slices, key, "EndpointSlices")?;
        let slice = parse::slice(key, body)?.map(Arc::new);
        if self.slices.get(key) == slice.as_ref() {
            return Ok(Vec::new());
        }
        // A slice may move to another Service: the label is immutable by custom, not by rule.
        let before = self.remove_slice(key);
        let now = slice.as_ref().map(|slice| slice.service.clone());
        if let Some(slice) = slice {
            self.slices_of.entry(slice.service.clone()).or_default().insert(key.name.clone(), slice.clone());
            self.slices.insert(key.clone(), slice);
        }
        Ok(self.rebuild([before, now]))
    }

    /// Takes a slice away; the Service that it belonged to.
    fn remove_slice(&mut self, key: &Key) -> Option<Key> {
        let old = self.slices.remove(key)?;
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.remove(&key.name);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        Some(old.service.clone())
    }

    fn upsert_node(&mut self, key: &Key, body: &[u8]) -> Result<Vec<Effect>, Malformed> {
        if self.table.nodes.len() >= MAX_OBJECTS && !self.table.nodes.contains_key(&key.name) {
            return Err(Malformed::TooMany { field: "Nodes", most: MAX_OBJECTS });
        }
        let node = parse::node(key, body)?;
        Ok(self.set_node(key.name.clone(), Some(node)))
    }

    fn set_node(&mut self, name: Arc<str>, node: Option<Node>) -> Vec<Effect> {
        let old = self.table.nodes.get(&name).cloned();
        if old.as_deref() == node.as_ref() {
            return Vec::new();
        }
        self.table.generation += 1;
        let nodes = Arc::make_mut(&mut self.table.nodes);
        let node = node.map(Arc::new);
        match &node {
            Some(node) => nodes.insert(name.clone(), node.clone()),
            None => nodes.remove(&name),
        };
        let ips = |node: &Node| -> Vec<_> { node.internal_ips.iter().chain(&node.external_ips).copied().collect() };
        if old.as_deref().map(ips) != node.as_deref().map(ips) {
            // Rare, and two Nodes may claim one address: the first by name has it, whoever came first.
            let nodes = self.table.nodes.values().rev();
            let all = nodes.flat_map(|node| ips(node).into_iter().map(|ip| (ip, node.name.clone())));
            self.table.node_ips = Arc::new(all.collect());
        }
        vec![Effect::Node(name)]
    }

    fn upsert_rule(&mut self, key: &Key, body: &[u8]) -> Result<Vec<Effect>, Malformed> {
        room(&self.rules, key, "DestinationRules")?;
        let rule = Arc::new(rule::parse(key, body).map_err(Malformed::Json)?);
        if self.rules.get(key) == Some(&rule) {
            return Ok(Vec::new());
        }
        let before = self.remove_rule(key);
        self.rules.insert(key.clone(), rule.clone());
        if let Some(service) = &rule.service {
            let order = (service.name != key.name, key.name.clone());
            self.rules_of.entry(service.clone()).or_default().insert(order, rule.clone());
        }
        let mut effects = self.rebuild([before, rule.service.clone()]);
        effects.push(Effect::Rule(rule));
        Ok(effects)
    }

    /// Takes a rule away; the Service that it was for.
    fn remove_rule(&mut self, key: &Key) -> Option<Key> {
        let service = self.rules.remove(key)?.service.clone()?;
        if let Some(rules) = self.rules_of.get_mut(&service) {
            rules.remove(&(service.name != key.name, key.name.clone()));
            if rules.is_empty() {
                self.rules_of.remove(&service);
            }
        }
        Some(service)
    }

    /// Makes Services anew from what is known of them; those that changed.
    fn rebuild<const N: usize>(&mut self, keys: [Option<Key>; N]) -> Vec<Effect> {
        keys.into_iter().flatten().filter(|key| self.rebuild_one(key)).map(Effect::Service).collect()
    }

    fn rebuild_one(&mut self, key: &Key) -> bool {
        let old = self.table.services.get(key).cloned();
        let new = self.specs.get(key).map(|spec| self.service(spec));
        if old.as_deref() == new.as_ref() {
            return false;
        }
        let new = new.map(Arc::new);
        self.table.generation += 1;
        let services = Arc::make_mut(&mut self.table.services);
        match &new {
            Some(new) => services.insert(key.clone(), new.clone()),
            None => services.remove(key),
        };
        self.index_addresses(old.as_deref(), new.as_deref());
        self.index_hosts(key, old.as_deref(), new.as_deref());
        self.index_locals(old.as_deref(), new.as_deref());
        true
    }

    fn service(&self, spec: &Arc<ServiceSpec>) -> Service {
        let slices = self.slices_of.get(&spec.key);
        let slices = || slices.into_iter().flat_map(BTreeMap::values);
        let mut hosts = BTreeMap::new();
        for host in slices().flat_map(|slice| &slice.hosts) {
            put(&mut hosts, host.ip, host);
        }
        Service {
            spec: spec.clone(),
            hosts: hosts.into_values().cloned().collect(),
            endpoints: spec.ports.iter().map(|port| port_endpoints(port, slices())).collect(),
            rule: self.rules_of.get(&spec.key).and_then(|rules| rules.values().next()).cloned(),
        }
    }

    fn index_addresses(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let same = matches!((old, new), (Some(old), Some(new)) if Arc::ptr_eq(&old.spec, &new.spec));
        if !same {
            let addresses = Arc::make_mut(&mut self.table.addresses);
            old.into_iter().for_each(|old| addresses.remove(old));
            new.into_iter().for_each(|new| addresses.add(new));
        }
    }

    fn index_hosts(&mut self, key: &Key, old: Option<&Service>, new: Option<&Service>) {
        let ips = |service: Option<&Service>| -> Vec<_> {
            service.into_iter().flat_map(|service| service.hosts.iter()).map(|host| host.ip).collect()
        };
        if ips(old) != ips(new) {
            let hosts: &mut index::Hosts = Arc::make_mut(&mut self.table.hosts);
            let of = |service: Option<&Service>| service.map(|service| service.hosts.clone()).unwrap_or_default();
            of(old).iter().for_each(|host| hosts.remove(key, host));
            of(new).iter().for_each(|host| hosts.add(key, host));
        }
    }

    fn index_locals(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let node = self.table.node.as_str().to_owned();
        let of = |service: Option<&Service>| -> Vec<(Protocol, Endpoint)> {
            let carried = service.filter(|service| service.spec.proxied);
            let ports = carried.into_iter().flat_map(Service::ports);
            let all = ports.flat_map(|(port, endpoints)| endpoints.iter().map(|e| (port.protocol, e.clone())));
            all.filter(|(_, endpoint)| endpoint.host.node.as_deref() == Some(&node)).collect()
        };
        let (old, new) = (of(old), of(new));
        if old != new {
            let locals = Arc::make_mut(&mut self.table.locals);
            new.iter().for_each(|(protocol, endpoint)| locals.add(*protocol, endpoint));
            old.iter().for_each(|(protocol, endpoint)| locals.remove(*protocol, endpoint));
        }
    }
}

fn room<T>(map: &BTreeMap<Key, T>, key: &Key, field: &'static str) -> Result<(), Malformed> {
    if map.len() >= MAX_OBJECTS && !map.contains_key(key) {
        return Err(Malformed::TooMany { field, most: MAX_OBJECTS });
    }
    Ok(())
}

/// While an endpoint moves between slices it is in two of them; the one that is ready counts.
fn put<'a, K: Ord>(map: &mut BTreeMap<K, &'a Arc<Host>>, at: K, host: &'a Arc<Host>) {
    let known = map.entry(at).or_insert(host);
    if host.ready && !known.ready {
        *known = host;
    }
}

fn port_endpoints<'a>(port: &PortSpec, slices: impl Iterator<Item = &'a Arc<Slice>>) -> PortEndpoints {
    let mut all = BTreeMap::new();
    for slice in slices {
        for listed in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            for host in &slice.hosts {
                put(&mut all, SocketAddr::new(host.ip, listed.port), host);
            }
        }
    }
    let of = |family| {
        let ours = all.iter().filter(|(address, _)| Family::of(address.ip()) == family);
        ours.map(|(address, host)| Endpoint { address: *address, host: Arc::clone(host) }).collect()
    };
    PortEndpoints { v4: of(Family::V4), v6: of(Family::V6) }
}
