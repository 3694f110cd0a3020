//! Tables for the rules, and random lives of a container for the invariants.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn container(probes: Value) -> Container {
    let mut spec = json!({"name": "c"});
    for (kind, probe) in probes.as_object().unwrap() {
        spec[format!("{kind}Probe")] = probe.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn running<'a>(spec: &'a Container, id: &'a str, begun: Ms) -> Running<'a> {
    Running { spec, id, begun, restarts: true, known: None }
}

/// Sees one container and steps through seconds, as the prober does.
struct Life {
    machine: Machine,
    spec: Container,
    id: String,
}

impl Life {
    fn new(probes: Value) -> Self {
        let mut life = Self { machine: Machine::default(), spec: container(probes), id: "1".into() };
        life.see(0, None);
        life
    }

    fn see(&mut self, begun: Ms, known: Option<Known>) {
        let running = Running { known, ..running(&self.spec, &self.id, begun) };
        self.machine.see(&[running], false, begun.max(0));
    }

    /// What is asked at this second, answered at once.
    fn at(&mut self, second: Ms, answer: impl Fn(Kind) -> Option<bool>) -> Vec<Kind> {
        let mut asked = Vec::new();
        // An answer may open another probe.
        loop {
            let (questions, _) = self.machine.due(second * 1000);
            if questions.is_empty() {
                return asked;
            }
            for question in questions {
                self.machine.heard(&question, answer(question.kind));
                asked.push(question.kind);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        self.machine.results().get("c").cloned().unwrap()
    }
}

#[test]
fn before_any_answer_a_container_is_alive_but_not_ready() {
    let spec = json!({"liveness": {}, "readiness": {}});
    let outcome = Life::new(spec).outcome();
    assert_eq!((outcome.started, outcome.ready, outcome.unhealthy), (true, false, None));
    let outcome = Life::new(json!({"startup": {}})).outcome();
    assert_eq!((outcome.started, outcome.ready, outcome.unhealthy), (false, true, None));
    let mut machine = Machine::default();
    machine.see(&[running(&container(json!({})), "1", 0)], false, 0);
    assert_eq!(machine.results(), Results::default(), "a container without probes has no entry");
    assert_eq!(machine.due(0), (vec![], None));
}

#[test]
fn fields_have_the_apis_defaults() {
    let mut life = Life::new(json!({"readiness": {}}));
    let asked: Vec<Ms> = (0..35).filter(|s| !life.at(*s, |_| Some(true)).is_empty()).collect();
    assert_eq!(asked, [0, 10, 20, 30]);
    assert!(life.outcome().ready, "one success is enough");
    for (second, ready) in [(40, true), (50, true), (60, false)] {
        life.at(second, |_| Some(false));
        assert_eq!(life.outcome().ready, ready, "three failures are needed");
    }
    assert_eq!(timeout(&Probe::default()), Duration::from_secs(1));
    assert_eq!(timeout(&Probe { timeout_seconds: Some(7), ..Probe::default() }), Duration::from_secs(7));
}

#[test]
fn thresholds_count_answers_in_a_row() {
    let mut life = Life::new(json!({"readiness": {"periodSeconds": 1, "successThreshold": 2, "failureThreshold": 2}}));
    let answers = [true, false, true, true, false, true, false, false];
    let ready: Vec<bool> = answers
        .iter()
        .enumerate()
        .map(|(second, answer)| {
            life.at(second as Ms, |_| Some(*answer));
            life.outcome().ready
        })
        .collect();
    assert_eq!(ready, [false, false, false, true, true, true, true, false]);
}

#[test]
fn others_wait_for_the_startup_probe() {
    let mut life = Life::new(json!({
        "startup": {"periodSeconds": 1, "failureThreshold": 5, "initialDelaySeconds": 1},
        "liveness": {"periodSeconds": 2, "initialDelaySeconds": 5},
        "readiness": {"periodSeconds": 2}
    }));
    let answer = |good: bool| move |_| Some(good);
    assert_eq!(life.at(0, answer(false)), []);
    assert_eq!(life.at(1, answer(false)), [Kind::Startup]);
    assert!(!life.outcome().started);
    assert_eq!(life.at(2, answer(true)), [Kind::Startup, Kind::Readiness], "readiness follows at once");
    assert!(life.outcome().started && life.outcome().ready);
    assert_eq!(life.at(3, answer(true)), [], "the startup probe is done");
    assert_eq!(life.at(4, answer(true)), [Kind::Readiness]);
    assert_eq!(life.at(5, answer(true)), [Kind::Liveness]);
}

#[test]
fn an_unhealthy_container_is_to_be_restarted_with_its_probes_grace() {
    let probe = json!({"periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 7});
    for (kind, name) in [("liveness", "liveness"), ("startup", "startup")] {
        let mut life = Life::new(json!({ kind: probe }));
        life.at(0, |_| Some(false));
        assert_eq!(life.outcome().unhealthy, None);
        life.at(1, |_| Some(false));
        let message = format!("Container c failed {name} probe, will be restarted");
        assert_eq!(life.outcome().unhealthy, Some(Unhealthy { message, grace_s: Some(7) }));
        assert_eq!(life.at(9, |_| Some(true)), [], "not asked again");
        life.id = "2".into();
        life.see(10_000, None);
        assert_eq!(life.outcome().unhealthy, None, "the next container begins anew");
        life.at(10, |_| Some(false));
        assert_eq!(life.outcome().unhealthy, None);
    }
    let mut machine = Machine::default();
    let spec = container(json!({"liveness": {"failureThreshold": 1}}));
    let never = Running { restarts: false, ..running(&spec, "1", 0) };
    machine.see(std::slice::from_ref(&never), false, 0);
    let (questions, _) = machine.due(0);
    assert!(machine.heard(&questions[0], Some(false)));
    let unhealthy = machine.results().get("c").unwrap().unhealthy.clone().unwrap();
    assert_eq!(unhealthy, Unhealthy { message: "Container c failed liveness probe".into(), grace_s: None });
    machine.see(&[never], true, 0);
    assert_eq!(machine.results().get("c").unwrap().unhealthy, None, "it ends anyway");
}

#[test]
fn a_pod_that_ends_is_asked_for_readiness_only() {
    let spec = container(json!({"liveness": {"periodSeconds": 1}, "readiness": {"periodSeconds": 1}}));
    let mut machine = Machine::default();
    machine.see(&[running(&spec, "1", 0)], false, 0);
    let (questions, _) = machine.due(0);
    assert_eq!(questions.len(), 2);
    machine.see(&[running(&spec, "1", 0)], true, 500);
    let wanted: Vec<Kind> = questions.iter().filter(|q| machine.wants(q)).map(|q| q.kind).collect();
    assert_eq!(wanted, [Kind::Readiness]);
    for question in &questions {
        machine.heard(question, Some(true));
    }
    let (questions, _) = machine.due(1000);
    assert_eq!(questions.iter().map(|q| q.kind).collect::<Vec<_>>(), [Kind::Readiness]);
    assert!(machine.heard(&questions[0], None) == machine.heard(&questions[0], None), "neither changes anything");
}

#[test]
fn a_restart_of_the_agent_keeps_what_was_known_and_spreads_the_questions() {
    let probes = json!({"startup": {}, "readiness": {"periodSeconds": 20, "failureThreshold": 2}});
    let mut life = Life::new(probes);
    life.machine = Machine::default();
    life.see(-60_000, Some(Known { started: true, ready: true }));
    let outcome = life.outcome();
    assert!(outcome.started && outcome.ready);
    let mut first = None;
    for second in 0..=40 {
        let asked = life.at(second, |_| Some(false));
        assert!(!asked.contains(&Kind::Startup), "it had started");
        if !asked.is_empty() && first.is_none() {
            first = Some(second);
            assert!(life.outcome().ready, "not by one failure");
        }
    }
    assert!(first.unwrap() <= 20);
    assert!(!life.outcome().ready);
    let next = |id: &str| {
        let mut machine = Machine::default();
        machine.see(&[running(&life.spec, id, -1)], false, 0);
        machine.due(0).1.unwrap()
    };
    let times: std::collections::BTreeSet<Ms> = ["a", "b", "c", "d", "e"].into_iter().map(next).collect();
    assert!(times.len() > 3, "{times:?}");
}

#[derive(Debug, Clone)]
enum Act {
    /// Time passes, in milliseconds.
    Wait(Ms),
    /// The oldest open question is answered.
    Answer(Option<bool>),
    /// The container ended and the next one runs.
    Restart,
    End,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..3000i64).prop_map(Act::Wait),
        8 => prop_oneof![4 => Just(Some(true)), 4 => Just(Some(false)), 1 => Just(None)].prop_map(Act::Answer),
        1 => Just(Act::Restart),
        1 => Just(Act::End),
    ];
    prop::collection::vec(act, 0..200)
}

fn probe() -> impl Strategy<Value = Value> {
    (0..4i32, 1..4i32, 1..4i32, 1..4i32).prop_map(|(delay, period, successes, failures)| {
        json!({"initialDelaySeconds": delay, "periodSeconds": period, "successThreshold": successes,
               "failureThreshold": failures})
    })
}

/// What is known of one probe from the questions and answers alone.
#[derive(Default)]
struct Log {
    asked: Vec<Ms>,
    answers: Vec<bool>,
    open: usize,
}

impl Log {
    fn all_last(&self, count: i32, good: bool) -> bool {
        let count = usize::try_from(count).unwrap();
        self.answers.len() >= count && self.answers.iter().rev().take(count).all(|a| *a == good)
    }
}

proptest! {
    #[test]
    fn invariants_hold_in_any_life(
        startup in prop::option::of(probe()),
        liveness in prop::option::of(probe()),
        readiness in prop::option::of(probe()),
        acts in acts(),
    ) {
        let mut probes = json!({});
        for (name, probe) in [("startup", &startup), ("liveness", &liveness), ("readiness", &readiness)] {
            if let Some(probe) = probe {
                probes[name] = probe.clone();
            }
        }
        let spec = container(probes);
        let field = |kind: Kind, name: &str| serde_json::to_value(kind.of(&spec)).unwrap()[name].as_i64().unwrap() as i32;
        let (mut now, mut begun, mut ending, mut generation) = (0, 0, false, 0);
        let mut machine = Machine::default();
        let mut logs: BTreeMap<Kind, Log> = BTreeMap::new();
        let mut open: Vec<Question> = Vec::new();
        machine.see(&[running(&spec, "0", 0)], false, 0);
        for act in acts {
            let before = machine.results();
            let id = generation.to_string();
            let outcome = |results: &Results| results.get("c").cloned();
            match act {
                Act::Wait(time) => now += time,
                Act::Restart => {
                    generation += 1;
                    begun = now;
                    logs.clear();
                    machine.see(&[running(&spec, &generation.to_string(), begun)], ending, now);
                }
                Act::End => {
                    ending = true;
                    machine.see(&[running(&spec, &id, begun)], true, now);
                }
                Act::Answer(answer) if !open.is_empty() => {
                    let question = open.remove(0);
                    let current = question.container_id == id;
                    let counts = current && (!ending || question.kind == Kind::Readiness);
                    prop_assert_eq!(machine.wants(&question), counts);
                    let changed = machine.heard(&question, answer);
                    prop_assert!(!changed || (counts && answer.is_some()), "M5");
                    if current {
                        let log = logs.get_mut(&question.kind).unwrap();
                        log.open -= 1;
                        if let Some(good) = answer.filter(|_| counts) {
                            log.answers.push(good);
                        }
                    }
                    let after = outcome(&machine.results());
                    if let (Some(was), Some(is)) = (outcome(&before), after) {
                        if was.ready != is.ready {
                            let threshold = if is.ready { "successThreshold" } else { "failureThreshold" };
                            let log = &logs[&Kind::Readiness];
                            prop_assert!(log.all_last(field(Kind::Readiness, threshold), is.ready), "M1");
                        }
                        if was.started != is.started {
                            prop_assert!(is.started, "it does not unstart");
                            let log = &logs[&Kind::Startup];
                            prop_assert!(log.all_last(field(Kind::Startup, "successThreshold"), true), "M1");
                        }
                        if was.unhealthy.is_none() && is.unhealthy.is_some() {
                            let log = &logs[&question.kind];
                            prop_assert!(log.all_last(field(question.kind, "failureThreshold"), false), "M1");
                        }
                    }
                }
                Act::Answer(_) => {}
            }
            let seen = outcome(&machine.results());
            let (questions, wake) = machine.due(now);
            prop_assert!(wake.is_none_or(|at| at > now));
            for question in questions {
                let log = logs.entry(question.kind).or_default();
                let seen = seen.clone().unwrap();
                prop_assert_eq!(log.open, 0, "M3");
                let period = Ms::from(field(question.kind, "periodSeconds")) * 1000;
                prop_assert!(log.asked.last().is_none_or(|last| last + period <= now), "M3");
                let delay = Ms::from(field(question.kind, "initialDelaySeconds")) * 1000;
                prop_assert!(begun + delay <= now, "M2");
                prop_assert_eq!(question.kind == Kind::Startup, !seen.started, "M2");
                prop_assert!(question.kind == Kind::Readiness || seen.unhealthy.is_none(), "M4");
                prop_assert!(question.kind == Kind::Readiness || !ending, "M6");
                log.asked.push(now);
                log.open += 1;
                open.push(question);
            }
        }
    }
}
