//! The life of a pod on a real containerd: hooks, deadlines, ephemeral containers, readiness gates.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, condition, wait};
use crate::shell;

const UNTIL_TERM: &str = "trap 'echo term >> /out/order; exit 0' TERM; while true; do sleep 0.1 & wait $!; done";

/// A directory of the host that a pod's containers write to, as `/out`.
fn out(node: &Node) -> (std::path::PathBuf, Value, Value) {
    let dir = node.containerd.dir().join("out");
    fs::create_dir_all(&dir).unwrap();
    let mount = json!([{"name": "out", "mountPath": "/out"}]);
    let volume = json!([{"name": "out", "hostPath": {"path": dir, "type": "Directory"}}]);
    (dir, mount, volume)
}

fn exec(script: &str) -> Value {
    json!({"exec": {"command": ["/bin/sh", "-c", script]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_after_the_start_and_before_the_stop() {
    let node = Node::start().await;
    let (dir, mount, volume) = out(&node);
    let mut container = shell(&format!("echo start >> /out/order; {UNTIL_TERM}"));
    container["volumeMounts"] = mount;
    container["lifecycle"] = json!({
        "postStart": exec("while [ ! -e /out/go ]; do sleep 0.1; done; echo post >> /out/order"),
        "preStop": exec("echo pre >> /out/order")
    });
    let mut second = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    second["name"] = "second".into();
    let spec = json!({"terminationGracePeriodSeconds": 20, "containers": [container, second], "volumes": volume});
    node.put_pod("p", "uid-1", spec);
    node.until_event("uid-1", "Started", "Started container c").await;
    wait("the start", || dir.join("order").exists(), String::new).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = node.status("uid-1");
    assert_eq!(status["phase"], "Pending", "{status:#}");
    assert!(node.hub.events("uid-1", "Created").iter().all(|m| !m.contains("second")), "the next one waits");
    fs::write(dir.join("go"), "").unwrap();
    node.until_running("uid-1").await;
    let began = Instant::now();
    node.delete_gracefully("p", 20);
    node.until_deleted("uid-1").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(fs::read_to_string(dir.join("order")).unwrap(), "start\npost\npre\nterm\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_hook_after_the_start_restarts_the_container() {
    let node = Node::start().await;
    let mut container = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    container["lifecycle"] = json!({"postStart": exec("exit 7")});
    node.put_pod("p", "uid-1", json!({"terminationGracePeriodSeconds": 1, "containers": [container]}));
    node.until_event("uid-1", "FailedPostStartHook", "PostStartHook failed").await;
    node.until_event("uid-1", "Killing", "FailedPostStartHook").await;
    let state = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let shown = |s: &Value| ["PostStartHookError", "CrashLoopBackOff"].iter().any(|r| state(s) == *r);
    node.until("uid-1", "the reason", shown).await;
    let status = node.until("uid-1", "a restart", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_ne!(condition(&status, "Ready"), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_before_the_stop_has_the_grace_period_and_no_more() {
    let node = Node::start().await;
    let mut container = shell("trap '' TERM; while true; do sleep 0.1; done");
    container["lifecycle"] = json!({"preStop": exec("sleep 1000")});
    let mut broken = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    broken["name"] = "broken".into();
    broken["lifecycle"] = json!({"preStop": {"httpGet": {"port": 1, "path": "/"}}});
    node.put_pod("p", "uid-1", json!({"containers": [container, broken]}));
    node.until_running("uid-1").await;
    let began = Instant::now();
    node.delete_gracefully("p", 3);
    node.until_event("uid-1", "FailedPreStopHook", "PreStopHook failed").await;
    node.until_deleted("uid-1").await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(20), "3 s for the hook, 2 s to end: {took:?}");
    let exit = |i: usize| node.status("uid-1")["containerStatuses"][i]["state"]["terminated"]["exitCode"].clone();
    assert_eq!((exit(0), exit(1)), (json!(137), json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_begin_first_and_end_last() {
    let node = Node::start().await;
    let (dir, mount, volume) = out(&node);
    let named = |name: &str, sidecar: bool| {
        let end = format!("trap 'sleep 0.3; echo end-{name} >> /out/order; exit 0' TERM");
        let mut c = shell(&format!("{end}; echo {name} >> /out/order; while true; do sleep 0.1 & wait $!; done"));
        c["name"] = name.into();
        c["volumeMounts"] = mount.clone();
        if sidecar {
            c["restartPolicy"] = "Always".into();
        }
        c
    };
    let mut init = named("init", false);
    init["args"] = json!(["echo init >> /out/order"]);
    let spec = json!({
        "terminationGracePeriodSeconds": 20,
        "initContainers": [named("first", true), init, named("second", true)],
        "containers": [named("main", false)],
        "volumes": volume
    });
    node.put_pod("p", "uid-1", spec);
    node.until_running("uid-1").await;
    let order = || fs::read_to_string(dir.join("order")).unwrap_or_default();
    wait("all of them", || order().contains("main"), order).await;
    let begun: Vec<String> = order().lines().map(str::to_owned).collect();
    assert_eq!(begun.iter().filter(|l| *l != "second").collect::<Vec<_>>(), ["first", "init", "main"]);
    node.delete_gracefully("p", 20);
    node.until_deleted("uid-1").await;
    let ended: Vec<String> = order().lines().filter(|l| l.starts_with("end")).map(str::to_owned).collect();
    assert_eq!(ended, ["end-main", "end-second", "end-first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_past_its_deadline_has_failed() {
    let node = Node::start().await;
    let spec =
        json!({"activeDeadlineSeconds": 600, "terminationGracePeriodSeconds": 1, "containers": [shell("sleep 1000")]});
    node.put_pod("p", "uid-1", spec);
    node.until_running("uid-1").await;
    // The deadline of a running pod may be shortened.
    let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    pod["spec"]["activeDeadlineSeconds"] = 1.into();
    node.hub.put(kinds::POD, "test", "p", pod);
    let status = node.until("uid-1", "failure", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    assert_eq!(status["message"], "Pod was active on the node longer than the specified deadline");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137, "{status:#}");
    node.until_event("uid-1", "DeadlineExceeded", "Pod was active").await;
    wait("its end", || !node.ctr(&["tasks", "ls"]).contains("RUNNING"), || node.ctr(&["tasks", "ls"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_container_joins_a_running_pod_and_runs_once() {
    let mut node = Node::start().await;
    node.put_pod("p", "uid-1", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("sleep 1000")]}));
    let first = node.until_running("uid-1").await;
    let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    let command = json!(["/bin/sh", "-c", "echo debugging; exit 3"]);
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": IMAGE, "command": command}]);
    node.hub.put(kinds::POD, "test", "p", pod);
    let ended = |s: &Value| s["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3;
    node.until("uid-1", "its end", ended).await;
    assert!(node.log("p", "uid-1", "debug", 0).contains("debugging"));
    node.until_event("uid-1", "Started", "Started container debug").await;
    node.kill_agent().await;
    node.start_agent().await;
    let before = node.hub.received(kinds::POD_STATUS).len();
    wait("a report", || node.hub.received(kinds::POD_STATUS).len() > before, String::new).await;
    let status = node.until("uid-1", "its end", ended).await;
    assert_eq!(status["ephemeralContainerStatuses"][0]["restartCount"], 0);
    assert_eq!(condition(&status, "Ready"), "True");
    assert_eq!(first["containerStatuses"][0]["containerID"], status["containerStatuses"][0]["containerID"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_gates_are_opened_from_the_api() {
    let node = Node::start().await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [shell("sleep 1000")],
        "readinessGates": [{"conditionType": "example.com/lb"}]});
    node.put_pod("p", "uid-1", spec);
    let status = node.until("uid-1", "containers", |s| condition(s, "ContainersReady") == "True").await;
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    for (value, want) in [("True", "True"), ("False", "False")] {
        // As EdgeController cuts it down.
        pod["status"] = json!({"conditions": [{"type": "example.com/lb", "status": value}]});
        node.hub.put(kinds::POD, "test", "p", pod.clone());
        let status = node.until("uid-1", "the gate", |s| condition(s, "Ready") == want).await;
        assert_eq!(condition(&status, "example.com/lb"), "", "it is not the node's to report");
    }
}
