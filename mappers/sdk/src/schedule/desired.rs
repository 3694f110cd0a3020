//! Desired values of a device: when they are written, and when they count as taken.
//!
//! A value that came with the device is compared with what the device has before anything is written: a mapper
//! that starts again does not write what is there. Later ones are written at once. Either way the device is read
//! afterwards; what it shows decides.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::{Effects, Time};
use crate::definition::Desired;
use crate::report::{Outcome, Report};
use crate::{Fault, Quality, Sample, Value};

/// How long a device may take to show what was written: ramps and slow actors.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is read meanwhile.
const READ_AGAIN: Duration = Duration::from_millis(250);
/// Two numbers are the same when they differ by less than this part: devices scale and round.
const ROUNDING: f64 = 1e-6;

/// What somebody wants of a property.
#[derive(Debug)]
pub(super) struct Wanted {
    version: String,
    /// The value as the device takes it, or why it cannot.
    value: Result<Value, String>,
    stage: Stage,
    /// What the node was not told yet.
    untold: Option<Arc<Outcome>>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    /// The device may have it already: its first sample tells.
    Compare,
    /// To be written, since.
    Write(Time),
    /// Handed to the driver.
    Writing,
    /// Written; the device must show it until then.
    Verify { until: Time, next: Time },
    /// The device has it.
    Taken,
    /// The device does not want it.
    Refused,
}

impl Entry {
    /// Sets what is wanted of a property; the same version changes nothing. `at_start`: it came with the device.
    pub(super) fn want(&mut self, now: Time, index: usize, desired: Option<&Desired>, at_start: bool) {
        let (Some(point), Some(property)) = (self.points.get_mut(index), self.definition.properties.get(index)) else {
            return;
        };
        let Some(desired) = desired else {
            point.wanted = None;
            return;
        };
        let value = property.accept(&desired.value).map_err(|error| error.to_string());
        if let Some(wanted) = &mut point.wanted
            && wanted.version == desired.version
            && wanted.value == value
        {
            return;
        }
        if let Some(last) = point.last.as_mut().filter(|last| last.outcome.is_some()) {
            // What became of an older wish is no longer of interest.
            Arc::make_mut(last).outcome = None;
        }
        let refused = value.as_ref().err().cloned();
        let stage = match (&refused, at_start) {
            (Some(_), _) => Stage::Refused,
            (None, true) => Stage::Compare,
            (None, false) => Stage::Write(now),
        };
        let version = desired.version.clone();
        let untold = refused.map(|words| Arc::new(Outcome { version: version.clone(), refused: Some(words) }));
        point.wanted = Some(Box::new(Wanted { version, value, stage, untold }));
    }

    pub(super) fn write_due(&self, now: Time) -> Option<Time> {
        self.write_at().map(|at| at.max(self.retry_at)).filter(|at| *at <= now && !self.broken)
    }

    pub(super) fn write_at(&self) -> Option<Time> {
        let stages = self.points.iter().filter_map(|point| point.wanted.as_ref());
        stages.filter_map(|wanted| if let Stage::Write(at) = wanted.stage { Some(at) } else { None }).min()
    }

    /// The write that waits longest.
    pub(super) fn take_write(&mut self, now: Time) -> Option<(usize, Value)> {
        let due = self.write_due(now).is_some();
        let waiting = self.points.iter_mut().enumerate().filter(|_| due).filter_map(|(index, point)| {
            let wanted = point.wanted.as_mut()?;
            match wanted.stage {
                Stage::Write(at) => Some((at, index, wanted)),
                _ => None,
            }
        });
        let (_, index, wanted) = waiting.min_by_key(|(at, ..)| *at)?;
        let value = wanted.value.clone().ok()?;
        wanted.stage = Stage::Writing;
        Some((index, value))
    }

    /// What the driver said of a write. When the device or the line failed it is written again: nobody knows
    /// whether it arrived.
    pub(super) fn written(&mut self, now: Time, index: usize, result: &Result<(), Fault>) {
        let Some(wanted) = self.points.get_mut(index).and_then(|point| point.wanted.as_mut()) else {
            return;
        };
        if wanted.stage != Stage::Writing {
            // Something else is wanted meanwhile.
            return;
        }
        match result {
            Ok(()) => {
                wanted.stage = Stage::Verify { until: now + PATIENCE, next: now };
                self.hurry(now, index);
            }
            Err(Fault::Refused(words) | Fault::Config(words)) => wanted.refuse(words.clone()),
            Err(Fault::Lost(_) | Fault::Silent(_)) => wanted.stage = Stage::Write(now),
        }
    }

    /// What a sample of a point says about its desired value.
    pub(super) fn compare(&mut self, now: Time, index: usize, sample: &Sample) {
        let Some(wanted) = self.points.get_mut(index).and_then(|point| point.wanted.as_mut()) else {
            return;
        };
        let Ok(value) = &wanted.value else { return };
        let good = sample.quality == Quality::Good;
        if good && sample.value.as_ref().is_some_and(|read| equal(read, value)) {
            if matches!(wanted.stage, Stage::Compare | Stage::Verify { .. } | Stage::Refused) {
                wanted.stage = Stage::Taken;
                wanted.untold = Some(Arc::new(Outcome { version: wanted.version.clone(), refused: None }));
            }
            return;
        }
        match wanted.stage {
            Stage::Compare => wanted.stage = Stage::Write(now),
            Stage::Verify { until, .. } if now >= until => {
                let words = match &sample.value {
                    Some(read) if good => {
                        format!("{} was written and the device has {}", value.to_text(), read.to_text())
                    }
                    _ => format!("{} was written and cannot be read back: {}", value.to_text(), sample.problem),
                };
                wanted.refuse(words);
            }
            Stage::Verify { until, next } if now >= next => {
                let next = now + READ_AGAIN;
                wanted.stage = Stage::Verify { until, next };
                self.hurry(next, index);
            }
            _ => {}
        }
    }

    /// Reports what became of desired values and was not told yet, with the last value that was reported.
    pub(super) fn tell_outcomes(&mut self, effects: &mut Effects) {
        let mut reports = Vec::new();
        for (index, point) in self.points.iter_mut().enumerate() {
            if let Some(outcome) = point.wanted.as_mut().and_then(|wanted| wanted.untold.take()) {
                let last = point.last.get_or_insert_with(|| Arc::new(Report::nothing()));
                Arc::make_mut(last).outcome = Some(outcome);
                reports.push((index, Arc::clone(last)));
            }
        }
        if !reports.is_empty() {
            effects.reports.push((Arc::clone(&self.definition), reports));
        }
    }
}

impl Wanted {
    /// What the node is to be told, once.
    pub(super) fn take_outcome(&mut self) -> Option<Arc<Outcome>> {
        self.untold.take()
    }

    fn refuse(&mut self, words: String) {
        self.stage = Stage::Refused;
        self.untold = Some(Arc::new(Outcome { version: self.version.clone(), refused: Some(words) }));
    }
}

/// Whether a device that was told `wanted` and shows `read` has it.
fn equal(read: &Value, wanted: &Value) -> bool {
    if read.same(wanted) {
        return true;
    }
    match (read, wanted) {
        (Value::Float(_), _) | (_, Value::Float(_)) => match (read.as_f64(), wanted.as_f64()) {
            (Some(read), Some(wanted)) => (read - wanted).abs() <= ROUNDING * read.abs().max(wanted.abs()),
            _ => false,
        },
        _ => false,
    }
}
