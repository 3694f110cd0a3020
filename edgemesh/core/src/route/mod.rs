//! From a connection that a client made to the endpoints that it is offered, and back: what the proxy asks.
//!
//! A [`Router`] joins the [`Table`], the balancers and what is known of neighbours. The proxy asks it once for each
//! connection or UDP flow ([`Router::route`]) and tells each [`Choice`] what came of it. Locks are held for
//! microseconds, one per port of a Service: neither a slow client nor a slow backend holds up anybody, because
//! nothing is read or dialled under one.
//!
//! Invariants: a connection counts for at most one endpoint at a time, and no more when its choices are dropped,
//! whatever happened to the task; a change of endpoints takes effect with the next connection. Limits: one balancer
//! for each port of a Service that was asked for, and none for those that are gone; [`MAX_PEEK`] bytes of a client
//! are looked at.

mod choice;
mod http;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use skerry_common::Key;

use crate::balance::{Balancer, Client, Defaults, EndpointStatus, Place, Settings};
use crate::rule::{ConnectionPool, HashKey, Policy};
use crate::table::{Family, Match, Protocol, ProxyProtocol, Service, Table, Via};

pub use choice::{Choice, EARLY, Way};
pub use http::MAX_PEEK;
use http::Peeked;

/// Nodes that are near.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Reached over the LAN.
    pub lan: BTreeSet<Arc<str>>,
    /// Those whose endpoints this node reaches itself, without the tunnel: verified, not guessed.
    pub routable: BTreeSet<Arc<str>>,
}

/// A connection, or a flow of datagrams, that looks for an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// Whether that is one of the node's own addresses, whose ports are node ports.
    pub own_address: bool,
    /// The first bytes that the client sent, as far as they are there.
    pub seen: &'a [u8],
    /// Whether more of them may be had.
    pub more: bool,
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub enum Route {
    /// These serve it, best first.
    Serve(Plan),
    /// The policy needs a header that has not come: ask again with more bytes.
    Peek,
    /// Nobody does.
    Refuse(Unserved),
}

/// Who serves a connection.
#[derive(Debug)]
pub struct Plan {
    /// The Service.
    pub service: Arc<Service>,
    /// Which of its ports.
    pub port: usize,
    /// At least one; to be tried in this order.
    pub choices: Vec<Choice>,
    /// Limits of the rule.
    pub pool: ConnectionPool,
    /// PROXY header that the Service or its rule asks for.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Why nobody serves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unserved {
    /// The address is not of a Service that the mesh carries.
    #[error("no Service has this address")]
    NoService,
    /// The Service has no endpoint that may serve it.
    #[error("the Service has no endpoint that is ready")]
    NoEndpoint,
    /// All endpoints have as many connections as the rule allows.
    #[error("all endpoints have as many connections as they may have")]
    Exhausted,
    /// `loadBalancerSourceRanges` leave the client out.
    #[error("the client may not use this address")]
    Denied,
}

/// The balancers of one port, for one family and one sort of traffic.
type SlotKey = (Key, usize, Family, bool);

/// A balancer with what it was last updated from.
#[derive(Debug)]
struct Slot {
    balancer: Balancer,
    from: Option<(Arc<Service>, u64)>,
}

#[derive(Debug)]
struct World {
    table: Arc<Table>,
    neighbours: Neighbours,
    /// Grows when tiers may be others although the Service is the same.
    epoch: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Router {
    defaults: Defaults,
    world: RwLock<World>,
    slots: RwLock<HashMap<SlotKey, Arc<Mutex<Slot>>>>,
}

impl Router {
    /// A router over a table.
    #[must_use]
    pub fn new(table: Arc<Table>, defaults: Defaults) -> Self {
        let world = World { table, neighbours: Neighbours::default(), epoch: 0 };
        Self { defaults, world: RwLock::new(world), slots: RwLock::default() }
    }

    /// The table is now this one.
    pub fn set_table(&self, table: Arc<Table>) {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        let zone = |table: &Table| table.own_node().and_then(|node| node.zone.clone());
        if zone(&world.table) != zone(&table) {
            world.epoch += 1;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let there = |(key, port, ..): &SlotKey| {
            table.by_name(&key.namespace, &key.name).is_some_and(|service| *port < service.spec.ports.len())
        };
        slots.retain(|key, _| there(key));
        world.table = table;
    }

    /// The neighbours are now these.
    pub fn set_neighbours(&self, neighbours: Neighbours) {
        let mut world = self.world.write().unwrap_or_else(PoisonError::into_inner);
        if world.neighbours != neighbours {
            world.neighbours = neighbours;
            world.epoch += 1;
        }
    }

    /// Who serves it. `random` is any 64 bits.
    #[must_use]
    pub fn route(&self, ask: &Ask<'_>, now: Instant, random: u64) -> Route {
        let Some(found) = self.find(ask) else { return Route::Refuse(Unserved::NoService) };
        let spec = &found.service.spec;
        if found.via == Via::LoadBalancer
            && !spec.source_ranges.is_empty()
            && !spec.source_ranges.iter().any(|range| range.contains(ask.client.ip()))
        {
            return Route::Refuse(Unserved::Denied);
        }
        let settings = Settings::of(&found.service, found.port, &self.defaults);
        let header = match (&settings.policy, ask.protocol) {
            (Policy::ConsistentHash(HashKey::Header(name)), Protocol::Tcp) => match http::header(ask.seen, name) {
                Peeked::Value(value) => Some(value),
                Peeked::Incomplete if ask.more => return Route::Peek,
                Peeked::Incomplete | Peeked::Absent => None,
            },
            _ => None,
        };
        let client = Client { ip: ask.client.ip(), header };
        self.serve(found, settings, client, now, random)
    }

    fn find(&self, ask: &Ask<'_>) -> Option<Match> {
        let table = self.world.read().unwrap_or_else(PoisonError::into_inner).table.clone();
        let (ip, port) = (ask.destination.ip().to_canonical(), ask.destination.port());
        let by_node = || table.service_by_node_port(port, ask.protocol, Family::of(ip)).filter(|_| ask.own_address);
        table.service_by_address(ip, port, ask.protocol).or_else(by_node)
    }

    fn serve(&self, found: Match, settings: Settings, client: Client<'_>, now: Instant, random: u64) -> Route {
        let slot = self.slot(&found);
        let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
        let node = world.table.node_name().as_str();
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            |(service, epoch): &(Arc<Service>, u64)| Arc::ptr_eq(service, &found.service) && *epoch == world.epoch;
        if !held.from.as_ref().is_some_and(known) {
            let place = Place::of(node, world.table.own_node().map(AsRef::as_ref));
            let candidates = place.candidates(found.eligible(node), |node| world.neighbours.lan.contains(node));
            held.balancer.update(settings, candidates);
            held.from = Some((found.service.clone(), world.epoch));
        }
        if held.balancer.is_empty() {
            return Route::Refuse(Unserved::NoEndpoint);
        }
        let order = held.balancer.choose(client, now, random);
        let Some(first) = order.first() else { return Route::Refuse(Unserved::Exhausted) };
        held.balancer.begin(first.address, now);
        let ticket = choice::Ticket::new(slot.clone(), client.ip, first.address);
        drop(held);
        let way = |on: Option<&Arc<str>>| match on {
            Some(on) if **on != *node && !world.neighbours.routable.contains(on) => Way::Tunnel(on.clone()),
            _ => Way::Direct,
        };
        let choices = order.into_iter().map(|endpoint| {
            let way = way(endpoint.host.node.as_ref());
            Choice::new(endpoint, way, ticket.clone())
        });
        let port = found.spec().map_or(0, |port| port.port);
        let rule = found.service.rule.as_ref().map(|rule| rule.for_port(port));
        let proxy_protocol = rule.and_then(|rule| rule.proxy_protocol).or(found.service.spec.proxy_protocol);
        Route::Serve(Plan {
            choices: choices.collect(),
            pool: rule.map(|rule| rule.pool).unwrap_or_default(),
            proxy_protocol,
            port: found.port,
            service: found.service,
        })
    }

    fn slot(&self, found: &Match) -> Arc<Mutex<Slot>> {
        let inside = found.via == Via::ClusterIp;
        let key = (found.service.key().clone(), found.port, found.family, inside);
        if let Some(slot) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return slot.clone();
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Mutex::new(Slot { balancer: Balancer::new(Settings::default()), from: None }));
        slots.entry(key).or_insert_with(new).clone()
    }

    /// How the endpoints of a Service are that connections asked for: per port, for status and metrics.
    #[must_use]
    pub fn status(&self, service: &Key, now: Instant) -> Vec<(usize, EndpointStatus)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let of =
            slots.iter().filter(|((key, ..), _)| key == service).map(|((_, port, ..), slot)| (*port, slot.clone()));
        let of: Vec<_> = of.collect();
        drop(slots);
        let status = |(port, slot): (usize, Arc<Mutex<Slot>>)| {
            let status = slot.lock().unwrap_or_else(PoisonError::into_inner).balancer.status(now);
            status.into_iter().map(move |status| (port, status))
        };
        let mut all: Vec<_> = of.into_iter().flat_map(status).collect();
        all.sort_by_key(|(port, status)| (*port, status.endpoint.address));
        all
    }
}
