//! What to do next on one line, and what it meant: the decisions of a bus, without IO, clock or randomness of
//! its own.
//!
//! Driven by `bus.rs`: it asks [`Schedule::next`], does the [`Job`], and tells [`Schedule::done`] what came of
//! it. Time comes in as the time since the bus began, which never goes back, and the wall clock only to be
//! written beside values.
//!
//! Invariants: one job at a time. The job that is due longest goes first, and a write never waits for more than
//! one read: no device can starve another. A device that does not answer is asked less and less often; a line
//! that is lost is opened less and less often, and the devices are offline when opening it again did not help.
//! Polls that could not be done in time are skipped and counted, never done in a burst. A desired value is
//! written once per version, and counts as taken when the device shows it.

mod desired;
mod entry;
mod outcome;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use self::entry::Entry;
use crate::definition::{Definition, Desired, Wishes};
use crate::report::{DeviceState, Reports};
use crate::{DeviceKey, Fault, Sample, Value};

/// Time since the bus began.
pub(crate) type Time = Duration;

/// First pause of a device or a line that failed; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause of a line soon after it was lost: a cable that is back is noticed within two seconds, of which an
/// attempt that began before may take one.
const SHORT_PAUSE: Duration = Duration::from_millis(750);
/// Longest pause at all.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// The pause of a line may be this part of the time that it has been away.
const AWAY_PART: u32 = 20;

/// Now, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) time: Time,
    /// Wall clock, milliseconds since the Unix epoch.
    pub(crate) unix_ms: i64,
}

/// Something to do with the driver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Job {
    /// Open the line, by way of this device.
    Connect(DeviceKey),
    /// Ask the device to tell of changes.
    Subscribe(DeviceKey),
    /// Read these points, by index.
    Read(DeviceKey, Vec<usize>),
    /// See whether the device is there.
    Check(DeviceKey),
    /// Write this point.
    Write(DeviceKey, usize, Value),
}

impl Job {
    pub(crate) fn device(&self) -> &DeviceKey {
        match self {
            Self::Connect(key) | Self::Subscribe(key) | Self::Read(key, _) | Self::Check(key) => key,
            Self::Write(key, ..) => key,
        }
    }
}

/// What came of a job. A job that took too long is [`Outcome::Late`], and the connection is closed.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Connect, Check or Write.
    Done(Result<(), Fault>),
    /// Subscribe: whether the device will tell by itself.
    Subscribed(Result<bool, Fault>),
    /// Read.
    Samples(Result<Vec<Sample>, Fault>),
    /// The device's deadline passed.
    Late(Duration),
}

/// What the bus does now.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Run(Job),
    /// Nothing until then; `None`: until something changes.
    Wait(Option<Time>),
}

/// What is to be told to others.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Values that are to be reported, by the index of their property.
    pub(crate) reports: Vec<(Arc<Definition>, Reports)>,
    /// States that changed or are due.
    pub(crate) states: Vec<(Arc<Definition>, DeviceState, String)>,
    /// Polls that were skipped because the line was too slow.
    pub(crate) skipped: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Schedule {
    devices: BTreeMap<DeviceKey, Entry>,
    line: Line,
    random: SmallRng,
    wrote_last: bool,
}

#[derive(Debug)]
struct Line {
    up: bool,
    /// Losses since a device last answered.
    failures: u32,
    retry_at: Time,
    /// Since when it has been failing.
    away_since: Option<Time>,
}

impl Schedule {
    /// A line that is not open, without devices.
    pub(crate) fn new(seed: u64) -> Self {
        let line = Line { up: false, failures: 0, retry_at: Time::ZERO, away_since: None };
        Self { devices: BTreeMap::new(), line, random: SmallRng::seed_from_u64(seed), wrote_last: false }
    }

    /// Adds a device, or replaces its definition. What is known of a desired value is kept while its version is
    /// the same.
    pub(crate) fn set(&mut self, now: Time, definition: Arc<Definition>, desired: &Wishes) {
        let mut entry = Entry::new(now, Arc::clone(&definition), &mut self.random);
        if let Some(old) = self.devices.get_mut(&definition.key) {
            entry.inherit(old);
        }
        for index in 0..definition.properties.len() {
            entry.want(now, index, desired.get(&index), true);
        }
        if self.devices.is_empty() {
            // A new device is a new reason to try.
            self.line.retry_at = now;
        }
        self.devices.insert(definition.key.clone(), entry);
    }

    /// Forgets a device.
    pub(crate) fn remove(&mut self, key: &DeviceKey) {
        self.devices.remove(key);
    }

    /// What somebody wants now of a property.
    pub(crate) fn want(&mut self, now: Time, key: &DeviceKey, index: usize, desired: Option<&Desired>) {
        if let Some(entry) = self.devices.get_mut(key) {
            entry.want(now, index, desired, false);
        }
    }

    /// Whether the line is open.
    pub(crate) fn is_up(&self) -> bool {
        self.line.up
    }

    /// Why a device cannot be asked now.
    pub(crate) fn trouble(&self, key: &DeviceKey) -> Option<String> {
        let entry = self.devices.get(key)?;
        (!self.line.up || entry.broken || entry.failures > 0).then(|| entry.reason().to_owned())
    }

    /// A point that is to be read as soon as possible.
    pub(crate) fn hurry(&mut self, now: Time, key: &DeviceKey, index: usize) {
        if let Some(entry) = self.devices.get_mut(key) {
            entry.hurry(now, index);
        }
    }

    /// What to do now. A job that is handed out must be answered by [`Schedule::done`].
    pub(crate) fn next(&mut self, now: Time, effects: &mut Effects) -> Next {
        for entry in self.devices.values_mut() {
            entry.tell_outcomes(effects);
            entry.repeat_state(now, effects);
        }
        match self.next_job(now, effects) {
            Next::Run(job) => Next::Run(job),
            Next::Wait(at) => Next::Wait(self.devices.values().filter_map(Entry::tells_at).chain(at).min()),
        }
    }

    fn next_job(&mut self, now: Time, effects: &mut Effects) -> Next {
        if !self.line.up {
            return self.next_connect(now);
        }
        if let Some(key) = self.find(|entry| entry.subscribe_due(now)) {
            return Next::Run(Job::Subscribe(key));
        }
        let write = self.find(|entry| entry.write_due(now));
        let read = self.find(|entry| entry.read_due(now));
        let write_first = read.is_none() || !self.wrote_last;
        if let Some(key) = write
            && write_first
            && let Some((index, value)) = self.devices.get_mut(&key).and_then(|entry| entry.take_write(now))
        {
            self.wrote_last = true;
            return Next::Run(Job::Write(key, index, value));
        }
        self.wrote_last = false;
        if let Some(key) = read
            && let Some(entry) = self.devices.get_mut(&key)
        {
            let points = entry.take_due(now, effects);
            return Next::Run(Job::Read(key, points));
        }
        if let Some(key) = self.find(|entry| entry.check_due(now)) {
            return Next::Run(Job::Check(key));
        }
        Next::Wait(self.devices.values().filter_map(Entry::wakes_at).min())
    }

    fn next_connect(&mut self, now: Time) -> Next {
        let Some(first) = self.devices.values().filter_map(Entry::wakes_at).min() else {
            return Next::Wait(None);
        };
        let at = first.max(self.line.retry_at);
        if at > now {
            return Next::Wait(Some(at));
        }
        // Any device leads to the line; taking turns finds one whose own settings are right.
        let ready: Vec<_> = self.devices.iter().filter(|(_, e)| e.wakes_at().is_some_and(|at| at <= now)).collect();
        let turn = usize::try_from(self.line.failures).unwrap_or(0) % ready.len().max(1);
        match ready.get(turn) {
            Some((key, _)) => Next::Run(Job::Connect((*key).clone())),
            None => Next::Wait(None),
        }
    }

    /// The device for which `due` is the earliest time.
    fn find(&self, due: impl Fn(&Entry) -> Option<Time>) -> Option<DeviceKey> {
        let due = self.devices.iter().filter_map(|(key, entry)| Some((due(entry)?, key)));
        due.min_by_key(|(at, _)| *at).map(|(_, key)| key.clone())
    }

    /// A pause that grows with the failures up to `longest`, drawn evenly, so that many do not come at once.
    fn pause(random: &mut SmallRng, failures: u32, longest: Duration) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(longest).mul_f64(random.random_range(0.5..1.0))
    }
}
