//! What is known of an endpoint from the connections to it: whether it answers, and how fast.
//!
//! Passive health stands in for readiness where the cloud is away: failures in a row eject the endpoint. When its
//! time is over one connection may try it ([`Health::begin`] takes that place); a success closes the circuit, a
//! failure ejects it again, for longer. An endpoint that was well for as long as it had been ejected starts from
//! the beginning.

use std::time::{Duration, Instant};

use crate::rule::OutlierDetection;

/// A trial that nobody reported on does not keep its place longer than a connection may take.
const TRIAL: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Clone)]
pub(super) struct Health {
    /// Connections in a row that could not be made, since the last ejection.
    failures: u32,
    /// Connections in a row that were broken off at once. An endpoint that takes every connection and breaks it off
    /// is as bad as one that takes none.
    broken: u32,
    /// Ejections in a row.
    ejections: u32,
    /// How long the last one is.
    length: Duration,
    /// Until when; stays when that is over, until it is known whether the endpoint is back.
    until: Option<Instant>,
    /// A connection tries whether it is back, since then.
    trial: Option<Instant>,
    /// When it came back from the last one.
    back: Option<Instant>,
}

impl Health {
    /// Whether its time is not over.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Whether it may be chosen: it is not ejected, and not on trial by another.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let tried = self.trial.is_some_and(|since| now.saturating_duration_since(since) < TRIAL);
        !self.is_ejected(now) && !tried
    }

    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.max(self.broken)
    }

    /// A connection begins. After an ejection it is the trial.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.until.is_some() && !self.is_ejected(now) {
            self.trial = Some(now);
        }
    }

    /// A connection was made: it is back, also if it was only a last resort.
    pub(super) fn connected(&mut self, now: Instant) {
        self.failures = 0;
        self.trial = None;
        if self.until.take().is_some() {
            self.back = Some(now);
        }
    }

    /// A connection was not broken off at once.
    pub(super) fn served(&mut self) {
        self.broken = 0;
    }

    /// A connection failed; `may`: one more endpoint may be ejected.
    pub(super) fn failed(&mut self, now: Instant, rules: &OutlierDetection, may: bool) {
        self.trial = None;
        self.failures = self.failures.saturating_add(1);
        let enough = self.until.is_some() || self.failures >= rules.consecutive_failures;
        if may && enough {
            self.eject(now, rules);
        }
    }

    /// A connection was broken off at once; `may` as above.
    pub(super) fn broke(&mut self, now: Instant, rules: &OutlierDetection, may: bool) {
        self.broken = self.broken.saturating_add(1);
        if may && self.broken >= rules.consecutive_failures {
            self.eject(now, rules);
        }
    }

    fn eject(&mut self, now: Instant, rules: &OutlierDetection) {
        if self.is_ejected(now) || rules.consecutive_failures == 0 {
            return;
        }
        if self.back.is_some_and(|back| now.saturating_duration_since(back) >= self.length) {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        self.length = rules.base_ejection.saturating_mul(self.ejections).min(rules.max_ejection);
        self.until = Some(now + self.length);
        self.back = None;
        self.failures = 0;
        self.broken = 0;
    }
}

/// How much a new measurement counts, as TCP has it for round trips (RFC 6298).
const GAIN: f64 = 0.125;
/// After this time without a measurement an old one counts half: who was slow is asked again.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// How long connections take to be made: a peak-sensitive moving average, which rises at once and falls slowly.
#[derive(Debug, Default, Clone)]
pub(super) struct Speed {
    average: Option<(f64, Instant)>,
}

impl Speed {
    pub(super) fn took(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let known = self.average(now);
        let average = match known {
            Some(known) if known > took => known + GAIN * (took - known),
            _ => took,
        };
        self.average = Some((average, now));
    }

    /// In seconds; `None`: never measured.
    pub(super) fn average(&self, now: Instant) -> Option<f64> {
        let (average, at) = self.average?;
        let lives = now.saturating_duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        Some(average * 0.5_f64.powf(lives))
    }
}
