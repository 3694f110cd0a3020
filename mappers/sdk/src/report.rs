//! What is waiting to be told to the node: the newest of each value, state and answer.
//!
//! Buses put, the link to the node takes. It is bounded by the number of properties whatever the devices do and
//! however long the node is away; a new connection is told everything once more. What is taken at once is bounded by
//! values and by bytes ([`Room`]), so that it fits into a message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use tokio::sync::Notify;

use crate::definition::Definition;
use crate::schedule::Effects;
use crate::{DataType, DeviceKey, Quality, Sample, Value};

/// Bytes of words for people, of which there is one with each value, state and answer; a node shows no more.
const MAX_WORDS: usize = 512;
/// Bytes of a value, a state or an answer in a message beside its texts: tags, lengths, numbers, KubeEdge's metadata.
const FRAME_BYTES: usize = 192;

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// It answers.
    Online,
    /// It does not, or its line is away.
    Offline,
    /// It answers and cannot be used, or it is described wrongly.
    Unhealthy,
}

/// A value as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) value: Option<Value>,
    pub(crate) quality: Quality,
    /// Milliseconds since the Unix epoch; 0: unknown.
    pub(crate) source_unix_ms: i64,
    pub(crate) problem: Arc<str>,
    /// What became of the desired value.
    pub(crate) outcome: Option<Arc<Outcome>>,
}

/// Reports of one device, by the index of their property. The schedule, the outbox and the session share them.
pub(crate) type Reports = Vec<(usize, Arc<Report>)>;

/// The last report of each property of a device.
pub(crate) type LastReports = Vec<Option<Arc<Report>>>;

/// What became of a desired value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) version: String,
    /// Why the device does not have it; nothing: it has.
    pub(crate) refused: Option<String>,
}

impl Report {
    /// Before anything was read.
    pub(crate) fn nothing() -> Self {
        let problem = "nothing was read yet".into();
        Self { value: None, quality: Quality::Bad, source_unix_ms: 0, problem, outcome: None }
    }

    /// A sample as its type in the model wants it.
    pub(crate) fn of(sample: Sample, data_type: DataType, now_unix_ms: i64) -> Self {
        let source = sample.source_time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let source_unix_ms = source.and_then(|time| i64::try_from(time.as_millis()).ok()).unwrap_or(now_unix_ms);
        let (value, quality, problem) = match sample.value.map(|value| value.cast(data_type)) {
            Some(Ok(value)) => (Some(value), sample.quality, sample.problem),
            Some(Err(error)) => (None, Quality::Bad, format!("the device answered something else: {error}")),
            None => (None, Quality::Bad, sample.problem),
        };
        // Mostly there is none, and the default allocates nothing.
        let problem = if problem.is_empty() { Arc::default() } else { problem.into() };
        Self { value, quality, source_unix_ms, problem, outcome: None }
    }

    /// Bytes that it takes in a message at most, on either interface of the node: bytes are base64 in one of them.
    fn most_bytes(&self, name: &str) -> usize {
        let value = self.value.as_ref().map_or(0, Value::text_len);
        let outcome = self.outcome.as_ref().map_or(0, |outcome| outcome.version.len());
        // Refusals are words too.
        name.len() + value + outcome + MAX_WORDS.min(self.words().len()) + FRAME_BYTES
    }

    /// Why the desired value was refused, or why the value is not good.
    pub(crate) fn words(&self) -> &str {
        clipped(self.outcome.as_ref().and_then(|outcome| outcome.refused.as_deref()).unwrap_or(&self.problem))
    }

    /// Whether this is news after `last`.
    pub(crate) fn differs(&self, last: &Self, deadband: f64) -> bool {
        if self.quality != last.quality || self.problem != last.problem {
            return true;
        }
        match (&self.value, &last.value) {
            (Some(new), Some(old)) => match (new.as_f64(), old.as_f64()) {
                (Some(a), Some(b)) if deadband > 0.0 => (a - b).abs() >= deadband,
                _ => !new.same(old),
            },
            (new, old) => new.is_some() != old.is_some(),
        }
    }
}

/// The beginning of words for people, as long as a node shows them.
pub(crate) fn clipped(words: &str) -> &str {
    words.get(..words.floor_char_boundary(MAX_WORDS)).unwrap_or(words)
}

/// What one batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) values: usize,
    /// Encoded, of values, states and answers together. What is longer alone comes alone.
    pub(crate) bytes: usize,
}

impl Room {
    /// Takes place for something, if there is any. The first always has it: what waits must go some day.
    fn place(&mut self, values: usize, bytes: usize, first: &mut bool) -> bool {
        let fits = *first || (self.values >= values && self.bytes >= bytes);
        if fits {
            *self = Self { values: self.values.saturating_sub(values), bytes: self.bytes.saturating_sub(bytes) };
            *first = false;
        }
        fits
    }
}

/// What the node is to be told now.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) values: Vec<(Arc<Definition>, Reports)>,
    pub(crate) states: Vec<(DeviceKey, DeviceState, String)>,
    pub(crate) applied: Vec<(DeviceKey, Applied)>,
}

/// What became of a device that the node sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) version: String,
    /// Why it cannot be served; empty: it is.
    pub(crate) error: String,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    held: Mutex<Held>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Held {
    devices: BTreeMap<DeviceKey, Device>,
    /// Devices with something new, the longest waiting first; each is here at most once.
    dirty: VecDeque<DeviceKey>,
}

#[derive(Debug)]
struct Device {
    definition: Arc<Definition>,
    slots: Vec<Slot>,
    state: Option<(DeviceState, String)>,
    state_dirty: bool,
    applied: Applied,
    applied_dirty: bool,
    queued: bool,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    report: Option<Arc<Report>>,
    dirty: bool,
}

impl Outbox {
    /// A device, as it is described now. Values of properties that are still there are kept.
    pub(crate) fn define(&self, definition: &Arc<Definition>, applied: Applied) {
        let mut held = self.lock();
        let mut slots = vec![Slot::default(); definition.properties.len()];
        let old = held.devices.remove(&definition.key);
        for (index, (property, slot)) in definition.properties.iter().zip(&mut slots).enumerate() {
            let old = old.as_ref().and_then(|old| old.slots.get(old.definition.position_near(index, &property.name)?));
            if let Some(old) = old {
                slot.clone_from(old);
            }
        }
        let state = old.as_ref().and_then(|old| old.state.clone());
        let device = Device {
            definition: Arc::clone(definition),
            slots,
            state_dirty: old.as_ref().is_some_and(|old| old.state_dirty),
            queued: old.is_some_and(|old| old.queued),
            state,
            applied,
            applied_dirty: true,
        };
        held.devices.insert(definition.key.clone(), device);
        held.queue(&definition.key);
        drop(held);
        self.wake.notify_one();
    }

    /// A device that no bus serves, and why.
    pub(crate) fn broken(&self, definition: &Arc<Definition>, words: &str) {
        let state = (Arc::clone(definition), DeviceState::Unhealthy, words.to_owned());
        self.put(Effects { states: vec![state], ..Effects::default() });
    }

    /// A device that is online may have a word beside: what was changed about it shows at once.
    pub(crate) fn online_because(&self, key: &DeviceKey, words: &str) {
        let mut held = self.lock();
        if let Some(device) = held.devices.get_mut(key)
            && let Some((DeviceState::Online, reason)) = &mut device.state
            && reason != words
        {
            words.clone_into(reason);
            device.state_dirty = true;
            held.queue(key);
        }
    }

    /// The node shall be told once more that the device is served.
    pub(crate) fn applied_again(&self, key: &DeviceKey) {
        let mut held = self.lock();
        if let Some(device) = held.devices.get_mut(key) {
            device.applied_dirty = true;
            held.queue(key);
        }
        drop(held);
        self.wake.notify_one();
    }

    /// Forgets a device.
    pub(crate) fn remove(&self, key: &DeviceKey) {
        self.lock().devices.remove(key);
    }

    /// What a bus has to tell. Of a definition that is no longer the device's it is dropped.
    pub(crate) fn put(&self, effects: Effects) {
        if effects.reports.is_empty() && effects.states.is_empty() {
            return;
        }
        let mut held = self.lock();
        for (definition, reports) in effects.reports {
            let Some(device) = held.current(&definition) else { continue };
            for (index, report) in reports {
                if let Some(slot) = device.slots.get_mut(index) {
                    *slot = Slot { report: Some(report), dirty: true };
                }
            }
            held.queue(&definition.key);
        }
        for (definition, state, reason) in effects.states {
            let Some(device) = held.current(&definition) else { continue };
            device.state = Some((state, reason));
            device.state_dirty = true;
            held.queue(&definition.key);
        }
        drop(held);
        self.wake.notify_one();
    }

    /// A new connection knows nothing: everything is to be told.
    pub(crate) fn all_again(&self) {
        let mut held = self.lock();
        let keys: Vec<_> = held.devices.keys().cloned().collect();
        for key in keys {
            if let Some(device) = held.devices.get_mut(&key) {
                device.slots.iter_mut().for_each(|slot| slot.dirty = slot.report.is_some());
                device.state_dirty = device.state.is_some();
                device.applied_dirty = true;
            }
            held.queue(&key);
        }
        drop(held);
        self.wake.notify_one();
    }

    /// Takes what is new, as much as there is room for; the devices that waited longest first.
    pub(crate) fn take(&self, mut room: Room) -> Batch {
        let mut held = self.lock();
        let mut batch = Batch::default();
        let mut first = true;
        while room.values > 0 && room.bytes > 0 {
            let Some(key) = held.dirty.pop_front() else { break };
            let Some(device) = held.devices.get_mut(&key) else { continue };
            device.queued = false;
            if device.take(&key, &mut room, &mut first, &mut batch) {
                held.queue(&key);
                break;
            }
        }
        batch
    }

    /// A state that the node did not take; a newer one stays.
    pub(crate) fn state_again(&self, key: &DeviceKey, state: DeviceState, reason: &str) {
        let mut held = self.lock();
        if let Some(device) = held.devices.get_mut(key)
            && device.state.as_ref().is_some_and(|(known, why)| *known == state && why == reason)
        {
            device.state_dirty = true;
            held.queue(key);
        }
    }

    /// Values that the node did not take; newer ones stay.
    pub(crate) fn values_again(&self, definition: &Arc<Definition>, values: &[(usize, Arc<Report>)]) {
        let mut held = self.lock();
        let Some(device) = held.current(definition) else { return };
        for (index, _) in values {
            if let Some(slot) = device.slots.get_mut(*index) {
                slot.dirty = true;
            }
        }
        held.queue(&definition.key);
    }

    /// Waits until there is something new.
    pub(crate) async fn changed(&self) {
        while self.lock().dirty.is_empty() {
            self.wake.notified().await;
        }
    }

    /// The last report of each property and the state of a device.
    pub(crate) fn look(&self, key: &DeviceKey) -> Option<(Arc<Definition>, LastReports)> {
        let held = self.lock();
        let device = held.devices.get(key)?;
        Some((Arc::clone(&device.definition), device.slots.iter().map(|slot| slot.report.clone()).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device {
    /// Moves what is new into the batch. Says whether something had no room.
    fn take(&mut self, key: &DeviceKey, room: &mut Room, first: &mut bool, batch: &mut Batch) -> bool {
        let frame = key.namespace.len() + key.name.len() + FRAME_BYTES;
        if self.applied_dirty {
            let Applied { version, error } = &self.applied;
            if !room.place(0, frame + version.len() + error.len().min(MAX_WORDS), first) {
                return true;
            }
            self.applied_dirty = false;
            batch.applied.push((key.clone(), self.applied.clone()));
        }
        if self.state_dirty
            && let Some((state, reason)) = &self.state
        {
            if !room.place(0, frame + reason.len().min(MAX_WORDS), first) {
                return true;
            }
            self.state_dirty = false;
            batch.states.push((key.clone(), *state, reason.clone()));
        }
        let mut values = Vec::new();
        let mut left = false;
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.dirty) {
            if let (Some(report), Some(property)) = (&slot.report, self.definition.properties.get(index)) {
                // The device's name comes once.
                let frame = if values.is_empty() { frame } else { 0 };
                if !room.place(1, frame + report.most_bytes(&property.name), first) {
                    left = true;
                    break;
                }
                values.push((index, Arc::clone(report)));
            }
            slot.dirty = false;
        }
        if !values.is_empty() {
            batch.values.push((Arc::clone(&self.definition), values));
        }
        left
    }
}

impl Held {
    fn current(&mut self, definition: &Arc<Definition>) -> Option<&mut Device> {
        self.devices.get_mut(&definition.key).filter(|device| Arc::ptr_eq(&device.definition, definition))
    }

    fn queue(&mut self, key: &DeviceKey) {
        if let Some(device) = self.devices.get_mut(key)
            && !std::mem::replace(&mut device.queued, true)
        {
            self.dirty.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, points: usize) -> Arc<Definition> {
        let mut definition = Definition::new("default", name, serde_json::Value::Null);
        for point in 0..points {
            definition = definition.property(&format!("p{point}"), DataType::Int, serde_json::Value::Null);
        }
        Arc::new(definition)
    }

    fn value(definition: &Arc<Definition>, index: usize, value: i64) -> Effects {
        let report = Report::of(Sample::good(value), DataType::Int, 1);
        Effects { reports: vec![(Arc::clone(definition), vec![(index, Arc::new(report))])], ..Effects::default() }
    }

    fn values(values: usize) -> Room {
        Room { values, bytes: usize::MAX }
    }

    fn applied() -> Applied {
        Applied { version: "1".into(), error: String::new() }
    }

    /// There are tens of thousands of these in a mapper.
    #[test]
    fn a_report_and_its_place_are_small() {
        assert!(size_of::<Report>() <= 72, "{}", size_of::<Report>());
        assert!(size_of::<Slot>() <= 16, "{}", size_of::<Slot>());
    }

    #[test]
    fn the_newest_of_each_is_told_once() {
        let outbox = Outbox::default();
        let a = device("a", 2);
        outbox.define(&a, applied());
        for number in 0..1000 {
            outbox.put(value(&a, 0, number));
        }
        let batch = outbox.take(values(100));
        assert_eq!(batch.applied.len(), 1);
        assert_eq!(batch.values.len(), 1);
        assert_eq!(batch.values[0].1[0].1.value, Some(Value::Int(999)));
        assert!(outbox.take(values(100)).values.is_empty());
        outbox.all_again();
        let batch = outbox.take(values(100));
        assert_eq!((batch.values.len(), batch.applied.len()), (1, 1));
    }

    #[test]
    fn a_batch_is_bounded_and_the_rest_waits_behind_the_others() {
        let outbox = Outbox::default();
        let (a, b) = (device("a", 3), device("b", 1));
        for d in [&a, &b] {
            outbox.define(d, applied());
        }
        for index in 0..3 {
            outbox.put(value(&a, index, 7));
        }
        outbox.put(value(&b, 0, 7));
        let names =
            |batch: Batch| -> Vec<_> { batch.values.into_iter().map(|(d, v)| (d.key.name.clone(), v.len())).collect() };
        assert_eq!(names(outbox.take(values(2))), [("a".into(), 2)]);
        assert_eq!(names(outbox.take(values(2))), [("b".into(), 1), ("a".into(), 1)]);
        assert!(names(outbox.take(values(2))).is_empty());
    }

    /// Without the bound in bytes all of it is one batch, which no message holds.
    #[test]
    fn a_batch_is_bounded_in_bytes_and_what_is_longer_alone_comes_alone() {
        let outbox = Outbox::default();
        let mut definition = Definition::new("default", "a", serde_json::Value::Null);
        for point in 0..100 {
            definition = definition.property(&format!("p{point}"), DataType::String, serde_json::Value::Null);
        }
        let definition = Arc::new(definition);
        outbox.define(&definition, applied());
        let put = |length: usize| {
            let report = |index| (index, Arc::new(Report::of(Sample::good("x".repeat(length)), DataType::String, 1)));
            let reports = vec![(Arc::clone(&definition), (0..100).map(report).collect())];
            outbox.put(Effects { reports, ..Effects::default() });
        };
        let take = |bytes| -> usize {
            outbox.take(Room { values: 1000, bytes }).values.iter().map(|(_, values)| values.len()).sum()
        };
        put(1000);
        let batches: Vec<usize> = std::iter::from_fn(|| Some(take(10_000)).filter(|values| *values > 0)).collect();
        assert!(batches.iter().all(|values| *values <= 10) && batches.len() <= 15, "{batches:?}");
        assert_eq!(batches.iter().sum::<usize>(), 100);
        put(1000);
        assert_eq!(take(usize::MAX), 100, "the control");
        put(50_000);
        assert_eq!((take(10_000), take(10_000)), (1, 1));
    }

    #[test]
    fn a_value_longer_than_any_may_be_is_bad_and_says_so() {
        let report = |length| Report::of(Sample::good("x".repeat(length)), DataType::String, 1);
        assert_eq!(report(65_536).quality, Quality::Good);
        let long = report(65_537);
        assert_eq!((long.quality, long.value.is_none()), (Quality::Bad, true));
        assert!(long.problem.contains("65537 bytes are too long for a value"), "{}", long.problem);
    }

    #[test]
    fn values_of_an_older_definition_are_dropped_and_those_that_are_known_kept() {
        let outbox = Outbox::default();
        let (old, new) = (device("a", 1), device("a", 2));
        outbox.define(&old, applied());
        outbox.put(value(&old, 0, 1));
        outbox.define(&new, applied());
        outbox.put(value(&old, 0, 2));
        let batch = outbox.take(values(10));
        assert_eq!(batch.values[0].1, [(0, Arc::new(Report::of(Sample::good(1_i64), DataType::Int, 1)))]);
        outbox.remove(&new.key);
        outbox.put(value(&new, 0, 3));
        assert!(outbox.take(values(10)).values.is_empty());
    }

    #[test]
    fn a_deadband_hides_small_moves() {
        let report = |v: f64| Report::of(Sample::good(v), DataType::Double, 1);
        assert!(!report(1.0).differs(&report(1.4), 0.5));
        assert!(report(1.0).differs(&report(1.5), 0.5));
        assert!(report(1.0).differs(&report(1.1), 0.0));
        let bad = Report::of(Sample::bad("x"), DataType::Double, 1);
        assert!(report(1.0).differs(&bad, 0.5));
        let odd = Report::of(Sample::good("much"), DataType::Int, 1);
        assert!(odd.quality == Quality::Bad && odd.problem.contains("whole number"), "{odd:?}");
    }
}
