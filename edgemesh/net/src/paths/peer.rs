//! One peer: its addresses, its connections, and what is tried next. Called by [`super::Paths`] only.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, multiaddr::Protocol, swarm::ConnectionId};

use super::{
    Action, BACKOFF, BACKOFF_DISCONNECTED, BACKOFF_RELAY, BACKOFF_UPGRADE, Class, EXCHANGE, GRACE, HEAD_START, IDLE,
    MAX_DIALLED, MAX_NEAR, SILENCE, UNPROVED,
};

/// Refusals after which callers need not wait for another: the first may have been an introduction in either direction.
const REFUSALS: u32 = 3;

/// How a connection reaches the peer; the smaller, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Within private address space.
    Lan,
    /// Over public addresses.
    Direct,
    /// Through this relay.
    Relayed(PeerId),
}

impl Kind {
    /// The kind of a connection, and the address that shows it.
    pub(crate) fn of(endpoint: &ConnectedPoint) -> (Self, Multiaddr) {
        let address = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if is_circuit(local_addr) => local_addr,
            ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
            ConnectedPoint::Dialer { address, .. } => address,
        };
        let kind = match relay_of(address) {
            Some(relay) => Self::Relayed(relay),
            None if ip_of(address).is_some_and(is_private) => Self::Lan,
            None => Self::Direct,
        };
        (kind, address.clone())
    }

    fn rank(self) -> u8 {
        match self {
            Self::Lan => 0,
            Self::Direct => 1,
            Self::Relayed(_) => 2,
        }
    }
}

/// A connection to a peer.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) kind: Kind,
    pub(crate) address: Multiaddr,
    /// Whether we dialled it.
    pub(crate) dialled: bool,
    pub(crate) since: Instant,
    /// Of the last ping; `None` before the first.
    pub(crate) rtt: Option<Duration>,
    /// When it was last the best one, or had streams.
    pub(crate) used: Instant,
    /// When something last came back on it.
    pub(super) alive: Instant,
    reads: usize,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, endpoint: &ConnectedPoint, now: Instant) -> Self {
        let (kind, address) = Kind::of(endpoint);
        Self {
            id,
            kind,
            address,
            dialled: endpoint.is_dialer(),
            since: now,
            rtt: None,
            used: now,
            alive: now,
            reads: 0,
        }
    }

    /// Notes a ping. Returns whether there was one before.
    pub(super) fn ping(&mut self, rtt: Duration, now: Instant) -> bool {
        self.alive = now;
        self.rtt.replace(rtt).is_some()
    }
}

/// Attempts of one class.
#[derive(Debug)]
pub(super) struct Attempt {
    /// When the last one began.
    pub(super) started: Instant,
    pub(super) in_flight: Option<ConnectionId>,
    pub(super) failures: u32,
    pub(super) next: Instant,
}

impl Attempt {
    fn new(now: Instant) -> Self {
        Self { started: now.checked_sub(HEAD_START).unwrap_or(now), in_flight: None, failures: 0, next: now }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.in_flight.is_none() && now >= self.due()
    }

    /// However often the peer's addresses change, or somebody says so, it is not dialled more often than this.
    fn due(&self) -> Instant {
        self.next.max(self.started + HEAD_START)
    }

    /// What is under way is of old addresses: it goes on, and is not waited for.
    fn again(&mut self, now: Instant) {
        self.in_flight = None;
        self.failures = 0;
        self.next = now;
    }

    /// The engine says later which connection it is.
    fn begin(&mut self, now: Instant) {
        self.started = now;
        self.next = now + BACKOFF;
    }

    fn failed(&mut self, now: Instant, longest: Duration) {
        self.in_flight = None;
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause;
    }
}

/// What is known of one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Addresses of its record.
    pub(super) published: Vec<Multiaddr>,
    /// Addresses found in the LAN or told in an exchange, newest last.
    pub(super) near: Vec<Multiaddr>,
    pub(crate) connections: Vec<Connection>,
    pub(super) direct: Attempt,
    pub(super) relayed: Attempt,
    /// Whether addresses were exchanged since the last direct attempt.
    pub(super) exchanged: bool,
    pub(super) pinned: bool,
    /// Connections in a row that ended before a ping came back: introductions, and refusals.
    refused: u32,
    wanted_until: Option<Instant>,
    /// Since when there has been no connection although there should be one.
    connecting: Instant,
    /// What failed last.
    pub(crate) reason: Option<String>,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            published: Vec::new(),
            near: Vec::new(),
            connections: Vec::new(),
            direct: Attempt::new(now),
            relayed: Attempt::new(now),
            exchanged: false,
            pinned: false,
            refused: 0,
            wanted_until: None,
            connecting: now,
            reason: None,
        }
    }

    pub(super) fn attempt(&mut self, class: Class) -> &mut Attempt {
        match class {
            Class::Direct => &mut self.direct,
            Class::Relayed => &mut self.relayed,
        }
    }

    pub(super) fn want(&mut self, now: Instant) {
        self.wanted_until = Some(now + IDLE);
        if self.connections.is_empty() && self.direct.in_flight.is_none() && self.relayed.in_flight.is_none() {
            // Somebody waits: what failed for others some time ago is tried again now.
            self.connecting = now;
            self.refused = 0;
            for attempt in [&mut self.direct, &mut self.relayed] {
                attempt.failures = 0;
                attempt.next = now;
            }
        }
    }

    pub(super) fn near(&mut self, addresses: Vec<Multiaddr>, now: Instant) {
        for address in addresses {
            if !self.near.contains(&address) && !self.published.contains(&address) {
                if self.near.len() >= MAX_NEAR {
                    self.near.remove(0);
                }
                self.near.push(address);
                self.direct.again(now);
            }
        }
    }

    pub(super) fn try_again(&mut self, now: Instant) {
        self.refused = 0;
        self.direct.again(now);
        self.relayed.again(now);
        self.exchanged = false;
    }

    pub(super) fn dial_failed(&mut self, connection: ConnectionId, reason: String, now: Instant) {
        let longest = match (self.pinned, self.connections.is_empty()) {
            (true, true) => BACKOFF_RELAY,
            (false, true) => BACKOFF_DISCONNECTED,
            (_, false) => BACKOFF_UPGRADE,
        };
        for attempt in [&mut self.direct, &mut self.relayed] {
            if attempt.in_flight == Some(connection) {
                attempt.failed(now, longest);
                self.reason = Some(reason.clone());
            }
        }
        self.exchanged = false;
    }

    pub(super) fn established(&mut self, connection: Connection) {
        for attempt in [&mut self.direct, &mut self.relayed] {
            if attempt.in_flight == Some(connection.id) {
                attempt.in_flight = None;
            }
        }
        match connection.kind {
            Kind::Relayed(_) => {
                self.relayed.failures = 0;
                // Who dialled begins the exchange; the other end does if nothing comes.
                let patience = if connection.dialled { Duration::ZERO } else { EXCHANGE };
                self.direct.next = self.direct.next.max(connection.since + patience);
            }
            Kind::Lan | Kind::Direct => {
                self.direct.failures = 0;
                self.reason = None;
            }
        }
        self.connections.push(connection);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId, reason: Option<String>, now: Instant) {
        let proved = self.connections.iter().any(|c| c.id == connection && c.rtt.is_some());
        self.connections.retain(|c| c.id != connection);
        if reason.is_some() {
            self.reason = reason;
        }
        if self.connections.is_empty() {
            self.connecting = now;
            // A connection that never worked was an introduction or a refusal: the next dials tell.
            self.refused = if proved { 0 } else { self.refused.saturating_add(1) };
            let pause = match self.refused {
                0 => Duration::ZERO,
                1 => HEAD_START,
                more => BACKOFF.saturating_mul(1 << (more - 2).min(16)).min(BACKOFF_DISCONNECTED),
            };
            for attempt in [&mut self.direct, &mut self.relayed] {
                attempt.next = now + pause;
            }
        }
    }

    /// The best connection that works. Both ends choose the same one of several of a kind.
    pub(super) fn best(&self, own: &PeerId, id: &PeerId) -> Option<&Connection> {
        let dialler_is_smaller = |c: &Connection| c.dialled == (own < id);
        self.connections
            .iter()
            .filter(|c| c.rtt.is_some())
            .min_by_key(|c| (c.kind.rank(), !dialler_is_smaller(c), c.since))
    }

    /// Whether the peer answers and never lets us in.
    pub(super) fn refuses(&self) -> bool {
        self.refused >= REFUSALS
    }

    fn is_wanted(&self, now: Instant) -> bool {
        self.pinned || self.wanted_until.is_some_and(|until| now < until)
    }

    pub(super) fn may_need_circuits(&self, now: Instant) -> bool {
        self.is_wanted(now) && self.connections.is_empty() && self.relayed.is_due(now)
    }

    /// Addresses that may give something better than `best`.
    pub(crate) fn direct_addresses(&self, best: Option<Kind>) -> Vec<Multiaddr> {
        let better = |address: &&Multiaddr| match best {
            Some(Kind::Lan) => false,
            Some(Kind::Direct) => ip_of(address).is_some_and(is_private),
            Some(Kind::Relayed(_)) | None => true,
        };
        let all = self.near.iter().rev().chain(&self.published);
        all.filter(|address| !is_circuit(address)).filter(better).take(MAX_DIALLED).cloned().collect()
    }

    #[allow(clippy::too_many_arguments, reason = "what one peer needs of all")]
    pub(super) fn plan(
        &mut self,
        own: &PeerId,
        id: &PeerId,
        now: Instant,
        circuits: Vec<Multiaddr>,
        keep_idle: bool,
        used: &impl Fn(ConnectionId) -> (usize, usize),
        actions: &mut Vec<Action>,
    ) {
        let best = self.best(own, id).map(|best| (best.id, best.kind));
        self.close_some(own < id, id, now, best, keep_idle, used, actions);
        if !self.is_wanted(now) && self.connections.is_empty() {
            return;
        }
        let direct = self.direct_addresses(best.map(|(_, kind)| kind));
        let unproved = best.is_none() && !self.connections.is_empty();
        if self.direct.is_due(now) && !unproved {
            match best {
                Some((connection, Kind::Relayed(_))) if !self.exchanged => {
                    self.exchanged = true;
                    self.direct.next = now + EXCHANGE;
                    actions.push(Action::Exchange { peer: *id, connection });
                }
                _ if direct.is_empty() => {}
                _ => {
                    self.exchanged = false;
                    self.direct.begin(now);
                    actions.push(Action::Dial { peer: *id, class: Class::Direct, addresses: direct.clone() });
                }
            }
        }
        let head_start = direct.is_empty() || self.direct.failures > 0 || now >= self.connecting + HEAD_START;
        if self.connections.is_empty() && self.relayed.is_due(now) && head_start && !circuits.is_empty() {
            self.relayed.begin(now);
            actions.push(Action::Dial { peer: *id, class: Class::Relayed, addresses: circuits });
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what one peer needs of all")]
    fn close_some(
        &mut self,
        smaller: bool,
        id: &PeerId,
        now: Instant,
        best: Option<(ConnectionId, Kind)>,
        keep_idle: bool,
        used: &impl Fn(ConnectionId) -> (usize, usize),
        actions: &mut Vec<Action>,
    ) {
        let wanted = self.is_wanted(now);
        let mut in_use = wanted || keep_idle;
        for connection in &mut self.connections {
            let (streams, reads) = used(connection.id);
            let read = reads != connection.reads;
            if read {
                connection.reads = reads;
                connection.alive = now;
            }
            if read || streams > 0 {
                connection.used = now;
                in_use = true;
            }
        }
        for connection in &mut self.connections {
            let close = match best {
                _ if connection.rtt.is_none() => now >= connection.since + UNPROVED,
                _ if now >= connection.alive + SILENCE => true,
                Some((best, _)) if best == connection.id => !in_use && now >= connection.used + IDLE,
                Some(_) => smaller && now >= connection.used.max(connection.since) + GRACE,
                None => false,
            };
            if close {
                // Asked for once in a while; the event that it is closed takes a moment.
                connection.used = now;
                connection.alive = now;
                actions.push(Action::Close { peer: *id, connection: connection.id });
            }
        }
    }

    /// When this peer needs to be looked at.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if !self.is_wanted(now) && self.connections.is_empty() {
            return None;
        }
        let waiting = self.connections.is_empty() && self.relayed.in_flight.is_none();
        let relayed = waiting.then(|| self.relayed.due().max((self.connecting + HEAD_START).min(now + HEAD_START)));
        let direct = self.direct.in_flight.is_none().then_some(self.direct.due());
        let silent = self.connections.iter().map(|connection| connection.alive + SILENCE).min();
        [direct, relayed, silent].into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay of a circuit's address.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = Some(peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// The IP address that an address begins with.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Whether an address is of a site, not of the Internet.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}
