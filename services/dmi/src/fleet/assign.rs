//! Which mapper has which device.
//!
//! A device stays with its mapper while that is there or away for less than its lease. Else it goes to the
//! mapper of its protocol and namespace that has the fewest devices. So a second mapper of a protocol takes
//! over what the first one leaves behind, and nothing moves without need.

use std::collections::BTreeSet;
use std::sync::Arc;

use skerry_common::Key;
use tokio::sync::Notify;

use super::mapper::MAX_MAPPERS;
use super::{Api, Bucket, Caller, Fleet, LEASE_MS, Link, Mapper, MapperId, Served, State};
use crate::twin::Now;

/// What a mapper says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) id: MapperId,
    pub(crate) api: Api,
    pub(crate) version: String,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) caller: Caller,
}

impl Fleet {
    /// A mapper has connected, or registered. Returns the number of this connection, and what tells of news.
    ///
    /// # Errors
    /// When there are too many mappers.
    pub(crate) fn connect(&mut self, who: Introduction, now: Now) -> Result<(u64, Arc<Notify>), String> {
        self.epochs += 1;
        let epoch = self.epochs;
        let limits = self.settings.limits;
        if !self.mappers.contains_key(&who.id) && self.mappers.len() >= MAX_MAPPERS {
            self.mappers.retain(|_, mapper| mapper.connected());
            if self.mappers.len() >= MAX_MAPPERS {
                return Err(format!("{MAX_MAPPERS} mappers are connected, which is the most that a node takes"));
            }
        }
        let old = self.mappers.remove(&who.id);
        if let Some(old) = &old {
            // Whoever waits for it sees that its number is not the present one.
            old.wake.notify_one();
        }
        let wake = Arc::new(Notify::new());
        let link = Link::Connected { since_ms: now.wall };
        // A mapper that connects again and again has no new tokens for it.
        let buckets = old.as_ref().map(|old| (old.values_bucket, old.calls_bucket));
        let micros = now.mono.saturating_mul(1000);
        let (values_bucket, calls_bucket) = buckets.unwrap_or_else(|| {
            (Bucket::new(limits.values_per_second, micros), Bucket::new(limits.calls_per_second, micros))
        });
        let mapper = Mapper {
            api: who.api,
            version: who.version,
            caller: who.caller,
            namespaces: who.namespaces,
            link,
            epoch,
            dirty: BTreeSet::new(),
            complete: self.in_sync(),
            wake: Arc::clone(&wake),
            values_bucket,
            calls_bucket,
            waiting: 0,
            devices: old.as_ref().map_or(0, |old| old.devices),
            values: old.as_ref().map_or(0, |old| old.values),
            refused: old.as_ref().map_or(0, |old| old.refused),
            problem: String::new(),
            id: who.id.clone(),
        };
        self.mappers.insert(who.id.clone(), mapper);
        self.assign_all();
        // Everything that is its own it has to hear again.
        let own: Vec<Key> =
            self.devices.values().filter(|d| d.mapper.as_ref() == Some(&who.id)).map(|d| d.key().clone()).collect();
        for key in own {
            if let Some(device) = self.devices.get_mut(&key) {
                device.served = Served::Pending;
            }
            self.mark(&key);
            self.look.insert(key);
        }
        Ok((epoch, wake))
    }

    /// The connection of a mapper has ended, or its socket does not answer.
    pub(crate) fn away(&mut self, id: &MapperId, epoch: u64, problem: &str, now: Now) {
        let Some(mapper) = self.mappers.get_mut(id).filter(|mapper| mapper.epoch == epoch) else { return };
        problem.clone_into(&mut mapper.problem);
        if mapper.connected() {
            mapper.link = Link::Away { since: now.mono, since_ms: now.wall };
        }
    }

    /// A mapper that was away answers again, without having introduced itself anew.
    pub(crate) fn back(&mut self, id: &MapperId, epoch: u64, now: Now) {
        let Some(mapper) = self.mappers.get_mut(id).filter(|mapper| mapper.epoch == epoch) else { return };
        if !mapper.connected() {
            mapper.link = Link::Connected { since_ms: now.wall };
            mapper.problem.clear();
            self.assign_all();
            self.look.extend(self.devices.keys().cloned());
        }
    }

    /// A mapper is gone for good.
    pub(crate) fn forget(&mut self, id: &MapperId, epoch: u64) {
        if self.is_current(id, epoch) {
            for key in self.devices_of(id) {
                self.give(&key, None);
                self.assign(&key);
            }
            self.mappers.remove(id);
        }
    }

    /// Whether a connection is still the one of its mapper.
    pub(crate) fn is_current(&self, id: &MapperId, epoch: u64) -> bool {
        self.mappers.get(id).is_some_and(|mapper| mapper.epoch == epoch)
    }

    /// Takes the devices from mappers that were away for too long.
    pub(super) fn end_leases(&mut self, now: Now) {
        let over = |mapper: &Mapper| match mapper.link {
            Link::Away { since, .. } => now.mono.saturating_sub(since) >= LEASE_MS,
            Link::Connected { .. } => false,
        };
        let gone: BTreeSet<MapperId> = self.mappers.values().filter(|m| over(m)).map(|m| m.id.clone()).collect();
        if gone.is_empty() {
            return;
        }
        let of_gone = |device: &&super::Device| device.mapper.as_ref().is_some_and(|id| gone.contains(id));
        let free: Vec<Key> = self.devices.values().filter(of_gone).map(|device| device.key().clone()).collect();
        for key in free {
            self.give(&key, None);
            if let Some(device) = self.devices.get_mut(&key) {
                device.set_state(State::Unknown, State::Unknown.as_str(), "", now);
            }
            self.assign(&key);
            self.look.insert(key);
        }
        // One that speaks v1beta1 may still be there and is asked again; the other kind comes by itself.
        self.mappers.retain(|id, mapper| !gone.contains(id) || mapper.api == Api::V1beta1);
    }

    fn assign_all(&mut self) {
        let free: Vec<Key> = self.devices.values().filter(|d| d.mapper.is_none()).map(|d| d.key().clone()).collect();
        let taken: Vec<Key> = self.devices.values().filter(|d| d.mapper.is_some()).map(|d| d.key().clone()).collect();
        for key in taken.into_iter().chain(free) {
            self.assign(&key);
        }
    }

    /// Finds the mapper of a device.
    pub(super) fn assign(&mut self, key: &Key) {
        let Some(device) = self.devices.get(key) else { return };
        let (protocol, had) = (Arc::clone(&device.spec.protocol), device.mapper.clone());
        let keeps = |mapper: &&Mapper| mapper.takes(&protocol, &key.namespace);
        if had.as_ref().and_then(|id| self.mappers.get(id)).filter(keeps).is_some() {
            return;
        }
        let candidates = self.mappers.values().filter(|mapper| mapper.connected()).filter(keeps);
        let best = candidates
            .map(|mapper| mapper.id.clone())
            .min_by_key(|id| (self.mappers.get(id).map_or(0, |mapper| mapper.devices), id.clone()));
        if had == best {
            return;
        }
        self.give(key, best);
        self.mark(key);
        self.look.insert(key.clone());
    }

    /// Gives a device to a mapper, or to none.
    pub(super) fn give(&mut self, key: &Key, to: Option<MapperId>) {
        let Some(device) = self.devices.get_mut(key) else { return };
        if let Some(mapper) = to.as_ref().and_then(|id| self.mappers.get_mut(id)) {
            mapper.devices += 1;
            device.over_bus = false;
        }
        device.served = Served::Pending;
        if let Some(mapper) = std::mem::replace(&mut device.mapper, to).and_then(|id| self.mappers.get_mut(&id)) {
            mapper.devices = mapper.devices.saturating_sub(1);
            mapper.mark(key);
        }
    }

    /// Tells a device's mapper that there is something new about it.
    pub(super) fn mark(&mut self, key: &Key) {
        let id = self.devices.get(key).and_then(|device| device.mapper.clone());
        if let Some(mapper) = id.and_then(|id| self.mappers.get_mut(&id)) {
            mapper.mark(key);
        }
    }

    /// A device that the mapper has yet to hear of.
    pub(crate) fn next_dirty(&mut self, id: &MapperId, epoch: u64) -> Option<Key> {
        self.mappers.get_mut(id).filter(|mapper| mapper.epoch == epoch)?.dirty.pop_first()
    }

    /// The device, if it is the mapper's.
    pub(crate) fn assigned(&self, id: &MapperId, key: &Key) -> Option<&super::Device> {
        self.devices.get(key).filter(|device| device.mapper.as_ref() == Some(id))
    }

    /// The mapper has taken a device over, or says why it cannot.
    pub(crate) fn applied(&mut self, id: &MapperId, key: &Key, version: &str, error: Option<&str>) {
        let Some(device) = self.devices.get_mut(key) else { return };
        if device.mapper.as_ref() != Some(id) || device.spec.version != version {
            return;
        }
        device.served = match error {
            None => Served::Yes,
            Some(words) => Served::Refused(super::reports::words(words)),
        };
        self.look.insert(key.clone());
    }

    /// Devices of a mapper.
    pub(crate) fn devices_of(&self, id: &MapperId) -> Vec<Key> {
        self.devices.values().filter(|d| d.mapper.as_ref() == Some(id)).map(|d| d.key().clone()).collect()
    }

    /// The mapper has yet to hear of these, still or again.
    pub(crate) fn mark_again(&mut self, id: &MapperId, epoch: u64, keys: impl IntoIterator<Item = Key>) {
        if let Some(mapper) = self.mappers.get_mut(id).filter(|mapper| mapper.epoch == epoch) {
            mapper.dirty.extend(keys);
        }
    }

    /// Whether a process may speak as this mapper from now on.
    ///
    /// # Errors
    /// Why it may not: the name is another user's, whose mapper is there.
    pub(crate) fn may_replace(&self, id: &MapperId, caller: &Caller) -> Result<(), String> {
        match self.mappers.get(id) {
            Some(old) if old.connected() && old.caller.uid != caller.uid && caller.uid != 0 => {
                Err(format!("a mapper {} of the protocol {} is there and runs as another user", id.name, id.protocol))
            }
            _ => Ok(()),
        }
    }

    /// A process has called: a mapper for which it speaks is there, although it cannot be called yet.
    pub(crate) fn hear(&mut self, caller: &Caller, now: Now) {
        let away =
            self.mappers.values().find(|m| !m.connected() && m.api == Api::V1beta1 && caller.may_act_for(&m.caller));
        if let Some((id, epoch)) = away.map(|mapper| (mapper.id.clone(), mapper.epoch)) {
            self.back(&id, epoch, now);
        }
    }
}
