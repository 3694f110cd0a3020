//! Tables and properties of the schedule: a simulated line, in simulated time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::{Effects, Job, Moment, Next, Outcome, Schedule, Time};
use crate::definition::{Definition, Desired, Wishes};
use crate::report::{DeviceState, Report};
use crate::{DataType, DeviceKey, Fault, Quality, Sample, Value};

const MS: Duration = Duration::from_millis(1);
const CYCLE: Duration = Duration::from_secs(1);

/// Devices that hold one number, and how they behave.
#[derive(Default)]
struct World {
    values: BTreeMap<DeviceKey, i64>,
    /// What a call costs and comes to; without an entry it costs a millisecond and works.
    faults: BTreeMap<DeviceKey, (Duration, Fault)>,
    refuses: BTreeMap<DeviceKey, String>,
    /// Takes writes and does nothing.
    stubborn: bool,
    cut: bool,
    tells: bool,
}

struct Sim {
    schedule: Schedule,
    now: Time,
    world: World,
    reads: BTreeMap<DeviceKey, Vec<Time>>,
    writes: Vec<(Time, DeviceKey, Value)>,
    connects: Vec<Time>,
    calls: BTreeMap<DeviceKey, usize>,
    reports: BTreeMap<DeviceKey, Vec<(Time, Arc<Report>)>>,
    states: BTreeMap<DeviceKey, Vec<(Time, DeviceState, String)>>,
    skipped: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            schedule: Schedule::new(seed),
            now: Time::ZERO,
            world: World::default(),
            reads: BTreeMap::new(),
            writes: Vec::new(),
            connects: Vec::new(),
            calls: BTreeMap::new(),
            reports: BTreeMap::new(),
            states: BTreeMap::new(),
            skipped: 0,
        }
    }

    fn add(&mut self, name: &str, desired: Option<&str>) -> DeviceKey {
        let mut definition = Definition::new("d", name, json!({})).property("n", DataType::Int, json!({}));
        Arc::make_mut(&mut definition.properties[0]).report_cycle = CYCLE * 5;
        let key = definition.key.clone();
        self.world.values.entry(key.clone()).or_insert(0);
        self.schedule.set(
            self.now,
            Arc::new(definition),
            &desired.map(|value| (0, wanted(value))).into_iter().collect(),
        );
        key
    }

    fn run(&mut self, until: Time) {
        while self.now < until {
            let mut effects = Effects::default();
            let next = self.schedule.next(self.now, &mut effects);
            self.take(effects);
            match next {
                Next::Run(job) => self.work(&job),
                Next::Wait(at) => {
                    let at = at.unwrap_or(until);
                    assert!(at > self.now, "waits for {at:?} at {:?}", self.now);
                    self.now = at.min(until);
                }
            }
        }
    }

    fn work(&mut self, job: &Job) {
        let key = job.device().clone();
        *self.calls.entry(key.clone()).or_default() += 1;
        let (cost, fault) = match self.world.faults.get(&key) {
            Some((cost, fault)) => (*cost, Some(fault.clone())),
            None => (MS, None),
        };
        let fault = if self.world.cut { Some(Fault::Lost("cut".into())) } else { fault };
        let line = fault.clone().filter(|fault| matches!(fault, Fault::Lost(_) | Fault::Config(_)));
        self.now += if matches!(job, Job::Connect(_)) { MS } else { cost };
        let outcome = match job {
            Job::Connect(_) => {
                self.connects.push(self.now);
                Outcome::Done(line.map_or(Ok(()), Err))
            }
            Job::Subscribe(_) => Outcome::Subscribed(fault.map_or(Ok(self.world.tells), Err)),
            Job::Check(_) => Outcome::Done(fault.map_or(Ok(()), Err)),
            Job::Read(_, points) => {
                self.reads.entry(key.clone()).or_default().push(self.now);
                let value = self.world.values[&key];
                Outcome::Samples(fault.map_or_else(|| Ok(vec![Sample::good(value); points.len()]), Err))
            }
            Job::Write(_, _, value) => {
                self.writes.push((self.now, key.clone(), value.clone()));
                let refused = self.world.refuses.get(&key).map(|words| Fault::Refused(words.clone()));
                let result = fault.or(refused).map_or(Ok(()), Err);
                if let (Ok(()), Value::Int(value), false) = (&result, value, self.world.stubborn) {
                    self.world.values.insert(key.clone(), *value);
                }
                Outcome::Done(result)
            }
        };
        let mut effects = Effects::default();
        self.schedule.done(self.moment(), job, outcome, &mut effects);
        self.take(effects);
    }

    fn moment(&self) -> Moment {
        Moment { time: self.now, unix_ms: 1_000_000 + i64::try_from(self.now.as_millis()).unwrap() }
    }

    fn take(&mut self, effects: Effects) {
        self.skipped += effects.skipped;
        for (definition, reports) in effects.reports {
            let list = self.reports.entry(definition.key.clone()).or_default();
            list.extend(reports.into_iter().map(|(_, report)| (self.now, report)));
        }
        for (definition, state, reason) in effects.states {
            self.states.entry(definition.key.clone()).or_default().push((self.now, state, reason));
        }
    }

    fn gaps(&self, key: &DeviceKey) -> Duration {
        let reads = &self.reads[key];
        reads.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn last(&self, key: &DeviceKey) -> &Report {
        &self.reports[key].last().unwrap().1
    }

    fn state(&self, key: &DeviceKey) -> DeviceState {
        self.states[key].last().unwrap().1
    }
}

fn wanted(value: &str) -> Desired {
    Desired { value: value.into(), version: format!("v{value}") }
}

#[test]
fn a_device_is_read_at_once_and_then_in_its_cycle_and_reported_in_its_own() {
    let mut sim = Sim::new(1);
    let a = sim.add("a", None);
    sim.run(CYCLE * 21);
    assert!(sim.reads[&a][0] < 10 * MS);
    assert!((20..=23).contains(&sim.reads[&a].len()), "{:?}", sim.reads[&a]);
    assert!(sim.gaps(&a) <= CYCLE + 10 * MS, "{:?}", sim.gaps(&a));
    // Unchanged: at the start and each five seconds.
    assert!((4..=6).contains(&sim.reports[&a].len()), "{:?}", sim.reports[&a]);
    sim.world.values.insert(a.clone(), 7);
    sim.run(CYCLE * 22 + 100 * MS);
    assert_eq!(sim.last(&a).value, Some(Value::Int(7)));
    assert_eq!(sim.states[&a].len(), 1, "{:?}", sim.states[&a]);
}

#[test]
fn polls_that_were_missed_are_skipped_and_counted_not_done_in_a_burst() {
    let mut sim = Sim::new(2);
    let a = sim.add("a", None);
    sim.run(CYCLE * 3);
    let before = sim.reads[&a].len();
    // Somebody held the line for ten seconds.
    sim.now += CYCLE * 10;
    sim.run(sim.now + CYCLE);
    assert!(sim.reads[&a].len() - before <= 2, "{:?}", sim.reads[&a]);
    assert!((9..=10).contains(&sim.skipped), "{}", sim.skipped);
}

#[test]
fn a_dead_device_among_thirty_does_not_stop_the_others() {
    let mut sim = Sim::new(3);
    let keys: Vec<_> = (0..30).map(|n| sim.add(&format!("d{n:02}"), None)).collect();
    let dead = keys[7].clone();
    sim.world.faults.insert(dead.clone(), (500 * MS, Fault::Silent("nothing".into())));
    sim.run(CYCLE * 120);
    for key in keys.iter().filter(|key| **key != dead) {
        assert!(sim.gaps(key) < CYCLE * 2, "{key}: {:?}", sim.gaps(key));
        assert_eq!(sim.state(key), DeviceState::Online);
    }
    assert_eq!(sim.state(&dead), DeviceState::Offline);
    assert!((4..20).contains(&sim.calls[&dead]), "{:?}", sim.calls);
    assert_eq!(sim.last(&dead).quality, Quality::Bad);
    sim.world.faults.clear();
    sim.run(CYCLE * 155);
    assert_eq!(sim.state(&dead), DeviceState::Online);
    assert_eq!(sim.last(&dead).quality, Quality::Good);
}

#[test]
fn a_cut_that_heals_at_once_is_not_an_outage_and_a_long_one_ends_within_two_seconds() {
    let mut sim = Sim::new(4);
    let (a, b) = (sim.add("a", None), sim.add("b", None));
    sim.run(CYCLE * 3);
    // One read fails, the next connection works.
    sim.world.faults.insert(a.clone(), (MS, Fault::Lost("reset".into())));
    while sim.schedule.is_up() {
        sim.run(sim.now + 10 * MS);
        if sim.connects.len() > 1 {
            break;
        }
    }
    sim.world.faults.clear();
    sim.run(CYCLE * 6);
    assert_eq!((sim.state(&a), sim.state(&b)), (DeviceState::Online, DeviceState::Online));
    for outage in 0..20 {
        sim.world.cut = true;
        sim.run(sim.now + CYCLE * 10);
        assert_eq!(sim.state(&b), DeviceState::Offline, "{outage}");
        assert_eq!(sim.last(&a).quality, Quality::Uncertain);
        let attempts = sim.connects.len();
        sim.world.cut = false;
        let back = sim.now;
        sim.run(sim.now + CYCLE * 2);
        assert_eq!(sim.last(&a).quality, Quality::Good, "{outage}");
        assert_eq!(sim.last(&b).quality, Quality::Good, "{outage}");
        assert!(sim.reads[&a].last().unwrap() > &back);
        assert_eq!(sim.connects.len(), attempts + 1);
    }
    sim.world.cut = true;
    let attempts = sim.connects.len();
    sim.run(sim.now + Duration::from_secs(24 * 3600));
    assert!(sim.connects.len() - attempts < 10_000, "{}", sim.connects.len() - attempts);
}

#[test]
fn a_desired_value_that_the_device_has_is_not_written_and_another_is_once() {
    let mut sim = Sim::new(5);
    let (has, other) = (DeviceKey::new("d", "has"), DeviceKey::new("d", "other"));
    sim.world.values.insert(has.clone(), 5);
    sim.add("has", Some("5"));
    sim.add("other", Some("5"));
    sim.run(CYCLE * 10);
    assert_eq!(sim.writes.iter().map(|(_, key, _)| key).collect::<Vec<_>>(), [&other]);
    for key in [&has, &other] {
        let outcome = sim.last(key).outcome.clone().unwrap();
        assert_eq!((outcome.version.as_str(), &outcome.refused), ("v5", &None));
    }
    // The same again, also with a new definition: nothing is written.
    sim.schedule.want(sim.now, &other, 0, Some(&wanted("5")));
    sim.add("other", Some("5"));
    sim.run(CYCLE * 20);
    assert_eq!(sim.writes.len(), 1);
    // Somebody turns it by hand: it is shown, and not fought.
    sim.world.values.insert(other.clone(), 9);
    sim.run(CYCLE * 30);
    assert_eq!((sim.writes.len(), sim.last(&other).value.clone()), (1, Some(Value::Int(9))));
    // Another wish is written at once.
    let asked = sim.now;
    sim.schedule.want(sim.now, &other, 0, Some(&wanted("6")));
    sim.run(asked + 100 * MS);
    assert_eq!(sim.writes.len(), 2);
    assert_eq!(sim.last(&other).value, Some(Value::Int(6)));
    assert_eq!(sim.last(&other).outcome.as_ref().unwrap().version, "v6");
}

#[test]
fn what_is_refused_is_told_in_the_devices_words_and_not_repeated() {
    let mut sim = Sim::new(6);
    let a = sim.add("a", None);
    sim.world.refuses.insert(a.clone(), "illegal data value".into());
    sim.run(CYCLE * 2);
    sim.schedule.want(sim.now, &a, 0, Some(&wanted("5")));
    sim.run(CYCLE * 20);
    assert_eq!(sim.writes.len(), 1);
    assert_eq!(sim.last(&a).outcome.as_ref().unwrap().refused.as_deref(), Some("illegal data value"));
    assert_eq!(sim.state(&a), DeviceState::Online);
    // Neither what the model does not allow.
    sim.schedule.want(sim.now, &a, 0, Some(&wanted("warm")));
    sim.run(CYCLE * 21);
    assert_eq!(sim.writes.len(), 1);
    let words = sim.last(&a).outcome.as_ref().unwrap().refused.clone().unwrap();
    assert_eq!(words, "\"warm\" is not a whole number of 64 bits");
    // A write that the device ignores is found out.
    sim.world.refuses.clear();
    sim.world.stubborn = true;
    sim.schedule.want(sim.now, &a, 0, Some(&wanted("7")));
    sim.run(sim.now + CYCLE * 7);
    assert_eq!(sim.writes.len(), 2);
    let words = sim.last(&a).outcome.as_ref().unwrap().refused.clone().unwrap();
    assert_eq!(words, "7 was written and the device has 0");
    // It does it later after all.
    sim.world.values.insert(a.clone(), 7);
    sim.run(sim.now + CYCLE * 2);
    assert_eq!(sim.last(&a).outcome.as_ref().unwrap().refused, None);
}

#[test]
fn a_write_that_was_cut_is_done_again_until_the_device_has_it() {
    let mut sim = Sim::new(7);
    let a = sim.add("a", None);
    sim.run(CYCLE * 2);
    sim.world.cut = true;
    sim.schedule.want(sim.now, &a, 0, Some(&wanted("5")));
    sim.run(CYCLE * 8);
    sim.world.cut = false;
    sim.run(CYCLE * 12);
    assert_eq!(sim.world.values[&a], 5);
    assert_eq!(sim.last(&a).outcome.as_ref().unwrap().refused, None);
}

#[test]
fn a_wrong_description_is_not_tried_again_until_it_changes() {
    let mut sim = Sim::new(8);
    let (wrong, right) = (sim.add("a-wrong", None), sim.add("b-right", None));
    sim.world.faults.insert(wrong.clone(), (MS, Fault::Config("no such unit".into())));
    sim.run(CYCLE * 20);
    assert!(sim.reads.get(&wrong).map_or(0, Vec::len) <= 1);
    assert_eq!(sim.states[&wrong].last().unwrap().1, DeviceState::Unhealthy);
    assert_eq!(sim.state(&right), DeviceState::Online);
    sim.world.faults.clear();
    sim.add("a-wrong", None);
    sim.run(CYCLE * 22);
    assert_eq!(sim.state(&wrong), DeviceState::Online);
}

#[test]
fn a_device_that_tells_by_itself_is_not_polled_and_stays_fresh() {
    let mut sim = Sim::new(9);
    sim.world.tells = true;
    let a = sim.add("a", None);
    sim.run(CYCLE);
    assert!(sim.reads.is_empty());
    let mut effects = Effects::default();
    sim.schedule.told(sim.moment(), &a, vec![(0, Sample::good(3_i64))], &mut effects);
    sim.take(effects);
    sim.run(CYCLE * 31);
    assert!(sim.reads.is_empty());
    assert!((5..=8).contains(&sim.reports[&a].len()), "{:?}", sim.reports[&a]);
    // Its line is lost: what it told is doubtful, and it is asked to tell again.
    sim.world.cut = true;
    sim.run(CYCLE * 45);
    assert_eq!(sim.last(&a).quality, Quality::Uncertain);
    assert_eq!(sim.state(&a), DeviceState::Offline);
}

#[test]
fn a_late_call_costs_the_line_nothing_but_a_new_connection() {
    let mut sim = Sim::new(10);
    let (a, b) = (sim.add("a", None), sim.add("b", None));
    sim.run(CYCLE);
    let mut effects = Effects::default();
    sim.schedule.done(sim.moment(), &Job::Read(a.clone(), vec![0]), Outcome::Late(CYCLE * 5), &mut effects);
    sim.take(effects);
    assert!(!sim.schedule.is_up());
    assert_eq!((sim.state(&a), sim.state(&b)), (DeviceState::Offline, DeviceState::Online));
    sim.run(CYCLE * 5);
    assert_eq!((sim.state(&a), sim.state(&b)), (DeviceState::Online, DeviceState::Online));
    assert!(sim.states[&b].iter().all(|(_, state, _)| *state == DeviceState::Online));
}

#[test]
fn a_state_is_told_again_in_its_cycle() {
    let mut sim = Sim::new(11);
    let mut definition = Definition::new("d", "a", json!({})).property("n", DataType::Int, json!({}));
    definition.state_cycle = CYCLE * 2;
    let key = definition.key.clone();
    sim.world.values.insert(key.clone(), 0);
    sim.schedule.set(sim.now, Arc::new(definition), &Wishes::new());
    sim.run(CYCLE * 21);
    assert!((9..=13).contains(&sim.states[&key].len()), "{:?}", sim.states[&key]);
}

#[derive(Debug, Clone)]
enum Event {
    Fault(usize, u8),
    Heal,
    Cut(bool),
    Want(usize, i64),
    Replace(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..4_usize, 0..3_u8).prop_map(|(device, kind)| Event::Fault(device, kind)),
        Just(Event::Heal),
        any::<bool>().prop_map(Event::Cut),
        (0..4_usize, 0..5_i64).prop_map(|(device, value)| Event::Want(device, value)),
        (0..4_usize).prop_map(Event::Replace),
        (1..8000_u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happened, when it is over all devices are read, online and have what was wanted last; and no
    /// version was written again after the device had taken it.
    #[test]
    fn it_always_comes_to_rest(seed: u64, events in proptest::collection::vec(event(), 1..40)) {
        let mut sim = Sim::new(seed);
        let names = ["a", "b", "c", "d"];
        let mut last: BTreeMap<usize, i64> = BTreeMap::new();
        let keys: Vec<_> = names.iter().map(|name| sim.add(name, None)).collect();
        for event in events {
            match event {
                Event::Fault(device, kind) => {
                    let fault = match kind {
                        0 => Fault::Lost("x".into()),
                        1 => Fault::Silent("x".into()),
                        _ => Fault::Refused("x".into()),
                    };
                    sim.world.faults.insert(keys[device].clone(), (100 * MS, fault));
                }
                Event::Heal => sim.world.faults.clear(),
                Event::Cut(cut) => sim.world.cut = cut,
                Event::Want(device, value) => {
                    last.insert(device, value);
                    let text = value.to_string();
                    sim.schedule.want(sim.now, &keys[device], 0, Some(&wanted(&text)));
                }
                Event::Replace(device) => {
                    let text = last.get(&device).map(ToString::to_string);
                    sim.add(names[device], text.as_deref());
                }
                Event::Pass(ms) => sim.run(sim.now + Duration::from_millis(ms)),
            }
        }
        sim.world.faults.clear();
        sim.world.cut = false;
        // What was refused while the device was faulty stays refused: say it anew.
        for (device, value) in &last {
            sim.schedule.want(sim.now, &keys[*device], 0, None);
            sim.schedule.want(sim.now, &keys[*device], 0, Some(&wanted(&value.to_string())));
        }
        sim.run(sim.now + Duration::from_secs(45));
        let settled = sim.writes.len();
        let from = sim.now;
        sim.run(sim.now + Duration::from_secs(20));
        prop_assert_eq!(sim.writes.len(), settled, "written again");
        for (device, key) in keys.iter().enumerate() {
            prop_assert_eq!(sim.state(key), DeviceState::Online);
            prop_assert_eq!(sim.last(key).quality, Quality::Good);
            let late = sim.reads[key].iter().filter(|at| **at >= from).count();
            prop_assert!((18..=22).contains(&late), "{} reads of {}", late, key);
            if let Some(value) = last.get(&device) {
                prop_assert_eq!(sim.world.values[key], *value);
            }
        }
    }
}
