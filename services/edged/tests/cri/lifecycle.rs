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
async fn hooks_that_take_long_do_not_keep_other_pods_from_starting() {
    let node = Node::start().await;
    // More of them than the node starts at a time: two for each processor.
    let slow = 1 + 2 * std::thread::available_parallelism().unwrap().get();
    let mut container = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    container["lifecycle"] = json!({"postStart": exec("sleep 1000")});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container]});
    for n in 0..slow {
        node.put_pod(&format!("slow-{n}"), &format!("uid-slow-{n}"), spec.clone());
    }
    for n in 0..slow {
        node.until_event(&format!("uid-slow-{n}"), "Started", "Started container c").await;
    }
    let plain = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    node.put_pod("p", "uid-1", json!({"terminationGracePeriodSeconds": 1, "containers": [plain]}));
    node.until_running("uid-1").await;
    assert_eq!(node.status("uid-slow-0")["phase"], "Pending", "its hook still runs");
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
    let mut broken = shell("trap 'exit 0' TERM; echo up; while true; do sleep 0.1 & wait $!; done");
    broken["name"] = "broken".into();
    broken["lifecycle"] = json!({"preStop": {"httpGet": {"port": 1, "path": "/"}}});
    node.put_pod("p", "uid-1", json!({"containers": [container, broken]}));
    node.until_running("uid-1").await;
    wait("the trap", || node.log("p", "uid-1", "broken", 0).contains("up"), String::new).await;
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
async fn an_ephemeral_container_sees_the_processes_of_its_target() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("exec sleep 98765")]}));
    node.until_running("uid-1").await;
    let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    let debug = |name: &str, target: &str| {
        let command = json!(["/bin/sh", "-c", "echo first=$(tr '\\0' ' ' < /proc/1/cmdline)"]);
        json!({"name": name, "image": IMAGE, "command": command, "targetContainerName": target})
    };
    pod["spec"]["ephemeralContainers"] = json!([debug("alone", ""), debug("target", "c"), debug("none", "gone")]);
    node.hub.put(kinds::POD, "test", "p", pod);
    let log = |name: &str| node.log("p", "uid-1", name, 0);
    wait("its log", || log("target").contains("first=sleep 98765"), || log("target")).await;
    wait("its log", || log("alone").contains("first=/bin/sh"), || log("alone")).await;
    node.until_event("uid-1", "Failed", "Error: unable to find target container gone").await;
    let status = node.status("uid-1");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "{status:#}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_node_cannot_run_is_refused_and_says_why() {
    let node = Node::start().await;
    let mut much = shell("sleep 1000");
    much["resources"] = json!({"requests": {"cpu": "10000"}});
    let mut port = shell("sleep 1000");
    port["ports"] = json!([{"containerPort": 80, "hostPort": 39_871}]);
    let one = json!({"terminationGracePeriodSeconds": 0, "containers": [port]});
    node.put_pod("first", "uid-1", one.clone());
    node.until_running("uid-1").await;
    node.put_pod("second", "uid-2", one);
    node.put_pod("much", "uid-3", json!({"containers": [much]}));
    node.put_pod("other", "uid-4", json!({"nodeName": "elsewhere", "containers": [shell("sleep 1000")]}));
    for (uid, reason) in [("uid-2", "NodePorts"), ("uid-3", "OutOfcpu"), ("uid-4", "NodeName")] {
        let status = node.until(uid, reason, |s| s["phase"] == "Failed").await;
        assert_eq!(status["reason"], reason);
        assert!(status["message"].as_str().unwrap().starts_with("Pod was rejected: "), "{status:#}");
        assert_eq!(status["containerStatuses"], Value::Null);
        node.until_event(uid, reason, "Pod was rejected").await;
    }
    // A refused pod counts for nothing, and the node goes on.
    assert_eq!(node.status("uid-1")["phase"], "Running");
    assert_eq!(node.ctr(&["tasks", "ls"]).matches("RUNNING").count(), 2);
    node.delete_gracefully("second", 0);
    node.until_deleted("uid-2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_takes_the_place_of_another_one() {
    let node = Node::start().await;
    let cpus = std::thread::available_parallelism().unwrap().get();
    let asks = |milli: usize, priority: i64| {
        let mut c = shell("trap 'sleep 1; exit 0' TERM; echo up; while true; do sleep 0.1 & wait $!; done");
        c["resources"] = json!({"requests": {"cpu": format!("{milli}m")}});
        json!({"priority": priority, "terminationGracePeriodSeconds": 20, "containers": [c]})
    };
    node.put_pod("small", "uid-small", asks(50, 0));
    node.put_pod("large", "uid-large", asks(cpus * 1000 - 100, 0));
    node.until_running("uid-small").await;
    node.until_running("uid-large").await;
    wait("the trap", || node.log("large", "uid-large", "c", 0).contains("up"), String::new).await;
    node.put_pod("critical", "uid-critical", asks(500, 2_000_000_000));
    let status = node.until_running("uid-critical").await;
    let began = status["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
    let status = node.until("uid-large", "the end", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "Preempting");
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    assert_eq!(condition(&status, "DisruptionTarget"), "True");
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 0, "it had its grace");
    assert!(ended["finishedAt"].as_str() <= began.as_str(), "{ended} {began}");
    node.until_event("uid-large", "Preempting", "Preempted in order to admit critical pod").await;
    assert_eq!(node.status("uid-small")["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_runs_without_the_cloud_and_shows_in_it() {
    let mut node = Node::start().await;
    let pod = |script: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "test"},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell(script)]}})
    };
    let loops = "trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done";
    let file = node.manifests().join("web.json");
    let write = |script: &str| fs::write(&file, pod(script).to_string()).unwrap();
    write(loops);
    let running = |node: &Node| node.ctr(&["tasks", "ls"]).matches("RUNNING").count();
    wait("the pod", || running(&node) == 2, || format!("{:?}", node.all_events())).await;
    wait("its mirror", || !node.hub.received(kinds::MIRROR_POD).is_empty(), String::new).await;
    let mirror = node.hub.received(kinds::MIRROR_POD).pop().unwrap();
    let name = format!("web-{}", node.name);
    assert_eq!(mirror.body["metadata"]["name"], name.as_str());
    let hash = mirror.body["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
    assert_eq!(hash, mirror.uid.as_str());
    assert!(node.hub.received(kinds::POD_STATUS).is_empty(), "the API knows nothing yet to put it on");
    // The cloud creates it: its status is told under the uid of the mirror.
    let put = |node: &Node, uid: &str| {
        let mut body = mirror.body.clone();
        body["metadata"]["uid"] = uid.into();
        node.hub.put(kinds::POD, "test", &name, body);
    };
    put(&node, "mirror-1");
    node.until_running("mirror-1").await;
    // Somebody deletes the mirror: it comes again, and the pod runs on.
    node.delete_gracefully(&name, 1);
    node.until_deleted("mirror-1").await;
    let created = node.hub.received(kinds::MIRROR_POD).len();
    node.hub.delete(kinds::POD, "test", &name);
    wait("another mirror", || node.hub.received(kinds::MIRROR_POD).len() > created, String::new).await;
    put(&node, "mirror-2");
    let first = node.until_running("mirror-2").await;
    assert_eq!(first["containerStatuses"][0]["restartCount"], 0);
    let id = |s: &Value| s["containerStatuses"][0]["containerID"].clone();
    // Without anything from the cloud the pod stays.
    node.kill_agent().await;
    node.hub.lose_everything();
    node.start_agent().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(running(&node), 2);
    node.hub.say_complete();
    put(&node, "mirror-3");
    assert_eq!(id(&node.until_running("mirror-3").await), id(&first), "nothing touched it");
    // Another content is another pod: the old one ends first.
    write(&format!("echo second; {loops}"));
    node.until_deleted("mirror-3").await;
    node.hub.delete(kinds::POD, "test", &name);
    let newest = |node: &Node| node.hub.received(kinds::MIRROR_POD).pop().unwrap();
    wait("its mirror", || newest(&node).uid != mirror.uid, String::new).await;
    wait("one of them", || running(&node) == 2, || node.ctr(&["tasks", "ls"])).await;
    let logs = || node.log(&name, &newest(&node).uid, "c", 0);
    wait("the new one", || logs().contains("second"), logs).await;
    // No file, no pod.
    fs::remove_file(&file).unwrap();
    wait("its end", || node.ctr(&["containers", "ls", "-q"]).trim().is_empty(), || node.ctr(&["tasks", "ls"])).await;
    fs::write(node.manifests().join("bad.yaml"), "kind: Pod").unwrap();
    node.until_event(&node.name.clone(), "InvalidStaticPod", "bad.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_a_running_pod_change_in_place() {
    let mut node = Node::start().await;
    let resources = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": "10m", "memory": "16Mi"}});
    let mut container = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    container["resources"] = resources("200m", "32Mi");
    container["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.put_pod("p", "uid-1", json!({"terminationGracePeriodSeconds": 1, "containers": [container]}));
    let first = node.until_running("uid-1").await;
    assert_eq!(first["containerStatuses"][0]["resources"], resources("200m", "32Mi"));
    assert_eq!(first["containerStatuses"][0]["allocatedResources"], json!({"cpu": "10m", "memory": "16Mi"}));
    let change = |node: &Node, to: Value| {
        let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
        pod["spec"]["containers"][0]["resources"] = to;
        node.hub.put(kinds::POD, "test", "p", pod);
    };
    let id = |s: &Value| s["containerStatuses"][0]["containerID"].clone();
    let given = |s: &Value, cpu: &str, memory: &str| s["containerStatuses"][0]["resources"] == resources(cpu, memory);
    change(&node, resources("300m", "32Mi"));
    let second = node.until("uid-1", "more CPU", |s| given(s, "300m", "32Mi")).await;
    assert_eq!(id(&second), id(&first), "in place");
    assert_eq!(condition(&second, "PodResizeInProgress"), "");
    let short = id(&first).as_str().unwrap().trim_start_matches("containerd://").to_owned();
    let info = node.ctr(&["containers", "info", &short]);
    assert!(info.contains("\"quota\": 30000"), "{info}");
    // Another process of the agent knows what was given.
    node.kill_agent().await;
    node.start_agent().await;
    change(&node, resources("300m", "48Mi"));
    let third =
        node.until("uid-1", "more memory", |s| given(s, "300m", "48Mi") && condition(s, "Ready") == "True").await;
    assert_ne!(id(&third), id(&first), "memory needs a restart");
    node.until_event("uid-1", "Killing", "resize requires restart").await;
    // More than the node has: the pod goes on as it is, and says so.
    let mut much = resources("300m", "48Mi");
    much["requests"]["cpu"] = "10000".into();
    much["limits"]["cpu"] = "10000".into();
    change(&node, much);
    let fourth = node.until("uid-1", "the condition", |s| condition(s, "PodResizePending") == "True").await;
    let pending = fourth["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "PodResizePending").unwrap();
    assert_eq!(pending["reason"], "Infeasible");
    assert_eq!((id(&fourth), given(&fourth, "300m", "48Mi")), (id(&third), true));
    change(&node, resources("300m", "48Mi"));
    node.until("uid-1", "no condition", |s| condition(s, "PodResizePending").is_empty()).await;
}
