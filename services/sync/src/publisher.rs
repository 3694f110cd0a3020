//! The sending end of one subscription.
//!
//! **For:** bringing a subscriber from what it holds to what the source's [`View`] says, and
//! keeping it there. A publisher holds keys and versions, never a body: the view is asked at the
//! moment of sending.
//!
//! **Called by** whoever implements `Source` (edgecontroller for each node, edgehub for the
//! services of its node), from the one task that owns the stream: [`Publisher::hold`] for each
//! held object, [`Publisher::start`] after the last, [`Publisher::changed`] for each change that
//! may concern it, [`Publisher::poll`] until `None` whenever the stream can take a message, and
//! [`Publisher::ack`] or [`Publisher::nack`] for each answer.
//!
//! **Invariants.** A key is in at most one delta in flight: if it changes meanwhile it is read and
//! sent again after the answer, so versions never go back at the subscriber and what it holds is
//! known exactly. A tombstone is sent only when the view says `Absent`. `Unknown` sends nothing and
//! the key stays dirty. `InSync` is sent once, after every difference that existed when the view
//! was complete, in order.
//!
//! **Limits.** [`PublishLimits`], [`MAX_OBJECT_BYTES`], [`MAX_HELD_OBJECTS`]. Memory: about 50 bytes
//! for each held object (names and versions are shared with the view), plus 40 to 100 bytes for
//! each key that is dirty or in flight; never more than one entry for a key.
//!
//! **Crash, cancel, full.** There is nothing to save: after a restart the subscriber says again
//! what it holds. With the window full `poll` says `None` and keys only become dirty.

use std::collections::VecDeque;

use skerry_common::{Key, Version};
use skerry_proto::sync::v1 as proto;

use crate::compact::CompactMap;
use crate::error::ProtocolError;
use crate::limits::{MAX_HELD_OBJECTS, MAX_OBJECT_BYTES, PublishLimits};
use crate::object::{Lookup, SubscriptionId, View};
use crate::wire::{
    cut_reason, encoding_to_wire, key_from_wire, key_to_wire, tombstone_cost, upsert_cost, version_from_wire,
};

/// A queue that was larger than this gives its memory back when it empties.
const KEEP_QUEUE: usize = 8;

/// What [`Publisher::poll`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Out {
    /// Send this delta. Its `traceparent` is empty and may be set.
    Delta(proto::Delta),
    /// Send this mark.
    InSync(proto::InSync),
    /// Nothing to send: this object is larger than [`MAX_OBJECT_BYTES`] and is left out until it
    /// changes. Tell the user.
    Oversize {
        /// Which object.
        key: Key,
        /// Its version.
        version: Version,
        /// Its size, in bytes as sent.
        bytes: usize,
    },
}

/// Where a key is that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the queue, to be looked up.
    Queued,
    /// The view could not tell; waits for `changed` or `recheck`.
    Parked,
    /// In a delta that is not answered.
    Flying {
        /// It may have changed since and is queued after the answer.
        again: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    place: Place,
    /// `InSync` waits for this key.
    initial: bool,
}

/// What is not sent for now. A key in here may be held or not, whatever `held` says: when it turns
/// out to be absent, a tombstone is sent to be sure.
#[derive(Debug)]
enum Refused {
    /// This version, until the object changes.
    Version(Version),
    /// The tombstone, until `recheck`.
    Tombstone,
    /// Nothing any more: send what there is.
    Lifted,
}

/// A delta that is not answered. `None` is a tombstone.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    items: Vec<(Key, Option<Version>)>,
}

/// The sending end of one subscription; see the module.
#[derive(Debug)]
pub struct Publisher {
    id: SubscriptionId,
    limits: PublishLimits,
    /// What the subscriber has durably.
    held: CompactMap<Key, Version>,
    /// Keys that are dirty or in flight; empty when all is quiet.
    marks: CompactMap<Key, Mark>,
    /// The keys marked `Queued`, first come first served.
    queue: VecDeque<Key>,
    /// At most `window_deltas`, nonces growing.
    flights: VecDeque<Flight>,
    /// What the subscriber could not store, or what is too large to send.
    refused: CompactMap<Key, Refused>,
    last_nonce: u64,
    /// Keys marked `initial`.
    initial: usize,
    started: bool,
    /// The keys were read from the view while it was complete.
    scanned: bool,
    in_sync_sent: bool,
}

impl Publisher {
    /// A subscription of which nothing is known yet.
    #[must_use]
    pub fn new(id: SubscriptionId, limits: PublishLimits) -> Self {
        Self {
            id,
            limits,
            held: CompactMap::new(),
            marks: CompactMap::new(),
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            refused: CompactMap::new(),
            last_nonce: 0,
            initial: 0,
            started: false,
            scanned: false,
            in_sync_sent: false,
        }
    }

    /// The subscription.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.id
    }

    /// Notes one object that the subscriber says it holds. Before [`Self::start`] only; later calls
    /// do nothing, because the publisher knows better then.
    pub fn hold(&mut self, key: Key, version: Version) {
        if !self.started {
            self.held.insert(key, version);
        }
    }

    /// [`Self::hold`] for the list of one `Open` or `Held`, with its names checked.
    ///
    /// # Errors
    /// [`ProtocolError`] for an invalid name or version, more than [`MAX_HELD_OBJECTS`] in all, or
    /// a list after [`Self::start`].
    pub fn hold_wire(&mut self, held: &[proto::HeldObject]) -> Result<(), ProtocolError> {
        if self.started {
            return Err(ProtocolError::OutOfOrder { message: "held" });
        }
        let total = self.held.len().saturating_add(held.len());
        if total > MAX_HELD_OBJECTS {
            return Err(ProtocolError::TooLarge { what: "held objects", got: total, limit: MAX_HELD_OBJECTS });
        }
        let mut checked = Vec::with_capacity(held.len());
        for object in held {
            checked.push((key_from_wire(object.key.as_ref())?, version_from_wire(&object.version)?));
        }
        for (key, version) in checked {
            self.held.insert(key, version);
        }
        Ok(())
    }

    /// The list of held objects has ended: everything that is held or selected is compared.
    pub fn start(&mut self, view: &mut dyn View) {
        self.started = true;
        self.scan(view);
    }

    /// Compares everything again, for example after the selection changed as a whole. What is
    /// equal is not sent. O(n log n).
    pub fn rescan(&mut self, view: &mut dyn View) {
        if self.started {
            self.scan(view);
        }
    }

    /// The key may have changed, appeared, vanished, or left the selection. Calling it too often
    /// costs a lookup, not a message.
    pub fn changed(&mut self, key: Key) {
        self.mark(key, false);
    }

    /// Asks the view again for the keys of which it could not tell, and sends tombstones again that
    /// the subscriber could not store. Call it when the view's knowledge has grown and every minute
    /// or so.
    pub fn recheck(&mut self) {
        let parked: Vec<Key> =
            self.marks.iter().filter(|(_, mark)| mark.place == Place::Parked).map(|(key, _)| key.clone()).collect();
        for key in parked {
            self.mark(key, false);
        }
        self.lift(|refused| matches!(refused, Refused::Tombstone));
    }

    /// Forgets what the subscriber refused and what was too large: it is sent again.
    pub fn retry_refused(&mut self) {
        self.lift(|_| true);
    }

    /// The next thing to send. `None`: nothing to do, or the window is full; call again after
    /// [`Self::changed`], [`Self::ack`], [`Self::nack`] or [`Self::recheck`].
    pub fn poll(&mut self, view: &mut dyn View) -> Option<Out> {
        if !self.started {
            return None;
        }
        if !self.scanned && view.complete() {
            self.scan(view);
        }
        if self.flights.len() < self.limits.window_deltas.max(1)
            && let Some(out) = self.pack(view)
        {
            return Some(out);
        }
        if !self.in_sync_sent && self.scanned && self.initial == 0 && view.complete() {
            self.in_sync_sent = true;
            return Some(Out::InSync(proto::InSync { subscription: self.id.0 }));
        }
        None
    }

    /// The subscriber has the delta durably. Returns its keys.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownNonce`] if no such delta is in flight.
    pub fn ack(&mut self, nonce: u64) -> Result<Vec<Key>, ProtocolError> {
        let flight = self.land(nonce)?;
        let mut keys = Vec::with_capacity(flight.items.len());
        for (key, version) in flight.items {
            self.settle_flight(&key, Ok(version));
            keys.push(key);
        }
        Ok(keys)
    }

    /// The subscriber has the delta durably, but for these keys, of which it kept what it had. A
    /// version that was refused is not sent again until the object changes,
    /// [`Self::retry_refused`], or a new subscription; a refused tombstone waits for
    /// [`Self::recheck`]. Returns the keys and the reasons: show them to the user.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownNonce`] if no such delta is in flight,
    /// [`ProtocolError::ForeignFailure`] if it did not carry a key; nothing has changed then.
    pub fn nack(&mut self, nonce: u64, failures: Vec<proto::Failure>) -> Result<Vec<(Key, String)>, ProtocolError> {
        let at = self.find(nonce)?;
        let mut failed: CompactMap<Key, String> = CompactMap::new();
        for failure in failures {
            let key = key_from_wire(failure.key.as_ref())?;
            let carried =
                self.flights.get(at).is_some_and(|flight| flight.items.iter().any(|(carried, _)| *carried == key));
            if !carried {
                return Err(ProtocolError::ForeignFailure { key: key.to_string(), nonce });
            }
            failed.insert(key, cut_reason(failure.reason));
        }
        let flight = self.land(nonce)?;
        let mut out = Vec::with_capacity(failed.len());
        for (key, version) in flight.items {
            match failed.remove(&key) {
                None => self.settle_flight(&key, Ok(version)),
                Some((_, reason)) => {
                    self.settle_flight(&key, Err(version));
                    out.push((key, reason));
                }
            }
        }
        Ok(out)
    }

    /// What the subscriber is known to hold durably.
    #[must_use]
    pub fn held_version(&self, key: &Key) -> Option<&Version> {
        self.held.get(key)
    }

    /// Objects that the subscriber is known to hold durably.
    #[must_use]
    pub fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Keys that wait to be looked up or that the view could not tell of; keys in flight are not
    /// counted.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        let flying: usize = self.flights.iter().map(|flight| flight.items.len()).sum();
        self.marks.len().saturating_sub(flying)
    }

    /// Deltas that wait for their answer.
    #[must_use]
    pub fn in_flight_len(&self) -> usize {
        self.flights.len()
    }

    /// Keys that are left out because the subscriber refused them or they are too large.
    #[must_use]
    pub fn refused_len(&self) -> usize {
        self.refused.len()
    }

    /// Whether `InSync` was sent.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.in_sync_sent
    }

    /// Marks all that is selected or held.
    fn scan(&mut self, view: &mut dyn View) {
        self.scanned = self.scanned || view.complete();
        let initial = !self.in_sync_sent;
        for key in view.keys() {
            // The view's key shares its memory with the cache; the subscriber's does not.
            if let Some((_, version)) = self.held.remove(&key) {
                self.held.insert(key.clone(), version);
            }
            self.mark(key, initial);
        }
        let held: Vec<Key> = self.held.keys().cloned().collect();
        for key in held {
            self.mark(key, initial);
        }
    }

    fn lift(&mut self, which: impl Fn(&Refused) -> bool) {
        let keys: Vec<Key> =
            self.refused.iter().filter(|(_, refused)| which(refused)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.refused.insert(key.clone(), Refused::Lifted);
            self.mark(key, false);
        }
    }

    fn mark(&mut self, key: Key, initial: bool) {
        let Some(mark) = self.marks.get_mut(&key) else {
            self.initial += usize::from(initial);
            self.marks.insert(key.clone(), Mark { place: Place::Queued, initial });
            self.queue.push_back(key);
            return;
        };
        if initial && !mark.initial {
            mark.initial = true;
            self.initial += 1;
        }
        match &mut mark.place {
            Place::Queued => {}
            Place::Flying { again } => *again = true,
            place @ Place::Parked => {
                *place = Place::Queued;
                self.queue.push_back(key);
            }
        }
    }

    /// Fills one delta from the queue.
    fn pack(&mut self, view: &mut dyn View) -> Option<Out> {
        let mut delta = proto::Delta { subscription: self.id.0, ..proto::Delta::default() };
        let mut items: Vec<(Key, Option<Version>)> = Vec::new();
        let mut bytes = 0_usize;
        while items.len() < self.limits.max_delta_objects.max(1) {
            let Some(key) = self.queue.pop_front() else { break };
            let held = self.held.get(&key);
            let refused = self.refused.get(&key);
            let (cost, item) = match view.lookup(&key, held) {
                Lookup::Unknown => {
                    if let Some(mark) = self.marks.get_mut(&key) {
                        mark.place = Place::Parked;
                    }
                    continue;
                }
                Lookup::Absent => {
                    let wanted = match refused {
                        Some(Refused::Tombstone) => false,
                        Some(Refused::Version(_) | Refused::Lifted) => true,
                        None => held.is_some(),
                    };
                    if !wanted {
                        self.settle(&key);
                        continue;
                    }
                    (tombstone_cost(&key), None)
                }
                Lookup::Present(object) if held == Some(&object.version) => {
                    // The view's version shares its memory with the cache.
                    self.held.insert(key.clone(), object.version);
                    self.refused.remove(&key);
                    self.settle(&key);
                    continue;
                }
                Lookup::Present(object) if matches!(refused, Some(Refused::Version(v)) if *v == object.version) => {
                    self.settle(&key);
                    continue;
                }
                Lookup::Present(object) if object.body.len() > MAX_OBJECT_BYTES => {
                    if !items.is_empty() {
                        self.queue.push_front(key);
                        break;
                    }
                    self.refused.insert(key.clone(), Refused::Version(object.version.clone()));
                    self.settle(&key);
                    let bytes = object.body.len();
                    return Some(Out::Oversize { key, version: object.version, bytes });
                }
                Lookup::Present(object) => (upsert_cost(&key, &object.version, &object.body), Some(object)),
            };
            if !items.is_empty() && bytes.saturating_add(cost) > self.limits.max_delta_bytes {
                self.queue.push_front(key);
                break;
            }
            bytes = bytes.saturating_add(cost);
            self.take_off(&key);
            let wire = Some(key_to_wire(&key));
            match item {
                None => {
                    delta.tombstones.push(proto::Tombstone { key: wire });
                    items.push((key, None));
                }
                Some(object) => {
                    delta.upserts.push(proto::Upsert {
                        key: wire,
                        version: object.version.as_str().to_owned(),
                        encoding: encoding_to_wire(object.encoding),
                        body: object.body,
                    });
                    items.push((key, Some(object.version)));
                }
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > KEEP_QUEUE {
            self.queue = VecDeque::new();
        }
        if items.is_empty() {
            return None;
        }
        self.last_nonce += 1;
        delta.nonce = self.last_nonce;
        items.shrink_to_fit();
        self.flights.push_back(Flight { nonce: self.last_nonce, items });
        Some(Out::Delta(delta))
    }

    /// The key goes into a delta.
    fn take_off(&mut self, key: &Key) {
        if let Some(mark) = self.marks.get_mut(key) {
            mark.place = Place::Flying { again: false };
            self.initial = self.initial.saturating_sub(usize::from(mark.initial));
            mark.initial = false;
        }
    }

    /// There is nothing to do for the key.
    fn settle(&mut self, key: &Key) {
        if let Some((_, mark)) = self.marks.remove(key) {
            self.initial = self.initial.saturating_sub(usize::from(mark.initial));
        }
    }

    fn find(&self, nonce: u64) -> Result<usize, ProtocolError> {
        self.flights
            .binary_search_by(|flight| flight.nonce.cmp(&nonce))
            .map_err(|_| ProtocolError::UnknownNonce { nonce })
    }

    fn land(&mut self, nonce: u64) -> Result<Flight, ProtocolError> {
        let at = self.find(nonce)?;
        let flight = self.flights.remove(at).ok_or(ProtocolError::UnknownNonce { nonce })?;
        if self.flights.is_empty() {
            self.flights = VecDeque::new();
        }
        Ok(flight)
    }

    /// `Ok`: the subscriber has it so. `Err`: it refused it and kept what it had.
    fn settle_flight(&mut self, key: &Key, result: Result<Option<Version>, Option<Version>>) {
        match result {
            Ok(version) => {
                self.refused.remove(key);
                match version {
                    Some(version) => self.held.insert(key.clone(), version),
                    None => {
                        self.held.remove(key);
                    }
                }
            }
            Err(version) => {
                let refused = version.map_or(Refused::Tombstone, Refused::Version);
                self.refused.insert(key.clone(), refused);
            }
        }
        if let Some(mark) = self.marks.get_mut(key) {
            if let Place::Flying { again: true } = mark.place {
                mark.place = Place::Queued;
                self.queue.push_back(key.clone());
            } else {
                self.settle(key);
            }
        }
    }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
