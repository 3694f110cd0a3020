//! One device of a line: what is due when, and what is known of it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::desired::Wanted;
use super::{Effects, Time};
use crate::definition::{DEFAULT_CYCLE, Definition};
use crate::report::{DeviceState, Report};

/// A device of which nothing is polled is asked at least this often whether it is there.
const CHECK_CYCLE: Duration = Duration::from_secs(10);
/// Shorter cycles are taken as this: nothing on a field bus is faster.
const SHORTEST_CYCLE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) definition: Arc<Definition>,
    pub(super) points: Vec<PointState>,
    groups: Vec<Group>,
    /// Points to be read before their time, and since when.
    urgent: Vec<(Time, usize)>,
    /// Whether the connection was asked to tell of changes, and what it said.
    pub(super) subscribed: Option<bool>,
    /// Failures since it last answered.
    pub(super) failures: u32,
    pub(super) retry_at: Time,
    /// Its description is wrong: nothing is tried.
    pub(super) broken: bool,
    /// The answer was no to everything.
    pub(super) refusing: bool,
    state: Option<(DeviceState, String)>,
    state_at: Time,
    check_at: Time,
}

/// Points with one cycle.
#[derive(Debug)]
struct Group {
    cycle: Duration,
    points: Vec<usize>,
    next: Time,
}

#[derive(Debug, Default)]
pub(super) struct PointState {
    /// What was reported last.
    pub(super) last: Option<Arc<Report>>,
    pub(super) report_at: Time,
    /// Nothing is wanted of most points.
    pub(super) wanted: Option<Box<Wanted>>,
}

impl Entry {
    pub(super) fn new(now: Time, definition: Arc<Definition>, random: &mut SmallRng) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (index, property) in definition.properties.iter().enumerate() {
            let cycle = cycle(property.collect_cycle);
            match groups.iter_mut().find(|group| group.cycle == cycle) {
                Some(group) => group.points.push(index),
                None => groups.push(Group { cycle, points: vec![index], next: now }),
            }
        }
        groups.iter_mut().for_each(|group| group.points.shrink_to_fit());
        let points = definition.properties.iter().map(|_| PointState::default()).collect();
        let state_at = now + definition.state_cycle.mul_f64(random.random_range(0.5..1.0));
        let check_at = now + check_cycle(&definition);
        let mut entry = Self {
            definition,
            points,
            groups,
            urgent: Vec::new(),
            subscribed: None,
            failures: 0,
            retry_at: now,
            broken: false,
            refusing: false,
            state: None,
            state_at,
            check_at,
        };
        entry.refresh(now, random);
        entry
    }

    /// Takes over what is known of the device as it was described before.
    pub(super) fn inherit(&mut self, old: &mut Self) {
        self.state = old.state.take();
        for (index, (property, point)) in self.definition.properties.iter().zip(&mut self.points).enumerate() {
            let at = old.definition.position_near(index, &property.name);
            if let Some(old) = at.and_then(|at| old.points.get_mut(at)) {
                point.wanted = old.wanted.take();
                point.last = old.last.take();
            }
        }
    }

    fn ready_at(&self) -> Option<Time> {
        (!self.broken).then_some(self.retry_at)
    }

    fn due(&self, now: Time, at: Option<Time>) -> Option<Time> {
        let at = at?.max(self.ready_at()?);
        (at <= now).then_some(at)
    }

    pub(super) fn subscribe_due(&self, now: Time) -> Option<Time> {
        let wanted = self.subscribed.is_none() && !self.points.is_empty();
        self.due(now, wanted.then_some(self.retry_at))
    }

    pub(super) fn read_due(&self, now: Time) -> Option<Time> {
        self.due(now, self.read_at())
    }

    fn read_at(&self) -> Option<Time> {
        let polled = self.subscribed != Some(true);
        let group = self.groups.iter().filter(|_| polled).map(|group| group.next).min();
        let urgent = self.urgent.iter().map(|(at, _)| *at).min();
        group.into_iter().chain(urgent).min()
    }

    /// Only where nothing is read anyway.
    fn check_at(&self) -> Option<Time> {
        (self.subscribed == Some(true) || self.points.is_empty()).then_some(self.check_at)
    }

    pub(super) fn check_due(&self, now: Time) -> Option<Time> {
        self.due(now, self.check_at())
    }

    pub(super) fn checked(&mut self, now: Time) {
        self.check_at = now + check_cycle(&self.definition);
    }

    fn state_at(&self) -> Option<Time> {
        (!self.definition.state_cycle.is_zero() && self.state.is_some()).then_some(self.state_at)
    }

    /// The next time at which there is something to ask of it; nothing for a device that is described wrongly.
    pub(super) fn wakes_at(&self) -> Option<Time> {
        let at = [self.read_at(), self.write_at(), self.check_at()].into_iter().flatten().min()?;
        Some(at.max(self.ready_at()?))
    }

    /// The next time at which its state is to be told again.
    pub(super) fn tells_at(&self) -> Option<Time> {
        self.state_at()
    }

    pub(super) fn hurry(&mut self, at: Time, index: usize) {
        if index < self.points.len() && !self.urgent.iter().any(|(_, known)| *known == index) {
            self.urgent.push((at, index));
        }
    }

    /// The points that are due, in the order of the definition. Their next time keeps the phase; times that
    /// have passed meanwhile are skipped and counted.
    pub(super) fn take_due(&mut self, now: Time, effects: &mut Effects) -> Vec<usize> {
        let mut points = Vec::new();
        let polled = self.subscribed != Some(true);
        for group in self.groups.iter_mut().filter(|group| polled && group.next <= now) {
            points.extend_from_slice(&group.points);
            let passed = (now - group.next).as_micros() / group.cycle.as_micros().max(1);
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            effects.skipped = effects.skipped.saturating_add(u64::from(passed));
            group.next += group.cycle.saturating_mul(passed.saturating_add(1));
        }
        self.urgent.retain(|(at, index)| {
            let due = *at <= now;
            if due && !points.contains(index) {
                points.push(*index);
            }
            !due
        });
        points.sort_unstable();
        points
    }

    /// All points are due at once and spread by `random` from then on: at the start, and when the line is back.
    pub(super) fn refresh(&mut self, now: Time, random: &mut SmallRng) {
        for group in &mut self.groups {
            // Devices of a line do not stay in step.
            group.next = now.saturating_sub(group.cycle.mul_f64(random.random_range(0.0..0.9)));
        }
    }

    pub(super) fn set_state(&mut self, now: Time, state: DeviceState, reason: &str, effects: &mut Effects) {
        let same = self.state.as_ref().is_some_and(|(old, why)| *old == state && why == reason);
        if !same {
            self.state = Some((state, reason.to_owned()));
            self.tell_state(now, effects);
        }
    }

    /// Tells the state again when its cycle is over.
    pub(super) fn repeat_state(&mut self, now: Time, effects: &mut Effects) {
        if self.state_at().is_some_and(|at| at <= now) {
            self.tell_state(now, effects);
        }
    }

    fn tell_state(&mut self, now: Time, effects: &mut Effects) {
        self.state_at = now + cycle(self.definition.state_cycle);
        if let Some((state, reason)) = &self.state {
            effects.states.push((Arc::clone(&self.definition), *state, reason.clone()));
        }
    }

    pub(super) fn reason(&self) -> &str {
        match &self.state {
            Some((_, reason)) if !reason.is_empty() => reason,
            _ => "not connected yet",
        }
    }
}

fn cycle(cycle: Duration) -> Duration {
    if cycle.is_zero() { DEFAULT_CYCLE } else { cycle.max(SHORTEST_CYCLE) }
}

/// A subscription must be confirmed before its values count as old.
fn check_cycle(definition: &Definition) -> Duration {
    let reports = definition.properties.iter().map(|property| cycle(property.report_cycle)).min();
    reports.unwrap_or(CHECK_CYCLE).clamp(DEFAULT_CYCLE, CHECK_CYCLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are tens of thousands of these in a mapper.
    #[test]
    fn a_point_is_small() {
        assert!(size_of::<PointState>() <= 32, "{}", size_of::<PointState>());
    }
}
