//! The plan as a property over a runtime in memory to which anything happens.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::tests::{NOW, pod};
use super::*;
use crate::pod::failure::Failure;
use crate::pod::labels;
use crate::pod::memory::Volumes;
use crate::pod::observed::{Container, Sandbox, State};
use crate::pod::resize;
use crate::pod::spec::PodExt;
use crate::probe::{Outcome, Unhealthy};

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
    failure: Option<Failure>,
    probes: Results,
    /// Starts of the ephemeral container that the runtime still knows of.
    debugged: u32,
    /// Containers that were told to end.
    stopped: std::collections::BTreeSet<String>,
}

impl World {
    fn desired(&self) -> Desired {
        self.desired.map_or(Desired::Run, |deadline| Desired::End { deadline })
    }

    fn has_ended(&self) -> bool {
        has_ended(&self.view())
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            desired: self.desired(),
            seen: &self.seen,
            memory: &self.memory,
            probes: &self.probes,
            failure: self.failure.as_ref(),
            now: self.now,
        }
    }

    /// One turn of the worker: the first `count` steps of the plan, then a look.
    fn turn(&mut self, count: usize) {
        let plan = plan(&self.view());
        // P8.
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
                    let ending = self.desired.is_some() || self.has_ended();
                    assert!(ending || c.state == State::Unknown || self.probes.unhealthy(c).is_some(), "P2");
                    let before = |name: &str| stops.iter().any(|s| s.name == name && s.turn < stop.turn);
                    let mut others = self.seen.running().filter(|c| ["c", "d", "i"].contains(&c.name.as_str()));
                    assert!(!ending || stop.name != "side" || others.all(|c| before(&c.name)), "P6");
                    drop(others);
                    self.stopped.insert(stop.id.clone());
                    if stop.restart {
                        self.memory.container(&stop.name).restart = Some(stop.id.clone());
                    }
                    self.end_containers(|c| c.id == stop.id);
                }
            }
            Step::ResizeContainer { id, name } => {
                assert!(self.desired.is_none() && !self.has_ended());
                assert!(self.seen.running().any(|c| c.id == *id), "only what runs");
                let spec = self.pod.container(name).unwrap();
                self.memory.container(name).resized = Some((id.clone(), resize::text(&spec)));
            }
            Step::StartContainer { name, sandbox_id, restart_count } => {
                self.debugged += u32::from(name == "debug");
                assert!(self.debugged <= 1, "P7");
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
                        hash: labels::hash(&self.pod.container(name).unwrap()),
                        resources: resize::text(&self.pod.container(name).unwrap()),
                        ..Container::default()
                    },
                );
            }
            Step::StartCreated { id, name, .. } => {
                assert!(self.desired.is_none() && !self.has_ended(), "P4");
                assert!(!self.seen.running().any(|c| c.name == *name), "P3");
                let ready = self.seen.ready_sandbox().map(|s| s.id.clone());
                let created = self.seen.containers.iter_mut().find(|c| c.id == *id).unwrap();
                assert_eq!((created.state, Some(&created.sandbox_id)), (State::Created, ready.as_ref()), "P1");
                created.state = State::Running;
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
            8 => {
                self.seen = Observed::default();
                self.debugged = 0;
            }
            9 => self.desired = Some(self.desired.unwrap_or(now + 5_000)),
            10 => self.memory.references_changed(),
            // A probe fails; the node ends the pod; somebody debugs it; its resources change.
            11 => {
                if let Some(c) = self.seen.containers.get(which % count).filter(|c| c.name != "debug") {
                    let unhealthy = Some(Unhealthy::default());
                    let outcome = Outcome { container_id: c.id.clone(), started: true, ready: true, unhealthy };
                    self.probes.set(&c.name, outcome);
                }
            }
            12 if which == 0 => {
                self.failure.get_or_insert(Failure { reason: "Evicted".into(), ..Failure::default() });
            }
            13 => {
                let debug = serde_json::from_value(json!([{"name": "debug"}])).unwrap();
                self.pod.spec.as_mut().unwrap().ephemeral_containers = Some(debug);
            }
            14 => {
                let cpu = json!({"requests": {"cpu": which.to_string()}});
                let first = self.pod.spec.as_mut().unwrap().containers.first_mut().unwrap();
                first.resources = serde_json::from_value(cpu).unwrap();
            }
            // The agent was killed before the container had started.
            15 => {
                if let Some(c) = self.seen.containers.get_mut(which % count).filter(|c| c.state == State::Running) {
                    c.state = State::Created;
                }
            }
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
        script in prop::collection::vec((0..30_u8, 0..8_usize, 1..4_usize), 1..80),
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
            failure: None,
            probes: Results::default(),
            debugged: 0,
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
        let rest = plan(&world.view());
        prop_assert!(world.finished || rest.steps.is_empty(), "{rest:?}");
        if world.desired.is_none() && policy == "Always" && world.failure.is_none() {
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
