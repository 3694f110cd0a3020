//! What mappers report and what people want.
//!
//! Invariants: a mapper is heard about its own devices only, and about properties that the Device names; a
//! refusal says which value and why, and never stops the other values of its batch. Limits: values of
//! [`MAX_VALUE_BYTES`], words of [`MAX_WORDS`].

use skerry_common::{Key, kinds::desired_base};

use super::{Device, Fleet, MapperId, State};
use crate::twin::{MAX_VALUE_BYTES, Measured, Now, Overlay, Quality, check};

/// Longest text of a device or mapper that is shown to people.
const MAX_WORDS: usize = 512;

/// A value as a mapper reports it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) property: String,
    /// `None`: only an outcome.
    pub(crate) value: Option<String>,
    pub(crate) quality: Quality,
    /// 0: now.
    pub(crate) source_ms: i64,
    pub(crate) problem: String,
    pub(crate) outcome: Option<Outcome>,
    /// The mapper decides what is for the cloud, as v1beta1 has it; else the Device does.
    pub(crate) mapper_decides: bool,
}

/// What became of a desired value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) version: String,
    /// The device's words in `problem` of the reading.
    pub(crate) refused: bool,
}

/// What became of a batch about one device: refused properties, each with why.
pub(crate) type Reported = Vec<(String, String)>;

/// Why a desired value was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DesiredRefused {
    /// The node has no such device.
    NoDevice,
    /// The value cannot be wanted.
    Value(String),
}

/// What goes up as a DeviceDesired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DesiredReport {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) property: String,
    pub(crate) value: String,
    pub(crate) base: String,
    pub(crate) earlier: Vec<String>,
    pub(crate) id: String,
}

/// A text of somebody else, as it may be shown: bounded, in one line.
pub(crate) fn words(text: &str) -> String {
    let mut end = text.len().min(MAX_WORDS);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let cut = text.get(..end).unwrap_or_default();
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Fleet {
    /// Takes values of one device. Returns what was refused.
    ///
    /// # Errors
    /// Why nothing of it was taken.
    pub(crate) fn report(
        &mut self,
        id: &MapperId,
        key: &Key,
        readings: Vec<Reading>,
        now: Now,
    ) -> Result<Reported, String> {
        let count = readings.len();
        let taken = self.take(id, key, readings, now);
        let refused = taken.as_ref().map_or(count, Vec::len);
        if let Some(mapper) = self.mappers.get_mut(id) {
            mapper.values = mapper.values.saturating_add(count.saturating_sub(refused) as u64);
            mapper.refused = mapper.refused.saturating_add(refused as u64);
        }
        taken
    }

    fn take(&mut self, id: &MapperId, key: &Key, readings: Vec<Reading>, now: Now) -> Result<Reported, String> {
        let device = own(&mut self.devices, id, key)?;
        let mut refused = Reported::new();
        for reading in readings {
            let property = reading.property.clone();
            if let Err(reason) = take_one(device, reading, now) {
                refused.push((property, reason.to_owned()));
            }
        }
        // Most values are only newer ones, and nothing follows from them.
        if device.moved {
            self.look.insert(key.clone());
        }
        self.changed(key);
        Ok(refused)
    }

    /// Takes a state of a device.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) fn report_state(
        &mut self,
        id: &MapperId,
        key: &Key,
        state: State,
        word: &str,
        reason: &str,
        now: Now,
    ) -> Result<(), String> {
        let device = own(&mut self.devices, id, key)?;
        device.set_state(state, word, &words(reason), now);
        self.look.insert(key.clone());
        self.changed(key);
        Ok(())
    }

    /// The overlay that a write, named `id`, makes; it holds when it was stored and given to [`Fleet::desire`].
    ///
    /// # Errors
    /// When it cannot be wanted.
    pub(crate) fn plan(
        &self,
        key: &Key,
        property: &str,
        value: &str,
        id: &str,
    ) -> Result<(String, Overlay), DesiredRefused> {
        let device = self.devices.get(key).ok_or(DesiredRefused::NoDevice)?;
        let Some(twin) = device.twins.get(property) else {
            return Err(DesiredRefused::Value(format!("the device has no property {property:?}")));
        };
        check(twin.spec.model.as_ref(), property, value).map_err(DesiredRefused::Value)?;
        Ok((device.spec.uid.clone(), twin.state.overlay_of(value, id)))
    }

    /// Takes an overlay that is durable. Returns the version of the desired value, or none when the cloud has
    /// changed the value meanwhile, or the device has gone.
    pub(crate) fn desire(&mut self, key: &Key, uid: &str, property: &str, overlay: Overlay) -> Option<String> {
        let version = desired_base(Some(&overlay.value));
        let device = self.devices.get_mut(key).filter(|device| device.spec.uid == uid);
        let taken = device.and_then(|device| {
            let twin = device.twins.get_mut(property)?;
            let holds = twin.state.set_overlay(overlay);
            let row = (key.clone(), std::sync::Arc::clone(&twin.spec.name));
            let is_overlay = twin.state.overlay.is_some();
            device.touch();
            Some((holds, is_overlay, row))
        });
        let Some((true, is_overlay, row)) = taken else {
            self.forget.insert((key.clone(), property.into()));
            return None;
        };
        if is_overlay {
            self.forget.remove(&row);
            self.tell.insert(row);
        } else {
            // The cloud wants the same.
            self.forget.insert(row);
        }
        self.mark(key);
        self.look.insert(key.clone());
        self.changed(key);
        Some(version)
    }

    /// Whether a value that was set on the node holds.
    pub(crate) fn has_overlay(&self, key: &Key, property: &str) -> bool {
        let twin = self.devices.get(key).and_then(|device| device.twins.get(property));
        twin.is_some_and(|twin| twin.state.overlay.is_some())
    }

    pub(super) fn desired_report(&self, key: &Key, property: &str) -> Option<DesiredReport> {
        let device = self.devices.get(key)?;
        let overlay = device.twins.get(property)?.state.overlay.as_ref()?;
        Some(DesiredReport {
            key: key.clone(),
            uid: device.spec.uid.clone(),
            property: property.to_owned(),
            value: overlay.value.clone(),
            base: overlay.base.clone(),
            earlier: overlay.earlier.iter().map(|earlier| earlier.version.clone()).collect(),
            id: overlay.id.clone(),
        })
    }

    /// Asks for the tokens of a mapper's values or calls; the error is after how many microseconds to ask
    /// again.
    pub(crate) fn admit(&mut self, id: &MapperId, calls: u64, values: u64, now_us: u64) -> Result<(), u64> {
        let Some(mapper) = self.mappers.get_mut(id) else { return Ok(()) };
        if calls > 0 {
            mapper.calls_bucket.take(calls, now_us)?;
        }
        if values > 0 {
            mapper.values_bucket.take(values, now_us)?;
        }
        Ok(())
    }

    /// Counts a call that waits for its turn. Whether it may wait: `most` may.
    pub(crate) fn wait(&mut self, id: &MapperId, most: usize) -> bool {
        self.mappers.get_mut(id).is_some_and(|mapper| {
            let may = mapper.waiting < most;
            mapper.waiting += usize::from(may);
            may
        })
    }

    /// A call waits no longer.
    pub(crate) fn waited(&mut self, id: &MapperId) {
        if let Some(mapper) = self.mappers.get_mut(id) {
            mapper.waiting = mapper.waiting.saturating_sub(1);
        }
    }

    /// The mapper of a device for whom this process may speak.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn speaker(&self, key: &Key, caller: &super::Caller) -> Result<MapperId, String> {
        let id = self.devices.get(key).and_then(|device| device.mapper.as_ref());
        let mapper = id.and_then(|id| self.mappers.get(id));
        if let Some(mapper) = mapper.filter(|mapper| caller.may_act_for(&mapper.caller)) {
            return Ok(mapper.id.clone());
        }
        let known = self.mappers.values().any(|mapper| caller.may_act_for(&mapper.caller));
        Err(match (known, self.devices.contains_key(key)) {
            (false, _) => "the calling process has registered no mapper: call MapperRegister first".into(),
            (true, true) => format!("the device {key} belongs to another mapper"),
            (true, false) => format!("the device {key} is not on this node"),
        })
    }
}

fn own<'d>(
    devices: &'d mut std::collections::BTreeMap<Key, Device>,
    id: &MapperId,
    key: &Key,
) -> Result<&'d mut Device, String> {
    match devices.get_mut(key) {
        Some(device) if device.mapper.as_ref() == Some(id) => Ok(device),
        Some(_) => Err(format!("the device {key} belongs to another mapper")),
        None => Err(format!("the device {key} is not on this node")),
    }
}

pub(super) fn take_one(device: &mut Device, reading: Reading, now: Now) -> Result<(), &'static str> {
    let Some(twin) = device.twins.get_mut(reading.property.as_str()) else {
        return Err("the device has no such property");
    };
    if reading.value.as_ref().is_some_and(|value| value.len() > MAX_VALUE_BYTES) {
        return Err("the value is too long");
    }
    if let Some(outcome) = &reading.outcome {
        let problem = words(&reading.problem);
        let refused = outcome.refused.then_some(if problem.is_empty() { "no reason was given" } else { &problem });
        twin.state.outcome(&outcome.version, refused);
        device.touch_outcome();
    }
    let Some(twin) = device.twins.get(reading.property.as_str()) else { return Ok(()) };
    let value = match (reading.value, reading.quality) {
        (Some(value), _) => value,
        // The outcome says all.
        (None, _) if reading.outcome.is_some() => return Ok(()),
        // Of a value that cannot be read now the last one is worth showing.
        (None, _) => twin.state.reported.as_ref().map(|r| r.value.clone()).unwrap_or_default(),
    };
    let measured = Measured {
        value,
        quality: reading.quality,
        source_ms: if reading.source_ms > 0 { reading.source_ms } else { now.wall },
        at: Some(now.mono),
        // Words of a refusal are not about the value.
        problem: if reading.outcome.is_some_and(|o| o.refused) { String::new() } else { words(&reading.problem) },
        to_cloud: reading.mapper_decides || twin.spec.to_cloud,
    };
    device.report(&reading.property, measured)
}
