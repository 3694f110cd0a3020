//! Which endpoint serves a connection.
//!
//! A [`Balancer`] is the state of one port of one Service: the proxy keeps it behind a lock of its own, asks for
//! an order of endpoints, tries them in that order and says what came of it. No IO, no clock, no chance: the time
//! and random numbers are arguments. A choice takes microseconds, so a lock around it holds nobody up; reading
//! what to choose by (a header) happens before.
//!
//! The order: the endpoint that a client is bound to (session affinity); then, nearest tier first, the policy's
//! choice and the next ones after it; last those that were ejected, because a bad endpoint is better than none.
//! At most [`MAX_ATTEMPTS`].
//!
//! Invariants: an endpoint that is not in the list is never chosen; one at its limit of connections never; an
//! ejected one only after all others; no more are ejected at a time than the percentage allows, but one may
//! always be; connections are counted until they end, also when their endpoint leaves and comes back. What is kept
//! per endpoint is bounded by the list and by connections that are open, what is kept per client by
//! [`MAX_CLIENTS`].

mod affinity;
mod choose;
mod health;
#[cfg(test)]
mod property_tests;
mod settings;
#[cfg(test)]
mod tests;
mod tier;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use affinity::Affinity;
pub use affinity::MAX_CLIENTS;
use choose::Rank;
use health::{Health, Speed};
pub use settings::{Defaults, Settings};
pub use tier::{Place, Tier};

use crate::rule::{OutlierDetection, Policy};
use crate::table::Endpoint;

/// Most endpoints that one connection tries: a client has given up before a fifth one answers.
pub const MAX_ATTEMPTS: usize = 4;

/// An endpoint that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How near it is.
    pub tier: Tier,
    /// Its share beside others of its tier; 0 counts as 1.
    pub weight: u16,
}

/// Who wants to connect.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// The header that the policy hashes by, if the client sent it.
    pub header: Option<&'a [u8]>,
}

/// How an endpoint is, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How near it is.
    pub tier: Tier,
    /// Connections that were begun and have not ended.
    pub active: u32,
    /// Until when it is left alone.
    pub ejected_until: Option<Instant>,
    /// Failures since the last success.
    pub failures: u32,
}

#[derive(Debug)]
struct Entry {
    candidate: Candidate,
    /// Of the address, for consistent hashing.
    hash: u64,
    active: u32,
    /// The running sum of smooth weighted round robin.
    credit: i64,
    health: Health,
    speed: Speed,
}

/// How a fault is noted; the last argument says whether one more endpoint may be ejected.
type Fault = fn(&mut Health, Instant, &OutlierDetection, bool);

/// See the module documentation.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    /// In the order of addresses.
    entries: Vec<Entry>,
    /// Endpoints that left while connections to them are open.
    departed: HashMap<SocketAddr, Entry>,
    affinity: Affinity,
}

impl Balancer {
    /// A balancer without endpoints.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, entries: Vec::new(), departed: HashMap::new(), affinity: Affinity::default() }
    }

    /// The endpoints are now these. What is known of those that stay is kept; of one that is listed twice, the
    /// first entry counts.
    pub fn update(&mut self, settings: Settings, candidates: Vec<Candidate>) {
        self.settings = settings;
        let mut known = std::mem::take(&mut self.departed);
        known.extend(std::mem::take(&mut self.entries).into_iter().map(|entry| (entry.address(), entry)));
        let mut entries: Vec<Entry> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let address = candidate.endpoint.address;
            entries.push(match known.remove(&address) {
                Some(entry) => Entry { candidate, ..entry },
                None => Entry {
                    candidate,
                    hash: choose::hash_address(address),
                    active: 0,
                    credit: 0,
                    health: Health::default(),
                    speed: Speed::default(),
                },
            });
        }
        entries.sort_by_key(Entry::address);
        entries.dedup_by_key(|entry| entry.address());
        self.entries = entries;
        known.retain(|_, entry| entry.active > 0);
        self.departed = known;
    }

    /// Whether there are no endpoints at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The endpoints that a connection tries, in this order. Empty: there are none, or all are at their limit.
    /// `random` is any 64 bits.
    pub fn choose(&mut self, client: Client<'_>, now: Instant, random: u64) -> Vec<Endpoint> {
        let mut order: Vec<usize> = Vec::with_capacity(MAX_ATTEMPTS);
        if let Some(timeout) = self.settings.affinity {
            let bound = self.affinity.get(client.ip, now, timeout);
            order.extend(bound.and_then(|address| self.find(address)).filter(|at| self.is_open(*at, now)));
        }
        self.add_tiers(&mut order, client, now, random);
        self.add_ejected(&mut order, now, random);
        if let (Some(timeout), Some(first)) =
            (self.settings.affinity, order.first().and_then(|at| self.entries.get(*at)))
        {
            self.affinity.bind(client.ip, first.address(), now, timeout);
        }
        order.iter().filter_map(|at| self.entries.get(*at)).map(|entry| entry.candidate.endpoint.clone()).collect()
    }

    /// A connection to the endpoint begins, and counts until [`Balancer::end`].
    pub fn begin(&mut self, address: SocketAddr, now: Instant) {
        if let Some(entry) = self.entry(address) {
            entry.active = entry.active.saturating_add(1);
            entry.health.begin(now);
        }
    }

    /// A connection that was begun is over, however it went.
    pub fn end(&mut self, address: SocketAddr) {
        if let Some(entry) = self.entry(address) {
            entry.active = entry.active.saturating_sub(1);
        } else if let Some(departed) = self.departed.get_mut(&address) {
            departed.active = departed.active.saturating_sub(1);
            if departed.active == 0 {
                self.departed.remove(&address);
            }
        }
    }

    /// The endpoint took a connection, after `took`. The client is bound to it from now on.
    pub fn connected(&mut self, address: SocketAddr, client: IpAddr, now: Instant, took: Duration) {
        if let Some(entry) = self.entry(address) {
            entry.health.connected(now);
            entry.speed.took(took, now);
            if let Some(timeout) = self.settings.affinity {
                self.affinity.bind(client, address, now, timeout);
            }
        }
    }

    /// The endpoint could not be reached.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        self.fault(address, now, Health::failed);
    }

    /// The endpoint took a connection and broke it off at once.
    pub fn broke(&mut self, address: SocketAddr, now: Instant) {
        self.fault(address, now, Health::broke);
    }

    /// The endpoint took a connection, and did not break it off.
    pub fn served(&mut self, address: SocketAddr) {
        if let Some(entry) = self.entry(address) {
            entry.health.served();
        }
    }

    fn fault(&mut self, address: SocketAddr, now: Instant, fault: Fault) {
        let rules = self.settings.outliers;
        let total = self.entries.len();
        let ejected = self.entries.iter().filter(|e| e.address() != address && e.health.is_ejected(now)).count();
        let may = ejected == 0 || (ejected + 1) * 100 <= total * usize::from(rules.max_ejection_percent);
        if let Some(entry) = self.entry(address) {
            fault(&mut entry.health, now, &rules, may);
        }
    }

    /// How each endpoint is, by address.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<EndpointStatus> {
        let status = |entry: &Entry| EndpointStatus {
            endpoint: entry.candidate.endpoint.clone(),
            tier: entry.candidate.tier,
            active: entry.active,
            ejected_until: entry.health.ejected_until().filter(|until| *until > now),
            failures: entry.health.failures(),
        };
        self.entries.iter().map(status).collect()
    }

    fn find(&self, address: SocketAddr) -> Option<usize> {
        self.entries.binary_search_by_key(&address, Entry::address).ok()
    }

    fn entry(&mut self, address: SocketAddr) -> Option<&mut Entry> {
        let at = self.find(address)?;
        self.entries.get_mut(at)
    }

    /// Whether fewer endpoints are healthy than the rule wants for ejections to count.
    fn panics(&self, now: Instant) -> bool {
        let healthy = self.entries.iter().filter(|entry| !entry.health.is_ejected(now)).count();
        healthy * 100 < self.entries.len() * usize::from(self.settings.outliers.min_health_percent)
    }

    fn is_open(&self, at: usize, now: Instant) -> bool {
        let open = |entry: &Entry| entry.active < self.settings.max_connections() && entry.health.is_open(now);
        self.entries.get(at).is_some_and(open)
    }

    /// Tier by tier, what the policy says.
    fn add_tiers(&mut self, order: &mut Vec<usize>, client: Client<'_>, now: Instant, random: u64) {
        let most = self.settings.max_connections();
        let panics = self.panics(now);
        let open = |entry: &Entry| entry.active < most && (panics || entry.health.is_open(now));
        let tiers: &[Option<Tier>] = if self.settings.nearest_first { &Tier::ALL.map(Some) } else { &[None] };
        for tier in tiers {
            if order.len() >= MAX_ATTEMPTS {
                return;
            }
            let of_tier = |entry: &Entry| tier.is_none_or(|tier| entry.candidate.tier == tier);
            let all = self.entries.iter().enumerate();
            let group: Vec<usize> = all
                .filter(|(at, entry)| of_tier(entry) && open(entry) && !order.contains(at))
                .map(|(at, _)| at)
                .collect();
            self.add_group(order, &group, client, now, random);
        }
    }

    fn add_group(&mut self, order: &mut Vec<usize>, group: &[usize], client: Client<'_>, now: Instant, random: u64) {
        let rank = match &self.settings.policy {
            // Whoever did not send the header is spread as without a rule.
            Policy::ConsistentHash(key) => match settings::hash_input(key, &client) {
                Some(input) => Rank::Hash(input),
                None => Rank::RoundRobin,
            },
            Policy::RoundRobin => Rank::RoundRobin,
            Policy::Random => Rank::Random,
            Policy::LeastRequest => Rank::LeastRequest,
        };
        let room = MAX_ATTEMPTS.saturating_sub(order.len());
        // Only the first choice of all uses up a turn: the ones after it are rarely needed.
        let first = order.is_empty();
        order.extend(choose::rank(&mut self.entries, group, rank, room, first, now, random));
    }

    /// When nothing else is left: what is on trial, then what was ejected, the one that comes back first, first.
    fn add_ejected(&self, order: &mut Vec<usize>, now: Instant, random: u64) {
        let room = MAX_ATTEMPTS.saturating_sub(order.len());
        if room == 0 {
            return;
        }
        let most = self.settings.max_connections();
        let rest = self.entries.iter().enumerate().filter(|(at, e)| e.active < most && !order.contains(at));
        let mut rest: Vec<_> = rest
            .map(|(at, entry)| {
                let until = entry.health.ejected_until().filter(|until| *until > now);
                let tier = if self.settings.nearest_first { entry.candidate.tier } else { Tier::Node };
                ((until.is_some(), tier, until, choose::mix(entry.hash ^ random)), at)
            })
            .collect();
        rest.sort_unstable();
        order.extend(rest.into_iter().take(room).map(|(_, at)| at));
    }
}

impl Entry {
    fn address(&self) -> SocketAddr {
        self.candidate.endpoint.address
    }
}
