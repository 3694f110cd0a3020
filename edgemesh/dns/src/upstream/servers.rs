//! The name servers of the node: in which order they are asked, and which of them are down.
//!
//! No IO, and time comes in; [`super::forward`] asks and reports here. The order is the operator's (the order of
//! `resolv.conf`), except that one that does not answer goes behind those that do, and is tried again after
//! [`DOWN_FOR`]. One that leads back to this node is never asked.
//!
//! Limits: [`MAX_SERVERS`]; more are left out, and said so by who reads them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Servers that are used. Three is what the C library takes.
pub(crate) const MAX_SERVERS: usize = 8;
/// So many questions without an answer, one after the other, and a server is down: one may be a lost packet.
const FAILURES: u32 = 2;
/// For so long a server that is down is asked last.
const DOWN_FOR: Duration = Duration::from_secs(10);
/// Between asking a server and asking the next as well, while nothing is known of it.
const FIRST_PATIENCE: Duration = Duration::from_millis(400);
/// Shortest and longest patience: a LAN, and a satellite.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1000));

/// How a server does, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// It answers, or has not been asked yet.
    Up,
    /// It did not answer; it is asked when no other does.
    Down,
    /// It leads back to this node; it is not asked.
    Loop,
}

/// A name server of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// How it does.
    pub state: ServerState,
    /// Mean time to an answer, once there was one.
    pub round_trip: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Server {
    address: SocketAddr,
    failures: u32,
    failed: Option<Instant>,
    round_trip: Option<Duration>,
    is_own: bool,
    is_loop: bool,
}

impl Server {
    /// Whether it leads back to this node.
    fn leads_back(&self) -> bool {
        self.is_own || self.is_loop
    }

    fn is_down(&self, now: Instant) -> bool {
        self.failures >= FAILURES && self.failed.is_some_and(|at| now < at + DOWN_FOR)
    }
}

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    /// Takes a new list. What is known of servers that stay is kept; `own` addresses lead back here, always.
    pub(crate) fn replace(&mut self, addresses: &[SocketAddr], own: &[SocketAddr]) {
        let mut list: Vec<Server> = Vec::new();
        for &address in addresses {
            if list.len() == MAX_SERVERS || list.iter().any(|server| server.address == address) {
                continue;
            }
            let known = self.0.iter().find(|server| server.address == address).cloned();
            let new = Server { address, failures: 0, failed: None, round_trip: None, is_own: false, is_loop: false };
            list.push(Server { is_own: own.contains(&address), ..known.unwrap_or(new) });
        }
        self.0 = list;
    }

    /// Whom to ask, best first. Empty when there is nobody.
    pub(crate) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let usable = || self.0.iter().filter(|server| !server.leads_back());
        let up = usable().filter(|server| !server.is_down(now));
        let down = usable().filter(|server| server.is_down(now));
        up.chain(down).map(|server| server.address).collect()
    }

    /// Whether there is nobody who is likely to answer.
    pub(crate) fn all_down(&self, now: Instant) -> bool {
        self.0.iter().all(|server| server.leads_back() || server.is_down(now))
    }

    /// How long to wait for this server before the next is asked as well.
    pub(crate) fn patience(&self, address: SocketAddr) -> Duration {
        let known = self.0.iter().find(|server| server.address == address).and_then(|server| server.round_trip);
        known.map_or(FIRST_PATIENCE, |known| (known * 3).clamp(PATIENCE.0, PATIENCE.1))
    }

    /// A server answered. True when it was down before.
    pub(crate) fn answered(&mut self, address: SocketAddr, took: Duration, now: Instant) -> bool {
        let Some(server) = self.find(address) else {
            return false;
        };
        let was_down = server.is_down(now);
        server.failures = 0;
        server.failed = None;
        server.round_trip = Some(server.round_trip.map_or(took, |mean| (mean * 7 + took) / 8));
        was_down
    }

    /// A server did not answer. True when it is down since this moment.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) -> bool {
        let Some(server) = self.find(address) else {
            return false;
        };
        let was_down = server.is_down(now);
        server.failures = server.failures.saturating_add(1);
        server.failed = Some(now);
        !was_down && server.is_down(now)
    }

    /// Whether a server leads back to us. True when that is new.
    pub(crate) fn set_loop(&mut self, address: SocketAddr, is_loop: bool) -> bool {
        self.find(address).is_some_and(|server| std::mem::replace(&mut server.is_loop, is_loop) != is_loop)
    }

    /// Of servers that might lead back here.
    pub(crate) fn suspects(&self) -> Vec<SocketAddr> {
        self.0.iter().filter(|server| !server.is_own).map(|server| server.address).collect()
    }

    pub(crate) fn status(&self, now: Instant) -> Vec<ServerStatus> {
        let state = |server: &Server| match () {
            () if server.leads_back() => ServerState::Loop,
            () if server.is_down(now) => ServerState::Down,
            () => ServerState::Up,
        };
        let status = |server: &Server| ServerStatus {
            address: server.address,
            state: state(server),
            round_trip: server.round_trip,
        };
        self.0.iter().map(status).collect()
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Server> {
        self.0.iter_mut().find(|server| server.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> (Servers, [SocketAddr; 3]) {
        let addresses = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 53)));
        let mut servers = Servers::default();
        servers.replace(&addresses, &[]);
        (servers, addresses)
    }

    #[test]
    fn one_that_does_not_answer_goes_behind_the_others_and_comes_back() {
        let (mut servers, [a, b, c]) = servers();
        let start = Instant::now();
        assert!(!servers.failed(a, start), "one lost packet is nothing");
        assert_eq!(servers.order(start), [a, b, c]);
        assert!(servers.failed(a, start));
        assert_eq!(servers.order(start), [b, c, a]);
        assert!(!servers.failed(a, start), "it is not news a second time");
        assert_eq!(servers.order(start + DOWN_FOR), [a, b, c]);
        assert!(servers.failed(a, start + DOWN_FOR), "still down: at once");
        assert!(servers.answered(a, Duration::from_millis(10), start + DOWN_FOR));
        assert_eq!(servers.order(start + DOWN_FOR), [a, b, c]);
    }

    #[test]
    fn one_that_leads_back_is_never_asked() {
        let (mut servers, [a, b, c]) = servers();
        let now = Instant::now();
        assert!(servers.set_loop(a, true));
        assert!(!servers.set_loop(a, true));
        assert_eq!(servers.order(now), [b, c]);
        servers.replace(&[a, b], &[]);
        assert_eq!(servers.order(now), [b], "what is known stays");
        servers.replace(&[b, c], &[b]);
        assert_eq!(servers.order(now), [c], "an own address leads back from the start");
        assert_eq!(servers.suspects(), [c], "there is nothing to find out");
    }

    #[test]
    fn all_are_down_when_the_last_is() {
        let (mut servers, addresses) = servers();
        let now = Instant::now();
        for address in addresses {
            assert!(!servers.all_down(now));
            servers.failed(address, now);
            servers.failed(address, now);
        }
        assert!(servers.all_down(now));
        assert_eq!(servers.order(now).len(), 3, "the last hope");
    }

    #[test]
    fn servers_are_bounded_and_not_asked_twice() {
        let mut servers = Servers::default();
        let many: Vec<_> = (0..100).map(|last| SocketAddr::from(([192, 0, 2, last / 2], 53))).collect();
        servers.replace(&many, &[]);
        assert_eq!(servers.order(Instant::now()).len(), MAX_SERVERS);
    }

    #[test]
    fn patience_follows_the_path() {
        let (mut servers, [a, ..]) = servers();
        let now = Instant::now();
        assert_eq!(servers.patience(a), FIRST_PATIENCE);
        servers.answered(a, Duration::from_millis(1), now);
        assert_eq!(servers.patience(a), PATIENCE.0);
        for _ in 0..50 {
            servers.answered(a, Duration::from_secs(2), now);
        }
        assert_eq!(servers.patience(a), PATIENCE.1);
    }
}
