//! Devices that report over the event bus, without a mapper.
//!
//! Invariants: where a device has a mapper, that one alone is heard about it, and the bus is refused; a mapper
//! that takes the device over ends what the bus said of itself. Without the broker nothing of it is good.

use skerry_common::Key;

use super::reports::take_one;
use super::{Device, Fleet, Reading, State};
use crate::twin::{MAX_VALUE_BYTES, Now, check, check_type};

/// Why the bus was not heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BusRefused {
    /// The node has no such device.
    NoDevice,
    /// A mapper has the device.
    Served(String),
    /// It cannot be so.
    Value(String),
}

impl Fleet {
    /// The broker is there, or not.
    pub(crate) fn set_bus(&mut self, connected: bool) {
        self.bus = connected;
        self.look.extend(self.devices.values().filter(|device| device.over_bus).map(|device| device.key().clone()));
    }

    /// Whether somebody is there who reports the device.
    pub(super) fn served(&self, device: &Device) -> bool {
        match &device.mapper {
            Some(id) => self.mappers.get(id).is_some_and(super::Mapper::connected),
            None => self.bus && device.over_bus,
        }
    }

    /// Whether all of it could be taken now: reported and wanted values by property.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check_bus<'v>(
        &self,
        key: &Key,
        mut reported: impl Iterator<Item = (&'v str, &'v str)>,
        mut desired: impl Iterator<Item = (&'v str, &'v str)>,
    ) -> Result<(), BusRefused> {
        let device = self.devices.get(key).ok_or(BusRefused::NoDevice)?;
        let find = |property: &str| {
            let unknown = || BusRefused::Value(format!("the device has no property {property:?}"));
            device.twins.get(property).ok_or_else(unknown)
        };
        desired.try_for_each(|(property, value)| {
            let model = find(property)?.spec.model.as_ref();
            check(model, property, value).map_err(BusRefused::Value)
        })?;
        reported.try_for_each(|(property, value)| {
            free(device)?;
            let model = find(property)?.spec.model.as_ref();
            if value.len() > MAX_VALUE_BYTES {
                return Err(BusRefused::Value(format!("the value of {property:?} is too long")));
            }
            check_type(model, property, value).map(drop).map_err(BusRefused::Value)
        })
    }

    /// Takes values of a device without a mapper.
    ///
    /// # Errors
    /// Why the first of them that was not taken was not.
    pub(crate) fn report_bus(&mut self, key: &Key, readings: Vec<Reading>, now: Now) -> Result<(), BusRefused> {
        let device = self.devices.get_mut(key).ok_or(BusRefused::NoDevice)?;
        free(device)?;
        device.over_bus = true;
        let mut taken = Ok(());
        for reading in readings {
            let one = take_one(device, reading, now).map_err(|why| BusRefused::Value(why.to_owned()));
            taken = taken.and(one);
        }
        self.look.insert(key.clone());
        self.changed(key);
        taken
    }

    /// Takes the state of a device without a mapper.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) fn report_bus_state(&mut self, key: &Key, word: &str, now: Now) -> Result<(), BusRefused> {
        let device = self.devices.get_mut(key).ok_or(BusRefused::NoDevice)?;
        free(device)?;
        let word = word.to_ascii_lowercase();
        let Some(state) = State::parse(&word) else {
            let why = "the state must be one of online, offline, unhealthy, unknown";
            return Err(BusRefused::Value(why.into()));
        };
        device.over_bus = true;
        device.set_state(state, &word, "", now);
        self.look.insert(key.clone());
        self.changed(key);
        Ok(())
    }
}

fn free(device: &Device) -> Result<(), BusRefused> {
    match &device.mapper {
        Some(id) => Err(BusRefused::Served(format!("the mapper {id} reports the device, and nobody else may"))),
        None => Ok(()),
    }
}
