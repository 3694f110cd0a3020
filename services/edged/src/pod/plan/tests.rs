//! The plan by tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::pod::failure::Failure;
use crate::pod::labels;
use crate::pod::memory::{Volumes, Waiting};
use crate::pod::observed::{Container, Sandbox, State};
use crate::pod::spec::PodExt;
use crate::probe::{Outcome, Unhealthy};

pub(super) const NOW: UnixMs = 1_700_000_000_000;

pub(super) fn pod(spec: &Value) -> Pod {
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

/// What becomes of a container that a probe, another image or a failed hook stops, and that ends well then.
#[test]
fn a_container_that_was_stopped_to_be_restarted_is_restarted_whatever_it_ends_with() {
    let list = |c: &Container| seen(vec![sandbox(0, true)], vec![c.clone()]);
    let running = container("c", "s0", State::Running, 0, 0);
    for (policy, why, restart) in [
        ("Always", "probe", true),
        ("OnFailure", "probe", true),
        ("Never", "probe", false),
        ("OnFailure", "image", true),
        ("Never", "image", true),
        ("OnFailure", "hook", false),
        ("Never", "hook", false),
    ] {
        let pod = simple(policy);
        let (mut running, mut memory, mut probes) = (running.clone(), ready(), Results::default());
        match why {
            "probe" => {
                let unhealthy = Some(Unhealthy::default());
                let outcome = Outcome { container_id: running.id.clone(), started: true, ready: true, unhealthy };
                probes.set("c", outcome);
            }
            "image" => (running.hash, running.image) = ("old".into(), "i:0".into()),
            _ => memory.container("c").hook_failed = Some(running.id.clone()),
        }
        let look = |seen: &Observed, memory: &Memory, now| {
            let failure = None;
            let view = View { pod: &pod, desired: Desired::Run, seen, memory, probes: &probes, failure, now };
            (plan(&view), has_ended(&view))
        };
        let (got, _) = look(&list(&running), &memory, NOW);
        let [Step::StopContainers(stops)] = &got.steps[..] else { panic!("{policy} {why}: {got:?}") };
        assert_eq!(stops[0].restart, restart, "{policy} {why}");
        // The runtime did not stop it: it is tried again, not at once.
        memory.stop_retry.failed(NOW, crate::pod::backoff::RETRY);
        let (got, _) = look(&list(&running), &memory, NOW);
        assert_eq!((got.steps, got.wake_at), (vec![], Some(NOW + 1_000)), "{policy} {why}");
        if restart {
            memory.container("c").restart = Some(running.id.clone());
        }
        let ended = list(&Container { state: State::Exited, finished_ms: NOW - 1_000, ..running });
        let (got, over) = look(&ended, &memory, NOW + 1_000);
        assert_eq!(over, !restart, "{policy} {why}");
        let next = if restart { start("c", 1) } else { Step::StopSandbox { id: "s0".into() } };
        assert_eq!(got.steps, [next], "{policy} {why}");
    }
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
        let stop = Stop {
            id: running.id.clone(),
            name: "c".into(),
            grace_s: want,
            reason: message,
            pre_stop: false,
            turn: 0,
            restart: true,
        };
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
fn a_container_of_an_agent_that_ended_half_way_is_started_and_not_made_anew() {
    let pod = simple("Always");
    let mut created = container("c", "s0", State::Created, 0, 2);
    created.hash = labels::hash(&pod.container("c").unwrap());
    let all = |c: &Container| seen(vec![sandbox(0, true)], vec![c.clone()]);
    let start = Step::StartCreated { id: created.id.clone(), name: "c".into(), restart_count: 2 };
    assert_eq!(steps(&pod, &all(&created)), [start]);
    // It is starting at this moment: looked at again later.
    let mut memory = ready();
    let at = memory.container("c").retry.failed(NOW, crate::pod::backoff::RETRY);
    assert!(at > 0);
    let plan = plan_of(&pod, Desired::Run, &all(&created), &memory, NOW);
    assert_eq!((plan.steps.len(), plan.wake_at.is_some()), (0, true));
    created.hash = "of an older spec".into();
    assert_eq!(steps(&pod, &all(&created)), [Step::RemoveContainer { id: created.id }]);
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
    let mut created = container("debug", "s0", State::Created, 0, 0);
    created.hash = labels::hash(&pod.container("debug").unwrap());
    assert!(matches!(&with(vec![created.clone()])[0], Step::StartCreated { id, .. } if *id == created.id));
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

#[test]
fn other_resources_are_given_in_place_or_by_a_restart() {
    let with = |memory: &str| {
        pod(&json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": memory}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}))
    };
    let mut running = container("c", "s0", State::Running, 0, 0);
    running.resources = r#"{"limits":{"cpu":"2","memory":"1Gi"}}"#.into();
    let list = seen(vec![sandbox(0, true)], vec![running.clone()]);
    let resize = Step::ResizeContainer { id: running.id, name: "c".into() };
    assert_eq!(steps(&with("1Gi"), &list), [resize]);
    let mut memory = ready();
    memory.container("c").resize_retry.failed(NOW, crate::pod::backoff::RETRY);
    let got = plan_of(&with("1Gi"), Desired::Run, &list, &memory, NOW);
    assert_eq!((got.steps, got.wake_at), (vec![], Some(NOW + 1_000)));
    let got = steps(&with("2Gi"), &list);
    assert!(matches!(&got[..], [Step::StopContainers(s)] if s[0].reason == "Container c resize requires restart"));
}
