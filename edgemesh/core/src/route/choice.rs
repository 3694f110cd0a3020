//! An endpoint that a connection was offered, and what came of it.
//!
//! All choices of one connection share a ticket, which counts for one endpoint: first for the best one, then for
//! the one that was connected. When the last of them is dropped the count ends, so a task that was cancelled in
//! any place leaves nothing behind.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Slot;
use crate::balance::Balancer;
use crate::table::Endpoint;

/// A connection that its endpoint breaks off sooner than this was none: it counts as a failure.
pub const EARLY: Duration = Duration::from_secs(1);

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Way {
    /// The node dials it.
    Direct,
    /// Through the tunnel to this node.
    Tunnel(Arc<str>),
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How it is reached.
    pub way: Way,
    ticket: Arc<Ticket>,
}

impl Choice {
    pub(super) fn new(endpoint: Endpoint, way: Way, ticket: Arc<Ticket>) -> Self {
        Self { endpoint, way, ticket }
    }

    /// It could not be reached.
    pub fn failed(&self, now: Instant) {
        let address = self.endpoint.address;
        self.ticket.slot().balancer.failed(address, now);
        self.ticket.count(None, Some(address), now);
    }

    /// It took the connection, after `took`, and counts until that ends.
    pub fn connected(&self, now: Instant, took: Duration) {
        let address = self.endpoint.address;
        self.ticket.count(Some(address), None, now);
        self.ticket.slot().balancer.connected(address, self.ticket.client, now, took);
    }

    /// The connection is over, `after` it was made; `broken`: the endpoint, or the way to it, broke it off.
    pub fn closed(&self, now: Instant, after: Duration, broken: bool) {
        let address = self.endpoint.address;
        let mut slot = self.ticket.slot();
        if broken && after < EARLY {
            slot.balancer.broke(address, now);
        } else {
            slot.balancer.served(address);
        }
        drop(slot);
        self.ticket.count(None, Some(address), now);
    }
}

/// The one count of a connection.
pub(super) struct Ticket {
    slot: Arc<Mutex<Slot>>,
    client: IpAddr,
    counted: Mutex<Option<SocketAddr>>,
}

impl Ticket {
    /// Takes over a count that was begun.
    pub(super) fn new(slot: Arc<Mutex<Slot>>, client: IpAddr, begun: SocketAddr) -> Arc<Self> {
        Arc::new(Self { slot, client, counted: Mutex::new(Some(begun)) })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts for `to` from now on; does nothing when it counts for another than `only`.
    fn count(&self, to: Option<SocketAddr>, only: Option<SocketAddr>, now: Instant) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if *counted == to || (only.is_some() && *counted != only) {
            return;
        }
        let mut slot = self.slot();
        let balancer: &mut Balancer = &mut slot.balancer;
        counted.iter().for_each(|address| balancer.end(*address));
        to.iter().for_each(|address| balancer.begin(*address, now));
        *counted = to;
    }
}

/// Without the balancer behind it, which has all endpoints of the port.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("client", &self.client).field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counted = self.counted.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(address) = counted {
            self.slot().balancer.end(address);
        }
    }
}
