//! The status by tables: what users read in `kubectl get pods` and `kubectl describe pod`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::pod::failure::Failure;
use crate::pod::memory::{Memory, Waiting};
use crate::pod::observed::{Container, Observed, Sandbox, State};
use crate::probe::Results;

const NOW: UnixMs = 1_700_000_000_000;

struct Case {
    pod: Pod,
    seen: Observed,
    memory: Memory,
    probes: Results,
    failure: Option<Failure>,
    backing_off: Vec<(String, i64)>,
    desired: Desired,
    before: Option<PodStatus>,
}

impl Case {
    fn new(spec: &Value) -> Self {
        Self {
            pod: serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
            )
            .unwrap(),
            seen: Observed {
                sandboxes: vec![Sandbox {
                    id: "s".into(),
                    ready: true,
                    ips: vec!["10.1.0.2".into(), "fd00::2".into()],
                    ..Sandbox::default()
                }],
                containers: Vec::new(),
            },
            memory: Memory::default(),
            probes: Results::default(),
            failure: None,
            backing_off: Vec::new(),
            desired: Desired::Run,
            before: None,
        }
    }

    fn with(mut self, name: &str, state: State, exit_code: i32) -> Self {
        self.seen.containers.insert(
            0,
            Container {
                id: format!("{name}{}", self.seen.containers.len()),
                name: name.into(),
                sandbox_id: "s".into(),
                state,
                exit_code,
                created_ms: NOW - 3_000,
                started_ms: NOW - 2_000,
                finished_ms: if state == State::Exited { NOW - 1_000 } else { 0 },
                ..Container::default()
            },
        );
        self
    }

    fn status(&self) -> PodStatus {
        compute(&Inputs {
            view: View {
                pod: &self.pod,
                desired: self.desired,
                seen: &self.seen,
                memory: &self.memory,
                probes: &self.probes,
                failure: self.failure.as_ref(),
                now: NOW,
            },
            backing_off: &self.backing_off,
            before: self.before.as_ref(),
            host_ips: &["192.168.0.5".to_owned()],
            runtime: "containerd",
        })
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.status()).unwrap()
    }
}

fn spec(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]})
}

fn reason(status: &Value) -> &str {
    let state = &status["containerStatuses"][0]["state"];
    ["waiting", "terminated"].iter().find_map(|k| state[k]["reason"].as_str()).unwrap_or("running")
}

#[test]
fn the_phase_follows_from_containers_and_policy() {
    for (policy, state, exit_code, phase, shown) in [
        ("Always", State::Running, 0, "Running", "running"),
        ("Always", State::Exited, 0, "Running", "Completed"),
        ("Always", State::Exited, 1, "Running", "Error"),
        ("OnFailure", State::Exited, 0, "Succeeded", "Completed"),
        ("OnFailure", State::Exited, 1, "Running", "Error"),
        ("Never", State::Exited, 0, "Succeeded", "Completed"),
        ("Never", State::Exited, 1, "Failed", "Error"),
        ("Always", State::Created, 0, "Pending", "ContainerCreating"),
        ("Always", State::Unknown, 0, "Pending", "ContainerCreating"),
    ] {
        let got = Case::new(&spec(policy)).with("c", state, exit_code).json();
        assert_eq!((got["phase"].as_str().unwrap(), reason(&got)), (phase, shown), "{policy} {state:?} {exit_code}");
    }
    let none = Case::new(&spec("Always")).json();
    assert_eq!((none["phase"].as_str().unwrap(), reason(&none)), ("Pending", "ContainerCreating"));
}

#[test]
fn two_containers_are_running_while_one_is() {
    let both = json!({"restartPolicy": "Never", "containers": [{"name": "c"}, {"name": "d"}]});
    let got = Case::new(&both).with("c", State::Exited, 1).with("d", State::Running, 0).json();
    assert_eq!(got["phase"], "Running");
    let ready = got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!(ready["message"], "containers with unready status: [c]");
    assert_eq!(ready["reason"], "ContainersNotReady");
    let got = Case::new(&both).with("c", State::Exited, 1).with("d", State::Exited, 0).json();
    assert_eq!(got["phase"], "Failed");
}

#[test]
fn init_containers_hold_the_pod_in_pending() {
    let with_init = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    let got = Case::new(&with_init).with("i", State::Running, 0).json();
    assert_eq!((got["phase"].as_str().unwrap(), reason(&got)), ("Pending", "PodInitializing"));
    let initialized =
        got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Initialized").unwrap().clone();
    assert_eq!(initialized["message"], "containers with incomplete status: [i]");
    assert_eq!(Case::new(&with_init).with("i", State::Exited, 1).json()["phase"], "Failed");
    let done = Case::new(&with_init).with("i", State::Exited, 0).with("c", State::Running, 0).json();
    assert_eq!(done["phase"], "Running");
    assert_eq!(done["initContainerStatuses"][0]["ready"], true);
}

#[test]
fn addresses_are_the_sandboxes_or_the_hosts() {
    let got = Case::new(&spec("Always")).with("c", State::Running, 0).json();
    assert_eq!((&got["podIP"], &got["hostIP"]), (&json!("10.1.0.2"), &json!("192.168.0.5")));
    assert_eq!(got["podIPs"][1]["ip"], "fd00::2");
    let host = json!({"hostNetwork": true, "containers": [{"name": "c"}]});
    assert_eq!(Case::new(&host).with("c", State::Running, 0).json()["podIP"], "192.168.0.5");
}

#[test]
fn a_crash_loop_shows_its_delay_and_the_last_end() {
    let mut case = Case::new(&spec("Always")).with("c", State::Exited, 2);
    case.backing_off = vec![("c".into(), 160)];
    let got = case.json();
    let container = &got["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(container["state"]["waiting"]["message"], "back-off 2m40s restarting failed container=c pod=p_ns(u)");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!(got["phase"], "Running");
    case.desired = Desired::End { deadline: NOW };
    assert_eq!(reason(&case.json()), "Error", "a pod that ends does not wait to start again");
}

#[test]
fn what_a_failed_start_said_is_shown() {
    let mut case = Case::new(&spec("Always"));
    case.memory.container("c").waiting = Some(Waiting::new("ImagePullBackOff", "Back-off"));
    let got = case.json();
    assert_eq!((got["phase"].as_str().unwrap(), reason(&got)), ("Pending", "ImagePullBackOff"));
}

#[test]
fn a_deleted_pod_ends_as_its_containers_did() {
    for (exit_code, phase) in [(0, "Succeeded"), (137, "Failed")] {
        let mut case = Case::new(&spec("Always")).with("c", State::Exited, exit_code);
        case.desired = Desired::End { deadline: NOW };
        assert_eq!(case.json()["phase"], phase);
    }
}

#[test]
fn a_final_phase_is_final_and_times_stay() {
    let mut case = Case::new(&spec("Never")).with("c", State::Exited, 0);
    let first = case.status();
    case.before = Some(first.clone());
    case.seen = Observed::default();
    let second = case.status();
    assert_eq!(second.phase.as_deref(), Some("Succeeded"));
    assert_eq!(second.start_time, first.start_time);
    assert_eq!(second.pod_ip, first.pod_ip, "the address of an ended pod stays for the record");
}

#[test]
fn a_status_that_is_computed_twice_is_the_same() {
    for state in [State::Running, State::Exited, State::Created] {
        let mut case = Case::new(&spec("Always")).with("c", state, 1);
        let first = case.status();
        case.before = Some(first.clone());
        assert_eq!(case.status(), first, "{state:?}");
    }
}

#[test]
fn a_container_that_is_gone_keeps_its_count_and_says_so() {
    let mut case = Case::new(&spec("Always"));
    case.before = Some(Case::new(&spec("Always")).with("c", State::Running, 0).status());
    let got = case.json();
    let last = &got["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
}

#[test]
fn readiness_gates_hold_ready_back() {
    let gated = json!({"readinessGates": [{"conditionType": "lb"}], "containers": [{"name": "c"}]});
    let mut case = Case::new(&gated).with("c", State::Running, 0);
    let ready =
        |got: Value| got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!(ready(case.json())["reason"], "ReadinessGatesNotReady");
    case.pod.status = Some(serde_json::from_value(json!({"conditions": [{"type": "lb", "status": "True"}]})).unwrap());
    assert_eq!(ready(case.json())["status"], "True");
}

#[test]
fn a_failure_of_the_node_is_the_phase_when_nothing_runs_any_more() {
    let mut case = Case::new(&spec("Always")).with("c", State::Running, 0);
    let failure =
        Failure { reason: "Evicted".into(), message: "m".into(), disruption: Some("why".into()), ..Failure::default() };
    case.failure = Some(failure);
    let got = case.json();
    assert_eq!((&got["phase"], &got["reason"]), (&json!("Running"), &Value::Null), "{got:#}");
    case.seen.containers[0].state = State::Exited;
    case.seen.containers[0].exit_code = 137;
    let ended = case.status();
    let got = serde_json::to_value(&ended).unwrap();
    assert_eq!((&got["phase"], &got["reason"], &got["message"]), (&json!("Failed"), &json!("Evicted"), &json!("m")));
    let target = got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["reason"], &target["message"]), (&json!("TerminationByKubelet"), &json!("why")));
    // It stays after the failure is forgotten, for example by a new process.
    (case.failure, case.before) = (None, Some(ended.clone()));
    assert_eq!(case.status(), ended);
}

#[test]
fn a_refused_pod_has_no_containers() {
    let mut case = Case::new(&spec("Always"));
    case.seen = Observed::default();
    case.failure = Some(Failure { reason: "OutOfcpu".into(), refused: true, ..Failure::default() });
    let got = case.json();
    assert_eq!((&got["phase"], &got["containerStatuses"]), (&json!("Failed"), &Value::Null));
    let ready = got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["reason"], "PodFailed");
}

#[test]
fn ephemeral_containers_have_statuses_and_count_for_nothing() {
    let with = json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "debug", "image": "d"}]});
    let got = Case::new(&with).with("c", State::Running, 0).with("debug", State::Exited, 3).json();
    let debug = &got["ephemeralContainerStatuses"][0];
    assert_eq!((&debug["state"]["terminated"]["exitCode"], &debug["image"]), (&json!(3), &json!("d")));
    assert_eq!(got["phase"], "Running");
    let ready = got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["status"], "True");
}

#[test]
fn sidecars_that_start_again_do_not_make_the_pod_pending() {
    let with = json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let condition = |got: &Value, kind: &str| {
        got["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()["status"].clone()
    };
    let begun = Case::new(&with).with("side", State::Running, 0).json();
    assert_eq!((&begun["phase"], condition(&begun, "Initialized")), (&json!("Pending"), json!("True")));
    let got = Case::new(&with).with("c", State::Running, 0).with("side", State::Exited, 1).json();
    assert_eq!((&got["phase"], condition(&got, "Initialized")), (&json!("Running"), json!("True")));
    assert_eq!(condition(&got, "ContainersReady"), "False");
}

#[test]
fn the_conditions_of_others_are_not_reported() {
    let gated = json!({"readinessGates": [{"conditionType": "lb"}], "containers": [{"name": "c"}]});
    let mut case = Case::new(&gated).with("c", State::Running, 0);
    case.pod.status = Some(serde_json::from_value(json!({"conditions": [{"type": "lb", "status": "True"}]})).unwrap());
    assert!(case.status().conditions.unwrap().iter().all(|c| c.type_ != "lb"));
}

#[test]
fn the_generation_that_was_seen_is_said() {
    let mut case = Case::new(&spec("Always")).with("c", State::Running, 0);
    assert_eq!(case.json()["observedGeneration"], Value::Null);
    case.pod.metadata.generation = Some(4);
    assert_eq!(
        (&case.json()["observedGeneration"], &case.json()["conditions"][0]["observedGeneration"]),
        (&json!(4), &json!(4))
    );
}

#[test]
fn a_container_that_makes_way_for_another_one_does_not_end_its_pod() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}]});
    let mut case = Case::new(&spec).with("c", State::Exited, 0);
    assert_eq!(case.status().phase.as_deref(), Some("Succeeded"));
    case.memory.container("c").restart = Some(case.seen.containers[0].id.clone());
    case.before = Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() });
    assert_eq!(case.status().phase.as_deref(), Some("Running"));
    case.desired = Desired::End { deadline: NOW };
    assert_eq!(case.status().phase.as_deref(), Some("Succeeded"), "deleted, it has ended");
}

#[test]
fn the_messages_of_a_pods_containers_have_a_limit_together() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
    let mut case = Case::new(&spec).with("i", State::Exited, 0).with("a", State::Exited, 1);
    for container in &mut case.seen.containers {
        container.message = format!("x{}", "ä".repeat(2_000));
    }
    let status = case.status();
    let lists = [status.init_container_statuses, status.container_statuses];
    let all: Vec<ContainerStatus> = lists.into_iter().flatten().flatten().collect();
    let length = |i: usize| all[i].state.as_ref()?.terminated.as_ref()?.message.as_ref().map(String::len);
    assert_eq!((length(0), length(1), length(2)), (Some(3_071), Some(3_071), None), "12 KiB for four, on a character");
}

#[test]
fn whom_a_container_runs_as_is_said_where_the_runtime_tells() {
    let mut case = Case::new(&json!({"containers": [{"name": "c"}]})).with("c", State::Running, 0);
    let user = |case: &Case| case.status().container_statuses.unwrap()[0].user.clone();
    assert_eq!(user(&case), None);
    let known = serde_json::from_value(json!({"linux": {"uid": 7, "gid": 8, "supplementalGroups": [9]}})).unwrap();
    case.seen.containers[0].user = Some(known);
    assert_eq!(user(&case), case.seen.containers[0].user);
}
