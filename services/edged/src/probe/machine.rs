//! When the probes of a pod ask, and what their answers mean. No IO, no clock, no randomness.
//!
//! The prober tells it which containers run ([`Machine::see`]), asks what is due ([`Machine::due`]), and
//! brings the answers ([`Machine::heard`]). Times are milliseconds since the agent's start, by a clock that
//! never jumps. The rules are the kubelet's.
//!
//! Invariants (each one a test):
//! - M1 a verdict changes only after a whole threshold of equal answers in a row;
//! - M2 nothing is asked before the initial delay, and only the startup probe before it has succeeded;
//! - M3 a probe asks one question at a time, and no sooner than its period after the one before;
//! - M4 a container that was found unhealthy is not asked about its health again: the next one is;
//! - M5 an answer about a former container, and a question that could not be asked, change nothing;
//! - M6 a pod that ends is asked for its readiness only.
//!
//! Beyond the kubelet: a container that was ready when the agent stopped stays so until the first verdict
//! after its restart.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use skerry_common::fnv1a;

use super::results::{Outcome, Results, Unhealthy};

/// Milliseconds since the agent's start; negative: before it.
pub(super) type Ms = i64;

/// What the API server fills in.
const PERIOD_S: i32 = 10;
const TIMEOUT_S: i32 = 1;
const FAILURES: i32 = 3;
const SUCCESSES: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As Events and metrics name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    pub(super) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// How long one question may take.
pub(super) fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(TIMEOUT_S)).unwrap_or(1).max(1))
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) container: String,
    pub(super) container_id: String,
    pub(super) kind: Kind,
}

/// A container that runs.
#[derive(Debug, Clone)]
pub(super) struct Running<'a> {
    pub(super) spec: &'a Container,
    pub(super) id: &'a str,
    pub(super) begun: Ms,
    /// Whether it will be started again after an end.
    pub(super) restarts: bool,
    /// What an earlier process reported of this very container.
    pub(super) known: Option<Known>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) started: bool,
    pub(super) ready: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// By name; only containers that have a probe.
    containers: BTreeMap<String, Probed>,
    ending: bool,
}

#[derive(Debug)]
struct Probed {
    id: String,
    restarts: bool,
    probes: Vec<One>,
}

/// One probe of one container.
#[derive(Debug)]
struct One {
    kind: Kind,
    period: Ms,
    successes: u32,
    failures: u32,
    grace_s: Option<i64>,
    verdict: Verdict,
    /// The newest answers were all like this …
    last: bool,
    /// … so many times.
    run: u32,
    next: Ms,
    asking: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Success,
    Failure,
}

impl Verdict {
    fn of(good: bool) -> Self {
        if good { Self::Success } else { Self::Failure }
    }
}

impl Machine {
    /// Whether there is anything to do for these containers.
    pub(super) fn concerns(container: &Container) -> bool {
        Kind::ALL.iter().any(|kind| kind.of(container).is_some())
    }

    /// Takes the containers that run now; what is known of others is forgotten.
    pub(super) fn see(&mut self, running: &[Running<'_>], ending: bool, now: Ms) {
        self.ending = ending;
        self.containers.retain(|name, known| running.iter().any(|r| r.spec.name == *name && r.id == known.id));
        for container in running.iter().filter(|r| Self::concerns(r.spec)) {
            self.containers.entry(container.spec.name.clone()).or_insert_with(|| Probed::new(container, now));
        }
    }

    /// What is to be asked now, and when to look again if nothing happens.
    pub(super) fn due(&mut self, now: Ms) -> (Vec<Question>, Option<Ms>) {
        let (mut questions, mut wake) = (Vec::new(), None::<Ms>);
        for (name, container) in &mut self.containers {
            let started = container.started();
            for probe in container.probes.iter_mut().filter(|p| !p.asking && p.open(started, self.ending)) {
                if probe.next > now {
                    wake = Some(wake.map_or(probe.next, |w| w.min(probe.next)));
                    continue;
                }
                probe.asking = true;
                probe.next = now.saturating_add(probe.period);
                questions.push(Question {
                    container: name.clone(),
                    container_id: container.id.clone(),
                    kind: probe.kind,
                });
            }
        }
        (questions, wake)
    }

    /// Whether anybody still wants the answer.
    pub(super) fn wants(&self, question: &Question) -> bool {
        self.containers.get(&question.container).is_some_and(|c| c.id == question.container_id)
            && (question.kind == Kind::Readiness || !self.ending)
    }

    /// Takes an answer; `None`: the question could not be asked. Whether the results changed.
    pub(super) fn heard(&mut self, question: &Question, answer: Option<bool>) -> bool {
        let wanted = self.wants(question);
        let Some(container) = self.containers.get_mut(&question.container) else { return false };
        if container.id != question.container_id {
            return false;
        }
        let Some(probe) = container.probes.iter_mut().find(|p| p.kind == question.kind) else { return false };
        probe.asking = false;
        match answer {
            Some(good) if wanted => probe.take(good),
            _ => false,
        }
    }

    /// What the plan and the status shall know.
    pub(super) fn results(&self) -> Results {
        let mut results = Results::default();
        for (name, container) in &self.containers {
            let ready = container.probe(Kind::Readiness).is_none_or(|p| p.verdict == Verdict::Success);
            let unhealthy = if self.ending { None } else { container.unhealthy(name) };
            let outcome =
                Outcome { container_id: container.id.clone(), started: container.started(), ready, unhealthy };
            results.set(name, outcome);
        }
        results
    }
}

impl Probed {
    fn new(container: &Running<'_>, now: Ms) -> Self {
        let probes =
            Kind::ALL.iter().filter_map(|kind| Some(One::new(*kind, kind.of(container.spec)?, container, now)));
        Self { id: container.id.to_owned(), restarts: container.restarts, probes: probes.collect() }
    }

    fn probe(&self, kind: Kind) -> Option<&One> {
        self.probes.iter().find(|p| p.kind == kind)
    }

    fn started(&self) -> bool {
        self.probe(Kind::Startup).is_none_or(|p| p.verdict == Verdict::Success)
    }

    fn unhealthy(&self, name: &str) -> Option<Unhealthy> {
        let failed = |kind| self.probe(kind).filter(|p| p.verdict == Verdict::Failure);
        let probe = failed(Kind::Liveness).or_else(|| failed(Kind::Startup))?;
        let end = if self.restarts { ", will be restarted" } else { "" };
        let message = format!("Container {name} failed {} probe{end}", probe.kind.name().to_lowercase());
        Some(Unhealthy { message, grace_s: probe.grace_s })
    }
}

impl One {
    fn new(kind: Kind, spec: &Probe, container: &Running<'_>, now: Ms) -> Self {
        let at_least = |value: Option<i32>, default: i32, least: i32| value.unwrap_or(default).max(least);
        let count = |value, default| u32::try_from(at_least(value, default, 1)).unwrap_or(1);
        let period = Ms::from(at_least(spec.period_seconds, PERIOD_S, 1)).saturating_mul(1000);
        let delay = Ms::from(at_least(spec.initial_delay_seconds, 0, 0)).saturating_mul(1000);
        let known = container.known.unwrap_or(Known { started: false, ready: false });
        let verdict = match kind {
            Kind::Startup if known.started => Verdict::Success,
            Kind::Startup => Verdict::Unknown,
            Kind::Liveness => Verdict::Success,
            Kind::Readiness => Verdict::of(known.ready),
        };
        // After a start of the agent the probes of all containers would ask at the same moment.
        let spread = if container.begun < 0 {
            let hash = fnv1a(&[container.id, kind.name()]);
            Ms::try_from(hash % u64::try_from(period).unwrap_or(1)).unwrap_or(0)
        } else {
            0
        };
        Self {
            kind,
            period,
            successes: count(spec.success_threshold, SUCCESSES),
            failures: count(spec.failure_threshold, FAILURES),
            grace_s: spec.termination_grace_period_seconds,
            verdict,
            last: true,
            run: 0,
            next: container.begun.saturating_add(delay).max(now).saturating_add(spread),
            asking: false,
        }
    }

    /// Whether it asks at all at present.
    fn open(&self, started: bool, ending: bool) -> bool {
        match self.kind {
            Kind::Startup => !ending && self.verdict == Verdict::Unknown,
            Kind::Liveness => !ending && started && self.verdict == Verdict::Success,
            Kind::Readiness => started,
        }
    }

    /// Whether the verdict changed.
    fn take(&mut self, good: bool) -> bool {
        self.run = if self.last == good { self.run.saturating_add(1) } else { 1 };
        self.last = good;
        let threshold = if good { self.successes } else { self.failures };
        let before = self.verdict;
        if self.run >= threshold {
            self.verdict = Verdict::of(good);
        }
        self.verdict != before
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
