//! What the outcome of a job means for the device, its line and its points.

use std::sync::Arc;

use super::entry::Entry;
use super::{AWAY_PART, Effects, Job, LONG_PAUSE, Line, Moment, Outcome, SHORT_PAUSE, Schedule, Time};
use crate::report::{DeviceState, Report};
use crate::{DeviceKey, Fault, Quality, Sample};

impl Schedule {
    /// What came of a job that was handed out, or of a question that somebody else asked.
    pub(crate) fn done(&mut self, now: Moment, job: &Job, outcome: Outcome, effects: &mut Effects) {
        let key = job.device();
        match (job, outcome) {
            (Job::Connect(_), Outcome::Done(Ok(()))) => self.connected(now),
            (Job::Connect(_), Outcome::Done(Err(Fault::Config(words)))) => self.broken(now, key, &words, effects),
            (Job::Connect(_), Outcome::Done(Err(fault))) => self.lost(now, None, &fault.to_string(), effects),
            (Job::Connect(_), Outcome::Late(after)) => self.lost(now, None, &late(after), effects),
            (_, Outcome::Late(after)) => {
                if let Job::Write(_, index, _) = job {
                    self.written(now, key, *index, &Err(Fault::Silent(String::new())));
                }
                self.silent(now, key, &late(after), effects);
                // Nobody knows what is under way on the line: it is opened anew, which is not its failure.
                self.line.up = false;
                self.line.retry_at = now.time;
                self.forget_subscriptions();
            }
            (Job::Write(_, index, _), Outcome::Done(result)) => {
                self.written(now, key, *index, &result);
                match result {
                    // The device answered; only this value was refused.
                    Ok(()) | Err(Fault::Refused(_) | Fault::Config(_)) => self.answered(now, key, effects),
                    Err(fault) => self.failed(now, key, fault, effects),
                }
            }
            (Job::Subscribe(_), Outcome::Subscribed(Ok(yes))) => {
                if let Some(entry) = self.devices.get_mut(key) {
                    entry.subscribed = Some(yes);
                }
            }
            (Job::Read(_, points), Outcome::Samples(Ok(samples))) => {
                self.answered(now, key, effects);
                self.samples(now, key, points, samples, effects);
            }
            (Job::Check(_), Outcome::Done(Ok(()))) => {
                self.answered(now, key, effects);
                if let Some(entry) = self.devices.get_mut(key) {
                    entry.checked(now.time);
                    entry.confirm(now, effects);
                }
            }
            (Job::Read(_, points), Outcome::Samples(Err(Fault::Refused(words)))) => {
                self.answered(now, key, effects);
                let samples = points.iter().map(|_| Sample::bad(words.clone())).collect();
                self.samples(now, key, points, samples, effects);
            }
            (_, Outcome::Done(Err(fault)) | Outcome::Subscribed(Err(fault)) | Outcome::Samples(Err(fault))) => {
                self.failed(now, key, fault, effects)
            }
            // Jobs and outcomes are paired by the bus.
            (_, Outcome::Done(Ok(())) | Outcome::Subscribed(Ok(_)) | Outcome::Samples(Ok(_))) => {}
        }
    }

    /// Values that a device told by itself, by the index of their property.
    pub(crate) fn told(&mut self, now: Moment, key: &DeviceKey, samples: Vec<(usize, Sample)>, effects: &mut Effects) {
        self.answered(now, key, effects);
        let (points, samples): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
        self.samples(now, key, &points, samples, effects);
    }

    fn connected(&mut self, now: Moment) {
        self.line.up = true;
        for entry in self.devices.values_mut() {
            entry.refresh(now.time, &mut self.random);
        }
    }

    fn written(&mut self, now: Moment, key: &DeviceKey, index: usize, result: &Result<(), Fault>) {
        if let Some(entry) = self.devices.get_mut(key) {
            entry.written(now.time, index, result);
        }
    }

    /// A device answered, so the line is well too.
    fn answered(&mut self, now: Moment, key: &DeviceKey, effects: &mut Effects) {
        self.line.failures = 0;
        self.line.away_since = None;
        if let Some(entry) = self.devices.get_mut(key) {
            entry.failures = 0;
            entry.retry_at = entry.retry_at.min(now.time);
            if !entry.refusing {
                entry.set_state(now.time, DeviceState::Online, "", effects);
            }
        }
    }

    fn failed(&mut self, now: Moment, key: &DeviceKey, fault: Fault, effects: &mut Effects) {
        match fault {
            Fault::Config(words) => self.broken(now, key, &words, effects),
            Fault::Lost(words) => self.lost(now, Some(key), &format!("connection lost: {words}"), effects),
            Fault::Silent(words) => self.silent(now, key, &format!("no answer: {words}"), effects),
            Fault::Refused(words) => {
                self.answered(now, key, effects);
                if let Some(entry) = self.devices.get_mut(key) {
                    entry.set_state(now.time, DeviceState::Unhealthy, &words, effects);
                    // A subscription that is refused is polled instead.
                    entry.subscribed = entry.subscribed.or(Some(false));
                }
            }
        }
    }

    fn broken(&mut self, now: Moment, key: &DeviceKey, words: &str, effects: &mut Effects) {
        if let Some(entry) = self.devices.get_mut(key) {
            entry.broken = true;
            entry.set_state(now.time, DeviceState::Unhealthy, words, effects);
            entry.doubt(now, words, effects);
        }
    }

    fn silent(&mut self, now: Moment, key: &DeviceKey, words: &str, effects: &mut Effects) {
        // Alone on its line it holds up nobody and may be asked often.
        let longest = if self.devices.len() > 1 { LONG_PAUSE } else { SHORT_PAUSE };
        if let Some(entry) = self.devices.get_mut(key) {
            entry.failures = entry.failures.saturating_add(1);
            entry.retry_at = now.time + Self::pause(&mut self.random, entry.failures, longest);
            entry.set_state(now.time, DeviceState::Offline, words, effects);
            entry.doubt(now, words, effects);
        }
    }

    /// The line is lost, while `key` was served. It is opened again at once; when that does not help, all are
    /// offline, and it is opened less and less often.
    fn lost(&mut self, now: Moment, key: Option<&DeviceKey>, words: &str, effects: &mut Effects) {
        let line = &mut self.line;
        line.up = false;
        line.failures = line.failures.saturating_add(1);
        let since = *line.away_since.get_or_insert(now.time);
        line.retry_at = now.time + line.pause(now.time, since, &mut self.random);
        let all = line.failures > 1 || key.is_none();
        self.forget_subscriptions();
        for (name, entry) in &mut self.devices {
            let culprit = key == Some(name);
            if culprit {
                entry.failures = entry.failures.saturating_add(1);
                if entry.failures > 1 {
                    entry.retry_at = now.time + Self::pause(&mut self.random, entry.failures, SHORT_PAUSE);
                }
            }
            if !entry.broken && (all || (culprit && entry.failures > 1)) {
                entry.set_state(now.time, DeviceState::Offline, words, effects);
                entry.doubt(now, words, effects);
            }
        }
    }

    fn forget_subscriptions(&mut self) {
        for entry in self.devices.values_mut() {
            entry.subscribed = None;
        }
    }

    fn samples(
        &mut self,
        now: Moment,
        key: &DeviceKey,
        points: &[usize],
        mut samples: Vec<Sample>,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.devices.get_mut(key) else { return };
        if samples.len() != points.len() {
            let words = format!("the driver gave {} samples for {} points", samples.len(), points.len());
            samples = points.iter().map(|_| Sample::bad(words.clone())).collect();
        }
        let refused = samples.iter().all(|sample| sample.quality == Quality::Bad) && !samples.is_empty();
        let whole = points.len() == entry.points.len();
        if refused && whole {
            let words = samples.first().map(|sample| sample.problem.clone()).unwrap_or_default();
            entry.refusing = true;
            entry.set_state(now.time, DeviceState::Unhealthy, &words, effects);
        } else if !refused && entry.refusing {
            entry.refusing = false;
            entry.set_state(now.time, DeviceState::Online, "", effects);
        }
        let mut reports = Vec::new();
        for (index, sample) in points.iter().zip(samples) {
            entry.compare(now.time, *index, &sample);
            if let Some(report) = entry.judge(now, *index, sample) {
                reports.push((*index, report));
            }
        }
        if !reports.is_empty() {
            effects.reports.push((Arc::clone(&entry.definition), reports));
        }
    }
}

impl Line {
    fn pause(&self, now: Time, since: Time, random: &mut rand::rngs::SmallRng) -> Time {
        if self.failures <= 1 {
            return Time::ZERO;
        }
        let longest = (now.saturating_sub(since) / AWAY_PART).clamp(SHORT_PAUSE, LONG_PAUSE);
        Schedule::pause(random, self.failures, longest)
    }
}

impl Entry {
    /// Whether a sample is to be reported: when it says something new, or its report cycle is over.
    fn judge(&mut self, now: Moment, index: usize, sample: Sample) -> Option<Arc<Report>> {
        let property = self.definition.properties.get(index)?;
        let point = self.points.get_mut(index)?;
        let mut report = Report::of(sample, property.data_type, now.unix_ms);
        // Half a cycle early is as good as late: a poll is never exactly on time.
        let due = now.time + property.collect_cycle / 2 >= point.report_at;
        let outcome = point.wanted.as_mut().and_then(|wanted| wanted.take_outcome());
        let news = match &point.last {
            Some(last) => outcome.is_some() || report.differs(last, property.deadband),
            None => true,
        };
        if !due && !news {
            return None;
        }
        report.outcome = outcome.or_else(|| point.last.as_ref().and_then(|last| last.outcome.clone()));
        if point.wanted.is_none() {
            report.outcome = None;
        }
        point.report_at = now.time + property.report_cycle;
        let report = Arc::new(report);
        point.last = Some(Arc::clone(&report));
        Some(report)
    }

    /// The device cannot be asked: what is known of it is doubtful from now on, and said so once.
    fn doubt(&mut self, now: Moment, words: &str, effects: &mut Effects) {
        let mut reports = Vec::new();
        let words: Arc<str> = words.into();
        for (index, point) in self.points.iter_mut().enumerate() {
            let known = point.last.is_some();
            let last = point.last.get_or_insert_with(|| Arc::new(Report::nothing()));
            let quality = if last.value.is_some() { Quality::Uncertain } else { Quality::Bad };
            if known && last.quality == quality {
                continue;
            }
            let report = Arc::make_mut(last);
            report.problem = Arc::clone(&words);
            report.quality = quality;
            if report.source_unix_ms == 0 {
                report.source_unix_ms = now.unix_ms;
            }
            reports.push((index, Arc::clone(last)));
        }
        if !reports.is_empty() {
            effects.reports.push((Arc::clone(&self.definition), reports));
        }
    }

    /// A subscription is alive: values that did not change are as good as new.
    fn confirm(&mut self, now: Moment, effects: &mut Effects) {
        if self.subscribed != Some(true) {
            return;
        }
        let mut reports = Vec::new();
        for (index, (property, point)) in self.definition.properties.iter().zip(&mut self.points).enumerate() {
            if let Some(last) = point.last.as_mut().filter(|last| last.quality == Quality::Good)
                && now.time + property.report_cycle / 2 >= point.report_at
            {
                Arc::make_mut(last).source_unix_ms = now.unix_ms;
                point.report_at = now.time + property.report_cycle;
                reports.push((index, Arc::clone(last)));
            }
        }
        if !reports.is_empty() {
            effects.reports.push((Arc::clone(&self.definition), reports));
        }
    }
}

fn late(after: std::time::Duration) -> String {
    format!("no answer within {after:?}")
}
