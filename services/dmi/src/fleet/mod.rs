//! Everything that the node knows about its devices, and what follows from what happens to them.
//!
//! [`Fleet`] is a state machine without IO: objects from edgehub, words of mappers and people, and time go in;
//! what is to be told to whom is kept as sets of names, so that nothing here grows with the number of events.
//! [`crate::node::Node`] holds it under one lock, for map accesses only.
//!
//! Invariants: a device has at most one mapper, and only that mapper is heard about it; it stays with its
//! mapper while that is there or may come back soon; nothing is concluded from what edgehub has not said yet.

mod assign;
mod bus;
mod conditions;
#[cfg(test)]
mod days_tests;
mod device;
mod mapper;
mod objects;
mod reports;
mod saved;
mod show;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Weak};

use skerry_common::Key;
use skerry_k8s_types::DeviceModel;

pub(crate) use assign::Introduction;
pub(crate) use bus::BusRefused;
pub(crate) use conditions::rfc3339;
pub(crate) use device::{Device, Pace, Served, State};
pub(crate) use mapper::{Api, Bucket, Caller, Limits, Link, Mapper, MapperId};
pub(crate) use reports::{DesiredRefused, Outcome, Reading, words};
pub(crate) use saved::{SavedOverlay, SavedTwins};
pub(crate) use show::{DeviceShown, MapperShown, TwinShown, Watcher};

use crate::twin::Now;
use conditions::MapperState;

/// Devices of a node. An edge node with more is two nodes.
pub(crate) const MAX_DEVICES: usize = 10_000;
/// A mapper that is away keeps its devices so long: it is most likely being restarted.
pub(crate) const LEASE_MS: u64 = 4_000;
/// After a start nothing is concluded from a mapper that is not there yet.
const SETTLE_MS: u64 = 10_000;

/// What can be configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) pace: Pace,
    /// Between statuses while the cloud is away: they only replace each other on the disk.
    pub(crate) offline_ms: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Fleet {
    settings: Settings,
    devices: BTreeMap<Key, Device>,
    /// Models that came, and the devices that name a model, whether it is there or not.
    models: BTreeMap<Key, Arc<DeviceModel>>,
    users: BTreeMap<Key, BTreeSet<Key>>,
    mappers: BTreeMap<MapperId, Mapper>,
    devices_in_sync: bool,
    models_in_sync: bool,
    connected: bool,
    /// The broker of the event bus is there.
    bus: bool,
    /// What was on disk about devices that have not come yet.
    saved: BTreeMap<Key, SavedTwins>,
    saved_overlays: BTreeMap<Key, Vec<SavedOverlay>>,
    /// Values set on the node, to be told to the cloud.
    tell: BTreeSet<(Key, Arc<str>)>,
    /// Rows of values that do not hold any more.
    forget: BTreeSet<(Key, Arc<str>)>,
    watchers: Vec<Weak<Watcher>>,
    /// Devices whose condition may have changed since the last look.
    look: BTreeSet<Key>,
    epochs: u64,
}

impl Fleet {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            devices: BTreeMap::new(),
            models: BTreeMap::new(),
            users: BTreeMap::new(),
            mappers: BTreeMap::new(),
            devices_in_sync: false,
            models_in_sync: false,
            connected: false,
            bus: false,
            saved: BTreeMap::new(),
            saved_overlays: BTreeMap::new(),
            tell: BTreeSet::new(),
            forget: BTreeSet::new(),
            watchers: Vec::new(),
            look: BTreeSet::new(),
            epochs: 0,
        }
    }

    pub(crate) fn device_count(&self) -> usize {
        self.devices.len()
    }

    pub(crate) fn has_device(&self, key: &Key) -> bool {
        self.devices.contains_key(key)
    }

    pub(crate) fn mapper_count(&self) -> usize {
        self.mappers.values().filter(|mapper| mapper.connected()).count()
    }

    pub(crate) fn mapper(&self, id: &MapperId) -> Option<&Mapper> {
        self.mappers.get(id)
    }

    /// Values of one mapper in a second.
    pub(crate) fn values_per_second(&self) -> u32 {
        self.settings.limits.values_per_second
    }

    /// Whether all devices and models of the node are known.
    pub(crate) fn in_sync(&self) -> bool {
        self.devices_in_sync && self.models_in_sync
    }

    /// The cloud is there, or not. When it comes, it hears again of every value that was set on the node and is not
    /// answered: whatever became of the reports, nothing stays open for ever.
    pub(crate) fn set_connected(&mut self, connected: bool) {
        if connected && !self.connected {
            for (key, device) in &self.devices {
                let open = device.twins.iter().filter(|(_, twin)| twin.state.overlay.is_some());
                self.tell.extend(open.map(|(name, _)| (key.clone(), Arc::clone(name))));
            }
        }
        self.connected = connected;
    }

    /// Looks what follows from time alone, at every device: values that are not fresh, conditions.
    pub(crate) fn tick(&mut self, now: Now) {
        let mut last = self.tick_after(None, usize::MAX, now);
        while last.is_some() {
            last = self.tick_after(last.as_ref(), usize::MAX, now);
        }
    }

    /// As [`Fleet::tick`], for so many devices after this one. Returns the last of them; nothing when there are no
    /// more.
    pub(crate) fn tick_after(&mut self, last: Option<&Key>, most: usize, now: Now) -> Option<Key> {
        self.end_leases(now);
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let keys: Vec<Key> =
            self.devices.range((after, Bound::Unbounded)).take(most).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.look.remove(key);
            self.look_at(key, now);
        }
        keys.into_iter().next_back()
    }

    /// As [`Fleet::tick`], for so many of the devices that something happened to. Whether there are more.
    pub(crate) fn look(&mut self, most: usize, now: Now) -> bool {
        self.end_leases(now);
        for _ in 0..most {
            let Some(key) = self.look.pop_first() else { break };
            self.look_at(&key, now);
        }
        !self.look.is_empty()
    }

    fn look_at(&mut self, key: &Key, now: Now) {
        let Some(device) = self.devices.get_mut(key) else { return };
        let mapper = match &device.mapper {
            None if self.bus && device.over_bus => MapperState::Bus,
            None => MapperState::None,
            Some(id) if self.mappers.get(id).is_some_and(Mapper::connected) => MapperState::Connected,
            Some(id) => MapperState::Away { name: &id.name.clone() },
        };
        // While a mapper is restarted, and after our own start, it is too early for a judgement.
        let early = match mapper {
            MapperState::Connected | MapperState::Bus => false,
            MapperState::Away { .. } => true,
            MapperState::None => now.mono < SETTLE_MS,
        };
        if early && !device.conditions.is_empty() {
            return;
        }
        if device.look(now, mapper) {
            self.changed(key);
        }
    }

    /// Devices whose status is due, with what to send; at most `limit`. They count as told.
    pub(crate) fn take_statuses(&mut self, now: Now, limit: usize) -> Vec<(Key, String, serde_json::Value)> {
        if !self.in_sync() {
            return Vec::new();
        }
        let mut pace = self.settings.pace;
        if !self.connected {
            pace.values_ms = pace.values_ms.max(self.settings.offline_ms);
            pace.refresh_ms = pace.refresh_ms.max(self.settings.offline_ms);
        }
        let mut due = Vec::new();
        for (key, device) in &mut self.devices {
            if due.len() >= limit {
                break;
            }
            let unsettled = now.mono < SETTLE_MS && device.served == Served::Pending;
            if unsettled || device.due(pace).is_none_or(|at| at > now.mono) {
                continue;
            }
            let connected = match &device.mapper {
                Some(id) => self.mappers.get(id).is_some_and(Mapper::connected),
                None => self.bus && device.over_bus,
            };
            due.push((key.clone(), device.spec.uid.clone(), show::status(device, now, connected)));
            device.sent(now);
        }
        due
    }

    /// Values set on the node that the cloud shall hear of.
    pub(crate) fn take_desired(&mut self) -> Vec<reports::DesiredReport> {
        if !self.in_sync() {
            return Vec::new();
        }
        let tell = std::mem::take(&mut self.tell);
        tell.into_iter().filter_map(|(key, property)| self.desired_report(&key, &property)).collect()
    }

    /// Rows of the store that say nothing any more.
    pub(crate) fn take_forgotten(&mut self) -> Vec<(Key, Arc<str>)> {
        std::mem::take(&mut self.forget).into_iter().collect()
    }

    /// Something that is shown of a device has changed.
    fn changed(&mut self, key: &Key) {
        self.watchers.retain(|watcher| watcher.upgrade().is_some_and(|watcher| watcher.changed(key)));
    }
}
