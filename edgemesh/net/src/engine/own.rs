//! This node's own addresses, and the record that tells them to others.
//!
//! The record is signed anew when an address changes, when half of its life is over, and when the certificate changes;
//! changes that come together make one record.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use libp2p::Multiaddr;

use super::Engine;
use crate::{
    NodeRecord,
    paths::{ip_of, is_circuit},
    record::{MAX_ADDRESSES, is_dialable},
};

/// Life of a record, if the certificate lives as long: a node may be without the cloud for days.
const LIFETIME: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Addresses change together: listeners of one interface, reservations of one relay.
const TOGETHER: Duration = Duration::from_millis(200);

/// After a record could not be signed: there is no certificate yet.
const RETRY: Duration = Duration::from_secs(5);

/// How others saw us, newest last. Behind a NAT each relay may see another port.
const MAX_OBSERVED: usize = 8;

/// Own addresses and the record of them.
#[derive(Debug)]
pub(super) struct Own {
    relay: bool,
    listening: BTreeSet<Multiaddr>,
    confirmed: BTreeSet<Multiaddr>,
    observed: Vec<Multiaddr>,
    record: Option<Arc<[u8]>>,
    sequence: u64,
    due: Option<Instant>,
    renew: Option<Timestamp>,
}

impl Own {
    pub(super) fn new(relay: bool) -> Self {
        Self {
            relay,
            listening: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            observed: Vec::new(),
            record: None,
            sequence: 0,
            due: Some(Instant::now()),
            renew: None,
        }
    }

    pub(super) fn listens(&mut self, address: Multiaddr, now: Instant) {
        if self.listening.insert(address) {
            self.touch(now);
        }
    }

    pub(super) fn listens_no_more(&mut self, address: &Multiaddr, now: Instant) {
        if self.listening.remove(address) {
            self.touch(now);
        }
    }

    pub(super) fn confirmed(&mut self, address: Multiaddr, now: Instant) {
        if self.confirmed.len() < MAX_ADDRESSES && self.confirmed.insert(address) {
            self.touch(now);
        }
    }

    pub(super) fn confirmed_no_more(&mut self, address: &Multiaddr, now: Instant) {
        if self.confirmed.remove(address) {
            self.touch(now);
        }
    }

    pub(super) fn observed(&mut self, address: Multiaddr) {
        self.observed.retain(|known| *known != address);
        if self.observed.len() >= MAX_OBSERVED {
            self.observed.remove(0);
        }
        self.observed.push(address);
    }

    /// The record is to be signed anew.
    pub(super) fn touch(&mut self, now: Instant) {
        self.due.get_or_insert(now + TOGETHER);
    }

    pub(super) fn next(&self, now: Instant) -> Instant {
        self.due.unwrap_or(now + RETRY).max(now)
    }

    /// The record, or nothing when there is none yet.
    pub(super) fn record(&self) -> Vec<u8> {
        self.record.as_deref().map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// What the record tells: confirmed addresses first, then circuits, then listeners.
    fn addresses(&self) -> Vec<Multiaddr> {
        let useful = |address: &&Multiaddr| is_dialable(address);
        let elsewhere = self.listening.iter().filter(useful).any(|address| !is_loopback(address));
        let listening = self.listening.iter().filter(useful).filter(|address| !elsewhere || !is_loopback(address));
        let (circuits, direct): (Vec<_>, Vec<_>) = listening.partition(|address| is_circuit(address));
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in self.confirmed.iter().chain(circuits).chain(direct) {
            let address = without_own_peer(address.clone());
            if all.len() < MAX_ADDRESSES && !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// What is told to a peer over a relay, to be dialled at once: also how others saw us.
    pub(super) fn candidates(&self) -> Vec<Multiaddr> {
        let seen = self.observed.iter().rev().filter(|address| is_dialable(address)).cloned();
        let mut all: Vec<Multiaddr> = seen.collect();
        for address in self.addresses() {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all.retain(|address| !is_circuit(address));
        all.truncate(MAX_ADDRESSES);
        all
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

/// libp2p puts our own PeerId at the end of circuits.
fn without_own_peer(address: Multiaddr) -> Multiaddr {
    match is_circuit(&address) {
        true => crate::config::split_peer(address).0,
        false => address,
    }
}

impl Engine {
    /// Signs and publishes the record when it is due.
    pub(super) fn publish_record(&mut self, now: Instant) {
        let clock = self.credentials.clock().now();
        let over = self.own.renew.is_some_and(|renew| clock >= renew);
        if !over && self.own.due.is_none_or(|due| now < due) {
            return;
        }
        let Some(certificate_ends) = self.credentials.current().map(|current| current.not_after()) else {
            self.own.due = Some(now + RETRY);
            return;
        };
        let not_after = clock.checked_add(LIFETIME).unwrap_or(certificate_ends).min(certificate_ends);
        let addresses = self.own.addresses();
        let millis = u64::try_from(clock.as_millisecond()).unwrap_or(0);
        self.own.sequence = millis.max(self.own.sequence.saturating_add(1));
        let record = NodeRecord {
            node: self.node.clone(),
            peer_id: self.key.public().to_peer_id(),
            addresses: addresses.clone(),
            relay: self.own.relay,
            sequence: self.own.sequence,
            not_after,
        };
        match record.sign(&self.credentials, &self.key) {
            Ok(encoded) => {
                let encoded: Arc<[u8]> = encoded.into();
                self.own.record = Some(Arc::clone(&encoded));
                self.own.due = None;
                let half = not_after.duration_since(clock) / 2;
                self.own.renew = clock.checked_add(half).ok();
                self.outlets.record.send_replace(Some(encoded));
                self.outlets.addresses.send_replace(addresses.into());
            }
            Err(error) => {
                tracing::warn!(error = %skerry_common::chain(&error), "own record cannot be signed");
                self.own.due = Some(now + RETRY);
            }
        }
    }
}
