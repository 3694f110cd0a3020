//! The plan by tables, and as a property over a runtime in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pod::failure::Failure;
use crate::pod::memory::{Volumes, Waiting};
use crate::pod::observed::{Container, Sandbox, State};
use crate::probe::{Outcome, Unhealthy};

const NOW: UnixMs = 1_700_000_000_000;

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap()
}

fn simple(policy: &str) -> Pod {
    pod(&json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]}))
}

fn ready() -> Memory {
    Memory { volumes: Volumes::Ready, ..Memory::default() }
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox { id: format!("s{attempt}"), attempt, ready, created_ms: NOW - 60_000, ips: Vec::new() }
}

fn container(name: &str, sandbox: &str, state: State, exit_code: i32, restarts: u32) -> Container {
    Container {
        id: format!("{name}-{sandbox}-{restarts}"),
        name: name.into(),
        sandbox_id: sandbox.into(),
        restart_count: restarts,
        state,
        created_ms: NOW - 50_000 + i64::from(restarts),
        started_ms: NOW - 50_000,
        finished_ms: if state == State::Exited { NOW - 1_000 } else { 0 },
        exit_code,
        ..Container::default()
    }
}

fn seen(sandboxes: Vec<Sandbox>, containers: Vec<Container>) -> Observed {
    Observed { sandboxes, containers }
}

fn start(name: &str, restart_count: u32) -> Step {
    Step::StartContainer { name: name.into(), sandbox_id: "s0".into(), restart_count }
}

fn plan_of(pod: &Pod, desired: Desired, seen: &Observed, memory: &Memory, now: UnixMs) -> Plan {
    plan(&View { pod, desired, seen, memory, probes: &Results::default(), failure: None, now })
}

fn steps(pod: &Pod, seen: &Observed) -> Vec<Step> {
    plan_of(pod, Desired::Run, seen, &ready(), NOW).steps
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_containers() {
    let pod = simple("Always");
    let none = Observed::default();
    assert_eq!(plan_of(&pod, Desired::Run, &none, &Memory::default(), NOW).steps, [Step::PrepareVolumes]);
    assert_eq!(steps(&pod, &none), [Step::CreateSandbox { attempt: 0 }]);
    assert_eq!(steps(&pod, &seen(vec![sandbox(0, true)], vec![])), [start("c", 0)]);
    let running = seen(vec![sandbox(0, true)], vec![container("c", "s0", State::Running, 0, 0)]);
    assert_eq!(plan_of(&pod, Desired::Run, &running, &ready(), NOW), Plan::default());
}

#[test]
fn init_containers_run_in_order_and_once() {
    let pod = pod(&json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]}));
    let with = |list: Vec<Container>| steps(&pod, &seen(vec![sandbox(0, true)], list));
    let done = |n: &str| container(n, "s0", State::Exited, 0, 0);
    assert_eq!(with(vec![]), [start("a", 0)]);
    assert_eq!(with(vec![container("a", "s0", State::Running, 0, 0)]), []);
    assert_eq!(with(vec![done("a")]), [start("b", 0)]);
    assert_eq!(with(vec![done("b"), done("a")]), [start("c", 0)]);
    // A new sandbox needs them again.
    let old = seen(vec![sandbox(1, true), sandbox(0, false)], vec![done("b"), done("a")]);
    let again = Step::StartContainer { name: "a".into(), sandbox_id: "s1".into(), restart_count: 1 };
    assert_eq!(steps(&pod, &old), [again]);
}

#[test]
fn sidecars_run_beside_and_the_next_one_begins_when_they_have_started() {
    let pod = pod(&json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "a"}], "containers": [{"name": "c"}]
    }));
    let with = |list: Vec<Container>| steps(&pod, &seen(vec![sandbox(0, true)], list));
    assert_eq!(with(vec![]), [start("side", 0)]);
    let side = container("side", "s0", State::Running, 0, 0);
    assert_eq!(with(vec![side.clone()]), [start("a", 0)]);
    let done = container("a", "s0", State::Exited, 0, 0);
    assert_eq!(with(vec![done.clone(), side]), [start("c", 0)]);
    let main = container("c", "s0", State::Running, 0, 0);
    assert_eq!(with(vec![main, done, container("side", "s0", State::Exited, 0, 0)]), [start("side", 1)]);
}

#[test]
fn the_restart_policy_decides_about_an_ended_container() {
    for (policy, exit_code, want) in [
        ("Always", 0, vec![start("c", 1)]),
        ("Always", 1, vec![start("c", 1)]),
        ("OnFailure", 1, vec![start("c", 1)]),
        // The pod has ended: its sandbox goes.
        ("OnFailure", 0, vec![Step::StopSandbox { id: "s0".into() }]),
        ("Never", 0, vec![Step::StopSandbox { id: "s0".into() }]),
        ("Never", 1, vec![Step::StopSandbox { id: "s0".into() }]),
    ] {
        let ended = seen(vec![sandbox(0, true)], vec![container("c", "s0", State::Exited, exit_code, 0)]);
        assert_eq!(steps(&simple(policy), &ended), want, "{policy} {exit_code}");
    }
}

#[test]
fn a_crash_loop_waits_longer_each_time_and_not_after_a_restart_of_the_agent() {
    let pod = simple("Always");
    for (restarts, delay) in [(0, 0), (1, 10), (2, 20), (3, 40), (9, 300)] {
        let ended = seen(vec![sandbox(0, true)], vec![container("c", "s0", State::Exited, 1, restarts)]);
        let got = plan_of(&pod, Desired::Run, &ended, &ready(), NOW);
        if delay == 0 {
            assert_eq!(got.steps, [start("c", 1)]);
        } else {
            assert_eq!((got.steps.len(), got.backing_off), (0, vec![("c".to_owned(), delay)]), "{restarts}");
            assert_eq!(got.wake_at, Some(NOW - 1_000 + delay * 1000));
        }
        // What the worker itself remembers is the same as what it finds again.
        let mut memory = ready();
        for earlier in 0..restarts {
            let earlier = seen(vec![sandbox(0, true)], vec![container("c", "s0", State::Exited, 1, earlier)]);
            note_restart(&mut memory, &earlier, "c");
        }
        let again = plan_of(&pod, Desired::Run, &ended, &memory, NOW);
        assert_eq!(again.backing_off.first().map(|b| b.1).unwrap_or(0), delay, "{restarts}");
    }
}

#[test]
fn a_container_that_ran_long_starts_again_at_once() {
    let mut long = container("c", "s0", State::Exited, 1, 5);
    long.started_ms = NOW - 700_000;
    assert_eq!(steps(&simple("Always"), &seen(vec![sandbox(0, true)], vec![long])), [start("c", 6)]);
}

#[test]
fn a_lost_sandbox_is_stopped_and_replaced() {
    let pod = simple("Always");
    let lost = seen(vec![sandbox(3, false)], vec![container("c", "s3", State::Running, 0, 7)]);
    let stop = Step::StopSandbox { id: "s3".into() };
    assert_eq!(steps(&pod, &lost), std::slice::from_ref(&stop), "how its containers end is seen first");
    let stopped = seen(vec![sandbox(3, false)], vec![container("c", "s3", State::Exited, 137, 7)]);
    assert_eq!(steps(&pod, &stopped), [stop, Step::CreateSandbox { attempt: 4 }]);
    let after = seen(vec![sandbox(4, true), sandbox(3, false)], vec![container("c", "s3", State::Exited, 137, 7)]);
    let started = Step::StartContainer { name: "c".into(), sandbox_id: "s4".into(), restart_count: 8 };
    assert_eq!(steps(&pod, &after), [started], "at once: it did not crash");
}

#[test]
fn a_changed_image_replaces_the_container_and_a_changed_hash_alone_does_not() {
    let pod = simple("Always");
    let mut running = container("c", "s0", State::Running, 0, 0);
    running.hash = "of another compiler".into();
    running.image = "i:1".into();
    let list = |c: &Container| seen(vec![sandbox(0, true)], vec![c.clone()]);
    assert_eq!(steps(&pod, &list(&running)), []);
    running.image = "i:0".into();
    let got = steps(&pod, &list(&running));
    assert!(matches!(&got[..], [Step::StopContainers(s)] if s[0].id == running.id), "{got:?}");
}

#[test]
fn an_unhealthy_container_is_stopped_with_the_grace_of_its_probe() {
    let pod = pod(&json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "c"}]}));
    let running = container("c", "s0", State::Running, 0, 0);
    let list = seen(vec![sandbox(0, true)], vec![running.clone()]);
    for (grace_s, want) in [(None, 7), (Some(0), 0), (Some(3), 3)] {
        let message = "Container c failed liveness probe, will be restarted".to_owned();
        let unhealthy = Some(Unhealthy { message: message.clone(), grace_s });
        let mut probes = Results::default();
        probes.set("c", Outcome { container_id: running.id.clone(), started: true, ready: true, unhealthy });
        let view = View {
            pod: &pod,
            desired: Desired::Run,
            seen: &list,
            memory: &ready(),
            probes: &probes,
            failure: None,
            now: NOW,
        };
        let stop =
            Stop { id: running.id.clone(), name: "c".into(), grace_s: want, reason: message, pre_stop: false, turn: 0 };
        assert_eq!(plan(&view).steps, [Step::StopContainers(vec![stop])]);
        let gone = Desired::End { deadline: NOW + 9_000 };
        assert!(
            matches!(&plan(&View { desired: gone, ..view }).steps[..], [Step::StopContainers(s)] if s[0].grace_s == 9)
        );
    }
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_the_next_one_back() {
    let pod = pod(&json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always", "startupProbe": {}}], "containers": [{"name": "c"}]
    }));
    let side = container("side", "s0", State::Running, 0, 0);
    let list = seen(vec![sandbox(0, true)], vec![side.clone()]);
    assert_eq!(steps(&pod, &list), []);
    let mut probes = Results::default();
    probes.set("side", Outcome { container_id: side.id, started: true, ready: true, unhealthy: None });
    let view = View {
        pod: &pod,
        desired: Desired::Run,
        seen: &list,
        memory: &ready(),
        probes: &probes,
        failure: None,
        now: NOW,
    };
    assert_eq!(plan(&view).steps, [start("c", 0)]);
}

#[test]
fn a_container_of_an_agent_that_ended_half_way_is_made_anew() {
    let created = container("c", "s0", State::Created, 0, 2);
    let got = steps(&simple("Always"), &seen(vec![sandbox(0, true)], vec![created.clone()]));
    assert_eq!(got, [Step::RemoveContainer { id: created.id }]);
}

#[test]
fn a_runtime_that_lost_everything_continues_the_count() {
    let mut pod = simple("Always");
    pod.status = Some(
        serde_json::from_value(json!({"containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 4, "containerID": "x://1"
        }]}))
        .unwrap(),
    );
    assert_eq!(steps(&pod, &seen(vec![sandbox(0, true)], vec![])), [start("c", 5)]);
}

#[test]
fn a_deleted_pod_ends_step_by_step() {
    let pod = simple("Always");
    let end = |seen: &Observed, memory: &Memory| {
        plan_of(&pod, Desired::End { deadline: NOW + 4_500 }, seen, memory, NOW).steps
    };
    let running = container("c", "s0", State::Running, 0, 0);
    let got = end(&seen(vec![sandbox(0, true)], vec![running.clone()]), &ready());
    assert!(matches!(&got[..], [Step::StopContainers(s)] if s[0].grace_s == 5), "{got:?}");
    let exited = container("c", "s0", State::Exited, 0, 0);
    let stop = Step::StopSandbox { id: "s0".into() };
    assert_eq!(end(&seen(vec![sandbox(0, true)], vec![exited.clone()]), &ready()), [stop]);
    assert_eq!(
        end(&seen(vec![sandbox(0, false)], vec![exited.clone()]), &ready()),
        [Step::RemoveContainer { id: exited.id }, Step::RemoveSandbox { id: "s0".into() }]
    );
    assert_eq!(end(&Observed::default(), &ready()), [Step::CleanUp]);
    assert_eq!(end(&Observed::default(), &Memory { cleaned: true, ..ready() }), [Step::Finished]);
}

#[test]
fn sidecars_end_after_the_others_in_reverse_order() {
    let pod = pod(&json!({
        "initContainers": [{"name": "a", "restartPolicy": "Always"}, {"name": "i"}, {"name": "b", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]
    }));
    let running = |name| container(name, "s0", State::Running, 0, 0);
    let list = seen(vec![sandbox(0, true)], ["c", "b", "a"].map(running).to_vec());
    let mut memory = ready();
    let turns = |memory: &Memory| match &plan_of(&pod, Desired::End { deadline: NOW }, &list, memory, NOW).steps[..] {
        [Step::StopContainers(stops)] => stops.iter().map(|s| (s.name.clone(), s.turn, s.pre_stop)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let want = |hook| vec![("c".to_owned(), 0, hook), ("b".to_owned(), 1, false), ("a".to_owned(), 2, false)];
    assert_eq!(turns(&memory), want(true));
    memory.pre_stopped.insert(running("c").id);
    assert_eq!(turns(&memory), want(false), "a hook does not begin twice");
}

#[test]
fn an_ephemeral_container_runs_once() {
    let pod = pod(&json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}],
        "ephemeralContainers": [{"name": "debug"}]}));
    let with = |list: Vec<Container>| steps(&pod, &seen(vec![sandbox(0, true)], list));
    assert_eq!(with(vec![]), [start("debug", 0), start("i", 0)], "beside init containers");
    for state in [State::Running, State::Exited, State::Unknown] {
        assert_eq!(with(vec![container("debug", "s0", state, 1, 0)]), [start("i", 0)], "{state:?}");
    }
    let created = container("debug", "s0", State::Created, 0, 0);
    assert_eq!(with(vec![created.clone()])[0], Step::RemoveContainer { id: created.id });
    let after = seen(vec![sandbox(1, true), sandbox(0, false)], vec![container("debug", "s0", State::Exited, 137, 0)]);
    let again = Step::StartContainer { name: "i".into(), sandbox_id: "s1".into(), restart_count: 0 };
    assert_eq!(steps(&pod, &after), [again], "not in a new sandbox");
}

#[test]
fn a_failure_of_the_node_stops_everything_with_its_grace() {
    let pod = pod(&json!({"terminationGracePeriodSeconds": 9, "containers": [{"name": "c"}]}));
    let list = seen(vec![sandbox(0, true)], vec![container("c", "s0", State::Running, 0, 0)]);
    for (grace_s, want) in [(None, 9), (Some(0), 0)] {
        let failure = Failure { reason: "Evicted".into(), grace_s, ..Failure::default() };
        let (memory, probes) = (ready(), Results::default());
        let view = View {
            pod: &pod,
            desired: Desired::Run,
            seen: &list,
            memory: &memory,
            probes: &probes,
            failure: Some(&failure),
            now: NOW,
        };
        let got = plan(&view).steps;
        assert!(matches!(&got[..], [Step::StopContainers(s)] if s[0].grace_s == want), "{got:?}");
        let none = Observed::default();
        assert_eq!(plan(&View { seen: &none, ..view }), Plan::default(), "nothing is started");
    }
}

#[test]
fn what_ran_already_is_not_initialized_again() {
    let pod = pod(&json!({
        "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "c"}]
    }));
    let list = seen(
        vec![sandbox(0, true)],
        vec![container("c", "s0", State::Exited, 1, 0), container("side", "s0", State::Exited, 1, 5)],
    );
    // The record of the init container is lost, and the sidecar waits for its turn.
    assert_eq!(steps(&pod, &list), [start("c", 1)]);
}

#[test]
fn what_failed_is_not_tried_before_its_time() {
    let pod = simple("Always");
    let mut memory = ready();
    memory.container("c").retry.failed(NOW, crate::pod::backoff::IMAGE);
    memory.container("c").waiting = Some(Waiting::new("ErrImagePull", ""));
    let list = seen(vec![sandbox(0, true)], vec![]);
    let got = plan_of(&pod, Desired::Run, &list, &memory, NOW);
    assert_eq!((got.steps, got.wake_at), (vec![], Some(NOW + 10_000)));
    assert_eq!(plan_of(&pod, Desired::Run, &list, &memory, NOW + 10_000).steps, [start("c", 0)]);
    let mut memory = ready();
    memory.sandbox_retry.failed(NOW, crate::pod::backoff::RETRY);
    assert_eq!(plan_of(&pod, Desired::Run, &Observed::default(), &memory, NOW).wake_at, Some(NOW + 1_000));
}

/// A runtime in memory: performs steps, and things happen to it.
#[derive(Debug, Clone)]
struct World {
    pod: Pod,
    seen: Observed,
    memory: Memory,
    desired: Option<UnixMs>,
    now: UnixMs,
    next_id: u32,
    finished: bool,
    /// Containers that were told to end.
    stopped: std::collections::BTreeSet<String>,
}

impl World {
    fn desired(&self) -> Desired {
        self.desired.map_or(Desired::Run, |deadline| Desired::End { deadline })
    }

    fn has_ended(&self) -> bool {
        has_ended(&self.view(&Results::default()))
    }

    fn view<'a>(&'a self, probes: &'a Results) -> View<'a> {
        let (pod, desired) = (&self.pod, self.desired());
        View { pod, desired, seen: &self.seen, memory: &self.memory, probes, failure: None, now: self.now }
    }

    /// One turn of the worker: the first `count` steps of the plan, then a look.
    fn turn(&mut self, count: usize) {
        let plan = plan_of(&self.pod, self.desired(), &self.seen, &self.memory, self.now);
        // P6.
        if plan.steps.is_empty() && self.memory.volumes != Volumes::Ready && self.desired.is_none() && !self.has_ended()
        {
            assert!(plan.wake_at.is_some());
        }
        for step in plan.steps.iter().take(count) {
            self.perform(step);
        }
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::PrepareVolumes => self.memory.volumes = Volumes::Ready,
            Step::CreateSandbox { attempt } => {
                assert!(self.desired.is_none() && !self.has_ended(), "P4");
                assert!(self.seen.sandboxes.iter().all(|s| s.attempt != *attempt));
                self.seen.sandboxes.insert(
                    0,
                    Sandbox { id: format!("s{attempt}"), attempt: *attempt, ready: true, ..Sandbox::default() },
                );
            }
            Step::StopSandbox { id } => {
                for s in self.seen.sandboxes.iter_mut().filter(|s| s.id == *id) {
                    s.ready = false;
                }
                self.end_containers(|c| c.sandbox_id == *id);
            }
            Step::RemoveSandbox { id } => {
                self.seen.sandboxes.retain(|s| s.id != *id);
                self.seen.containers.retain(|c| c.sandbox_id != *id);
            }
            Step::RemoveContainer { id } => {
                let gone = self.seen.containers.iter().find(|c| c.id == *id).unwrap();
                assert!(!matches!(gone.state, State::Running), "P2: a running container is not removed");
                self.seen.containers.retain(|c| c.id != *id);
            }
            Step::StopContainers(stops) => {
                for stop in stops {
                    let c = self.seen.containers.iter().find(|c| c.id == stop.id).unwrap();
                    assert!(self.desired.is_some() || self.has_ended() || c.state == State::Unknown, "P2");
                    self.stopped.insert(stop.id.clone());
                    self.end_containers(|c| c.id == stop.id);
                }
            }
            Step::StartContainer { name, sandbox_id, restart_count } => {
                assert!(self.desired.is_none() && !self.has_ended(), "P4");
                assert_eq!(self.memory.volumes, Volumes::Ready, "P1");
                assert_eq!(self.seen.ready_sandbox().map(|s| &s.id), Some(sandbox_id), "P1");
                assert!(!self.seen.running().any(|c| c.name == *name), "P3");
                note_restart(&mut self.memory, &self.seen, name);
                self.next_id += 1;
                self.seen.containers.insert(
                    0,
                    Container {
                        id: format!("c{}", self.next_id),
                        name: name.clone(),
                        sandbox_id: sandbox_id.clone(),
                        restart_count: *restart_count,
                        state: State::Running,
                        created_ms: self.now,
                        started_ms: self.now,
                        ..Container::default()
                    },
                );
            }
            Step::CleanUp => {
                assert!(self.desired.is_some() && self.seen.is_empty(), "P5");
                self.memory.cleaned = true;
            }
            Step::Finished => {
                assert!(self.memory.cleaned && self.seen.is_empty(), "P5");
                self.finished = true;
            }
        }
    }

    fn end_containers(&mut self, which: impl Fn(&Container) -> bool) {
        let now = self.now;
        for c in self.seen.containers.iter_mut().filter(|c| which(c) && c.state != State::Exited) {
            c.state = State::Exited;
            c.exit_code = 137;
            c.finished_ms = now;
        }
    }

    fn happen(&mut self, what: u8, which: usize) {
        let count = self.seen.containers.len().max(1);
        let now = self.now;
        match what {
            // Time passes.
            0 => self.now += 7_000,
            1 => self.now += 400_000,
            // A container ends, well or badly, or nobody can tell.
            2..=4 => {
                if let Some(c) = self.seen.containers.get_mut(which % count).filter(|c| c.state == State::Running) {
                    c.state = if what == 4 { State::Unknown } else { State::Exited };
                    c.exit_code = i32::from(what == 3);
                    c.finished_ms = now;
                }
            }
            // The sandbox is lost, with or without its containers.
            5 | 6 => {
                if let Some(s) = self.seen.sandboxes.first_mut() {
                    s.ready = false;
                }
                if what == 6 {
                    self.end_containers(|_| true);
                }
            }
            // The agent is restarted; the runtime lost everything; the pod is deleted.
            7 => self.memory = Memory::default(),
            8 => self.seen = Observed::default(),
            9 => self.desired = Some(self.desired.unwrap_or(now + 5_000)),
            10 => self.memory.references_changed(),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_the_invariants_hold(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        shape in 0..3_u8,
        script in prop::collection::vec((0..24_u8, 0..8_usize, 1..4_usize), 1..80),
    ) {
        let init = match shape {
            0 => json!([]),
            1 => json!([{"name": "i"}]),
            _ => json!([{"name": "side", "restartPolicy": "Always"}, {"name": "i"}]),
        };
        let spec = json!({"restartPolicy": policy, "initContainers": init, "containers": [{"name": "c"}, {"name": "d"}]});
        let mut world = World {
            pod: pod(&spec),
            seen: Observed::default(),
            memory: Memory::default(),
            desired: None,
            now: NOW,
            next_id: 0,
            finished: false,
            stopped: Default::default(),
        };
        for (what, which, count) in script {
            world.happen(what, which);
            world.turn(count);
            if world.finished {
                break;
            }
        }
        // Left alone, a pod comes to rest; deleted, it comes to its end.
        let deleted = world.clone();
        for _ in 0..200 {
            world.now += 400_000;
            let now = world.now;
            // Init containers do their work.
            for c in world.seen.containers.iter_mut().filter(|c| c.name == "i" && c.state == State::Running) {
                (c.state, c.finished_ms) = (State::Exited, now);
            }
            world.turn(9);
        }
        let rest = plan_of(&world.pod, world.desired(), &world.seen, &world.memory, world.now);
        prop_assert!(world.finished || rest.steps.is_empty(), "{rest:?}");
        if world.desired.is_none() && policy == "Always" {
            prop_assert!(world.seen.latest("c").is_some_and(|c| c.state == State::Running));
            prop_assert!(world.seen.latest("d").is_some_and(|c| c.state == State::Running));
        }
        let mut deleted = deleted;
        deleted.desired = Some(deleted.now);
        for _ in 0..20 {
            if !deleted.finished {
                deleted.turn(99);
            }
        }
        prop_assert!(deleted.finished);
    }
}
