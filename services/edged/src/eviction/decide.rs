//! From observations, thresholds and time to conditions and to what must be answered. No IO, no clock.
//!
//! The task calls [`Watcher::observe`] with every observation. Invariants, each a test:
//! - a hard threshold is answered at once, a soft one when it was crossed for its whole grace period;
//! - once answered, a threshold counts as crossed until the minimum reclaim is free as well;
//! - a condition stays for the transition period after it was seen last, and so does not flap;
//! - a signal that was not observed crosses nothing;
//! - memory is answered before anything else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::threshold::{Resource, Signal, Threshold};
use crate::pod::priority::is_critical;
use crate::resources::{self, Qos};
use crate::stats::Signals;

/// How much there is of something, and how much is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) available: u64,
    pub(crate) capacity: u64,
}

pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// What the machine lacks, as conditions of the Node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

impl Pressure {
    fn names(self) -> Vec<&'static str> {
        [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pids, "PIDPressure")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect()
    }
}

/// The message with which a pod is refused while the node lacks something; `None`: it may run.
/// Critical pods always may; when only memory is short, so may pods that asked for resources or that
/// tolerate it.
pub(crate) fn admit(pod: &Pod, pressure: Pressure) -> Option<String> {
    let names = pressure.names();
    if names.is_empty() || is_critical(pod) {
        return None;
    }
    if names == ["MemoryPressure"] {
        let tolerations = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten());
        let tolerates = tolerations.into_iter().any(|t| {
            let key = t.key.as_deref().unwrap_or_default();
            let exists = t.operator.as_deref() == Some("Exists");
            let effect = t.effect.as_deref().unwrap_or_default();
            (key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && exists))
                && (effect.is_empty() || effect == "NoSchedule")
                && (exists || t.value.as_deref().unwrap_or_default().is_empty())
        });
        if tolerates || resources::qos(pod) != Qos::BestEffort {
            return None;
        }
    }
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

/// The observations in what was measured.
pub(crate) fn observations(signals: &Signals) -> Observations {
    let pair = |available: Option<u64>, capacity: Option<u64>| {
        available.zip(capacity).map(|(available, capacity)| Observation { available, capacity })
    };
    let memory = &signals.memory;
    let total = |m: &crate::stats::model::MemoryStats| {
        m.available_bytes.zip(m.working_set_bytes).map(|(a, w)| a.saturating_add(w))
    };
    let fs = |fs: Option<&crate::stats::model::FsStats>, inodes: bool| {
        let fs = fs?;
        if inodes { pair(fs.inodes_free, fs.inodes) } else { pair(fs.available_bytes, fs.capacity_bytes) }
    };
    let pids = signals.processes.max_pid.zip(signals.processes.running).and_then(|(max, running)| {
        Some(Observation {
            available: u64::try_from(max.saturating_sub(running)).unwrap_or(0),
            capacity: u64::try_from(max).ok()?,
        })
    });
    let pods = signals.pods_memory.as_ref();
    [
        (Signal::MemoryAvailable, pair(memory.available_bytes, total(memory))),
        (Signal::AllocatableMemoryAvailable, pods.and_then(|m| pair(m.available_bytes, total(m)))),
        (Signal::NodeFsAvailable, fs(signals.node_fs.as_ref(), false)),
        (Signal::NodeFsInodesFree, fs(signals.node_fs.as_ref(), true)),
        (Signal::ImageFsAvailable, fs(signals.image_fs.as_ref(), false)),
        (Signal::ImageFsInodesFree, fs(signals.image_fs.as_ref(), true)),
        (Signal::PidAvailable, pids),
    ]
    .into_iter()
    .filter_map(|(signal, seen)| Some((signal, seen?)))
    .collect()
}

/// What one observation leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) pressure: Pressure,
    /// To be answered now, most urgent first.
    pub(crate) starved: Vec<Threshold>,
    /// Something is crossed, if only for a moment: look again soon.
    pub(crate) crossed: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    thresholds: Vec<Threshold>,
    transition_ms: i64,
    /// Since when each threshold is crossed.
    since: BTreeMap<usize, i64>,
    /// Thresholds that were answered and are not yet resolved.
    answered: Vec<usize>,
    /// When memory, disk and process numbers were short last.
    last: [Option<i64>; 3],
}

/// Whether less is available than the threshold asks for.
fn is_crossed(threshold: &Threshold, seen: &Observations, with_reclaim: bool) -> bool {
    seen.get(&threshold.signal).is_some_and(|o| {
        let extra = if with_reclaim { threshold.min_reclaim.of(o.capacity) } else { 0 };
        o.available < threshold.value.of(o.capacity).saturating_add(extra)
    })
}

impl Watcher {
    pub(crate) fn new(thresholds: Vec<Threshold>, transition_ms: i64) -> Self {
        Self { thresholds, transition_ms, ..Self::default() }
    }

    /// See the module documentation. `now` is any clock that does not jump, in milliseconds.
    pub(crate) fn observe(&mut self, seen: &Observations, now: i64) -> Verdict {
        let crossed: Vec<usize> = (0..)
            .zip(&self.thresholds)
            .filter(|(i, t)| is_crossed(t, seen, self.answered.contains(i)))
            .map(|(i, _)| i)
            .collect();
        self.since.retain(|i, _| crossed.contains(i));
        for i in &crossed {
            self.since.entry(*i).or_insert(now);
        }
        let due = |i: &usize, t: &Threshold| self.since.get(i).is_some_and(|at| now.saturating_sub(*at) >= t.grace_ms);
        let mut starved: Vec<(usize, Threshold)> =
            (0..).zip(&self.thresholds).filter(|(i, t)| due(i, t)).map(|(i, t)| (i, *t)).collect();
        self.answered = starved.iter().map(|(i, _)| *i).collect();
        for (_, threshold) in (0..).zip(&self.thresholds).filter(|(i, _)| crossed.contains(i)) {
            let slot = match threshold.signal.resource() {
                Resource::Memory => 0,
                Resource::Disk | Resource::Inodes => 1,
                Resource::Pids => 2,
            };
            if let Some(last) = self.last.get_mut(slot) {
                *last = Some(now);
            }
        }
        let recent = |at: Option<i64>| at.is_some_and(|at| at == now || now.saturating_sub(at) < self.transition_ms);
        let [memory, disk, pids] = self.last.map(recent);
        // Stable: hard thresholds stay before soft ones.
        starved.sort_by_key(|(_, t)| t.signal.resource() != Resource::Memory);
        Verdict {
            pressure: Pressure { memory, disk, pids },
            starved: starved.into_iter().map(|(_, t)| t).collect(),
            crossed: !crossed.is_empty(),
        }
    }

    /// After room was made: whether all is well, the minimum reclaim included.
    pub(crate) fn is_resolved(&self, seen: &Observations) -> bool {
        !self.thresholds.iter().any(|t| is_crossed(t, seen, true))
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
