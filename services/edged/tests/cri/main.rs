//! Pods on a real containerd, as root: what edged promises, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod api;
mod bad_days;
mod churn;
mod conformance;
mod eviction;
mod images;
mod ledger;
mod left;
mod lifecycle;
mod logs;
mod manager;
mod node;
mod probes;
mod resources;
mod security;
mod server;
mod shutdown;
mod wear;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use skerry_common::kinds;

use node::{IMAGE, Node, condition, find_paths, wait};

fn shell(script: &str) -> Value {
    json!({ "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c"], "args": [script] })
}

fn sleeper() -> Value {
    json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done")] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_configuration_runs_and_its_status_is_right() {
    let node = Node::start().await;
    node.hub.put(kinds::CONFIG_MAP, "test", "cm", json!({"data": {"greeting": "hello", "file": "from-config"}}));
    node.hub.put(kinds::SECRET, "test", "s", json!({"data": {"key": "c2VjcmV0"}}));
    let mut container = shell(
        "echo \"$GREETING|$KEY|$NAME|$IP|$NODE|$LIMIT\" > /made/out; cat /etc/cm/file >> /made/out; \
         cat /etc/s/key >> /made/out; hostname >> /made/out; grep -c managed /etc/hosts >> /made/out; \
         cat /made/out; echo done; trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done",
    );
    container["env"] = json!([
        {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "greeting"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}
    ]);
    container["volumeMounts"] = json!([
        {"name": "work", "mountPath": "/made"},
        {"name": "cm", "mountPath": "/etc/cm"},
        {"name": "s", "mountPath": "/etc/s", "readOnly": true}
    ]);
    container["resources"] = json!({"limits": {"memory": "32Mi"}, "requests": {"cpu": "10m"}});
    let spec = json!({
        "nodeName": node.name,
        "terminationGracePeriodSeconds": 1,
        "initContainers": [{"name": "init", "image": IMAGE, "command": ["/bin/sh", "-c", "echo init > /made/init"],
                            "volumeMounts": [{"name": "work", "mountPath": "/made"}]}],
        "containers": [container],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "s", "secret": {"secretName": "s"}}
        ]
    });
    let began = Instant::now();
    node.put_pod("p", "uid-1", spec);
    let status = node.until_running("uid-1").await;
    println!("create to running: {:?}", began.elapsed());
    let ip = status["podIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.213."), "{ip}");
    assert_eq!(status["podIPs"][0]["ip"], ip);
    assert_eq!(status["qosClass"], "Burstable");
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["ready"], &container["started"], &container["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(container["containerID"].as_str().unwrap().starts_with("containerd://"));
    assert!(container["state"]["running"]["startedAt"].is_string());
    let init = &status["initContainerStatuses"][0];
    assert_eq!(init["state"]["terminated"]["reason"], "Completed");
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, kind), "True", "{kind}");
    }
    wait("the log", || node.log("p", "uid-1", "c", 0).contains("done"), || node.log("p", "uid-1", "c", 0)).await;
    let out = node.log("p", "uid-1", "c", 0);
    assert!(out.contains(&format!("hello|secret|p|{ip}|{}|{}", node.name, 32 << 20)), "{out}");
    assert!(out.contains("from-configsecretp"), "{out}");
    assert!(node.hub.events("uid-1", "Started").iter().any(|m| m == "Started container c"));
    assert!(node.hub.events("uid-1", "Pulled").iter().any(|m| m.contains("already present on machine")));

    // A change of the ConfigMap reaches the running container.
    node.hub.put(kinds::CONFIG_MAP, "test", "cm", json!({"data": {"greeting": "hello", "file": "changed"}}));
    let file = node.root().join("pods/uid-1/volumes/kubernetes.io~configmap/cm/file");
    wait("the update", || fs::read_to_string(&file).is_ok_and(|t| t == "changed"), String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_container_restarts_with_backoff() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", json!({"containers": [shell("echo bye > /dev/termination-log; exit 3")]}));
    let status = node
        .until("uid-1", "crash loop", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 1, "the first restart is at once, the second waits");
    let last = &container["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"], &last["message"]), (&json!(3), &json!("Error"), &json!("bye\n")));
    let message = container["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=c pod=p_test(uid-1)");
    assert_eq!(condition(&status, "Ready"), "False");
    node.until_event("uid-1", "BackOff", "Back-off restarting failed container").await;
    let began = Instant::now();
    node.until("uid-1", "second restart", |s| s["containerStatuses"][0]["restartCount"] == 2).await;
    assert!(began.elapsed() > Duration::from_secs(7), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_pod_succeeds_and_stays_so() {
    let node = Node::start().await;
    node.put_pod("ok", "uid-1", json!({"restartPolicy": "Never", "containers": [shell("exit 0")]}));
    node.put_pod("bad", "uid-2", json!({"restartPolicy": "Never", "containers": [shell("exit 2")]}));
    let status = node.until("uid-1", "success", |s| s["phase"] == "Succeeded").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("PodCompleted")));
    let status = node.until("uid-2", "failure", |s| s["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 2);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_leaves_nothing() {
    let node = Node::start().await;
    node.hub.put(kinds::SECRET, "test", "s", json!({"data": {"key": "c2VjcmV0"}}));
    let mut container = shell("trap 'echo got-term; exit 0' TERM; echo up; while true; do sleep 1 & wait $!; done");
    container["volumeMounts"] = json!([{"name": "s", "mountPath": "/s"}, {"name": "m", "mountPath": "/m"}]);
    let spec = json!({
        "terminationGracePeriodSeconds": 20,
        "containers": [container],
        "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "m", "emptyDir": {"medium": "Memory"}}]
    });
    node.put_pod("p", "0f3c-leaves-nothing", spec);
    node.until_running("0f3c-leaves-nothing").await;
    wait("the trap", || node.log("p", "0f3c-leaves-nothing", "c", 0).contains("up"), String::new).await;
    let groups = || find_paths(Path::new("/sys/fs/cgroup"), "pod0f3c-leaves-nothing", 4);
    assert!(!groups().is_empty());
    let began = Instant::now();
    node.delete_gracefully("p", 20);
    node.until_deleted("0f3c-leaves-nothing").await;
    assert!(began.elapsed() < Duration::from_secs(15), "SIGTERM ends it long before the grace: {:?}", began.elapsed());
    let status = node.status("0f3c-leaves-nothing");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "{status:#}");
    assert!(!node.root().join("pods/0f3c-leaves-nothing").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below: Vec<_> =
        mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| Path::new(p).starts_with(node.root())).collect();
    assert_eq!(below, [node.root().join("memory").to_str().unwrap()], "the one of all pods");
    assert_eq!(fs::read_dir(node.root().join("memory")).unwrap().count(), 0);
    assert_eq!(node.ctr(&["containers", "ls", "-q"]).trim(), "");
    assert_eq!(groups(), Vec::<std::path::PathBuf>::new());
    assert_eq!(fs::read_dir(node.logs()).unwrap().count(), 0);
    let namespaces = node.containerd.dir().join("state/containerd/io.containerd.grpc.v1.cri/netns");
    assert_eq!(fs::read_dir(namespaces).map(|d| d.count()).unwrap_or(0), 0);
    // The object goes: nothing more happens.
    node.hub.delete(kinds::POD, "test", "p");
    node.until_event("0f3c-leaves-nothing", "Killing", "Stopping container c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_that_is_cut_short_kills() {
    let node = Node::start().await;
    let stubborn = json!({"terminationGracePeriodSeconds": 60, "containers": [shell("trap '' TERM; echo up; while true; do sleep 1; done")]});
    node.put_pod("p", "uid-1", stubborn.clone());
    node.put_pod("q", "uid-2", stubborn);
    node.until_running("uid-1").await;
    node.until_running("uid-2").await;
    for (name, uid) in [("p", "uid-1"), ("q", "uid-2")] {
        wait("the trap", || node.log(name, uid, "c", 0).contains("up"), String::new).await;
    }
    node.delete_gracefully("p", 60);
    node.until_event("uid-1", "Killing", "Stopping").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.status("uid-1")["phase"], "Running");
    let began = Instant::now();
    node.delete_gracefully("p", 1);
    node.until_deleted("uid-1").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(node.status("uid-1")["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert_eq!(node.status("uid-2")["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_touches_nothing_and_a_lost_list_stops_nothing() {
    let mut node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    node.put_pod("q", "uid-2", sleeper());
    let first = node.until_running("uid-1").await;
    node.until_running("uid-2").await;
    let id = |s: &Value| s["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    node.kill_agent().await;
    // EdgeHub's store is damaged: it has nothing and cannot tell.
    let pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    node.hub.lose_everything();
    node.start_agent().await;
    wait("the node", || node.node_condition("Ready").is_some_and(|c| c.0 == "True"), String::new).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.ctr(&["tasks", "ls"]).matches("RUNNING").count(), 4, "{}", node.ctr(&["tasks", "ls"]));
    // One comes back: it is taken over as it is.
    node.hub.put(kinds::POD, "test", "p", pod);
    let before = node.hub.received(kinds::POD_STATUS).len();
    wait("its status", || node.hub.received(kinds::POD_STATUS).len() > before, String::new).await;
    let second = node.until_running("uid-1").await;
    assert_eq!(id(&first), id(&second));
    assert_eq!(second["containerStatuses"][0]["restartCount"], 0);
    // The list is complete without the other: now it is ended.
    node.hub.say_complete();
    wait(
        "the orphan's end",
        || node.ctr(&["tasks", "ls"]).matches("RUNNING").count() == 2,
        || node.ctr(&["tasks", "ls"]),
    )
    .await;
    assert_eq!(node.status("uid-1")["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_dies_or_hangs_is_said_and_comes_back() {
    let mut node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    let first = node.until_running("uid-1").await;
    let ready = |node: &Node| node.node_condition("Ready").unwrap_or_default();
    wait("a ready node", || ready(&node).0 == "True", String::new).await;
    node.containerd.runtime().unwrap().kill_daemon(Signal::SIGKILL);
    wait("the condition", || ready(&node).0 == "False", || format!("{:?}", ready(&node))).await;
    assert_eq!(ready(&node).1, "container runtime is down");
    node.containerd.runtime().unwrap().start_daemon().unwrap();
    wait("recovery", || ready(&node).0 == "True", || format!("{:?}", ready(&node))).await;
    node.containerd.runtime().unwrap().freeze_daemon(true);
    wait("the condition", || ready(&node).0 == "False", || format!("{:?}", ready(&node))).await;
    assert_eq!(ready(&node).1, "container runtime does not answer");
    node.containerd.runtime().unwrap().freeze_daemon(false);
    wait("recovery", || ready(&node).0 == "True", || format!("{:?}", ready(&node))).await;
    node.put_pod("q", "uid-2", sleeper());
    node.until_running("uid-2").await;
    let status = node.status("uid-1");
    assert_eq!(first["containerStatuses"][0]["containerID"], status["containerStatuses"][0]["containerID"]);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    node.until_event(&node.name.clone(), "NodeNotReady", "NodeNotReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_pod_is_said_on_it() {
    let node = Node::start().await;
    let with = |patch: &Value| {
        let mut container = shell("sleep 1000");
        for (key, value) in patch.as_object().unwrap() {
            container[key] = value.clone();
        }
        json!({ "containers": [container] })
    };
    let image = "registry.invalid/none:1";
    node.put_pod("image", "uid-1", with(&json!({"image": image})));
    node.put_pod("never", "uid-2", with(&json!({"image": image, "imagePullPolicy": "Never"})));
    node.put_pod("env", "uid-3", with(&json!({"envFrom": [{"configMapRef": {"name": "gone"}}]})));
    node.put_pod("root", "uid-4", with(&json!({"securityContext": {"runAsNonRoot": true}})));
    node.put_pod("command", "uid-5", with(&json!({"command": ["/no/such/program"]})));
    node.hub.put(kinds::CONFIG_MAP, "test", "evil", json!({"data": {"../x": "1"}}));
    let mounting = |name: &str| {
        let mut spec = with(&json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        spec["volumes"] = json!([{"name": "v", "configMap": {"name": name}}]);
        spec
    };
    node.put_pod("evil", "uid-6", mounting("evil"));
    node.put_pod("mount", "uid-7", mounting("gone"));
    let waiting =
        |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned();
    for (uid, reason) in [
        ("uid-1", "ErrImagePull"),
        ("uid-1", "ImagePullBackOff"),
        ("uid-2", "ErrImageNeverPull"),
        ("uid-3", "CreateContainerConfigError"),
        ("uid-4", "CreateContainerConfigError"),
        ("uid-6", "ContainerCreating"),
        ("uid-7", "ContainerCreating"),
    ] {
        node.until(uid, reason, |s| waiting(s) == reason).await;
    }
    let status =
        node.until("uid-5", "start error", |s| !waiting(s).is_empty() && waiting(s) != "ContainerCreating").await;
    assert!(["RunContainerError", "CrashLoopBackOff"].contains(&waiting(&status).as_str()), "{status:#}");
    node.until_event("uid-6", "FailedMount", "invalid path \"../x\"").await;
    node.until_event("uid-7", "FailedMount", "configmap \"gone\" not found").await;
    node.until_event("uid-3", "Failed", "Error: configmap \"gone\" not found").await;
    assert!(!node.root().join("pods/uid-6/volumes/kubernetes.io~configmap/x").exists());
    // What was missing comes: the pods go on by themselves.
    node.hub.put(kinds::CONFIG_MAP, "test", "gone", json!({"data": {"A": "1"}}));
    node.until_running("uid-3").await;
    node.until_running("uid-7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_registered_with_its_facts() {
    let node = Node::start().await;
    wait("the status", || node.node_condition("Ready").is_some_and(|c| c.0 == "True"), String::new).await;
    let registered = node.hub.newest(kinds::NODE_REGISTRATION, "").unwrap();
    let labels = &registered["metadata"]["labels"];
    assert_eq!((&labels["kubernetes.io/hostname"], &labels["kubernetes.io/os"]), (&json!(node.name), &json!("linux")));
    assert_eq!(labels["node-role.kubernetes.io/edge"], "");
    let status = &node.hub.newest(kinds::NODE_STATUS, "").unwrap()["status"];
    assert!(status["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap().starts_with("containerd://1."));
    assert!(status["nodeInfo"]["kubeletVersion"].as_str().unwrap().starts_with("v1.33.0-skerry."));
    assert_eq!(status["capacity"]["pods"], "110");
    assert!(status["images"].to_string().contains(IMAGE));
    // The link comes up: the status is told at once, with the condition.
    let before = node.hub.received(kinds::NODE_STATUS).len();
    node.hub.put(kinds::LINK, "", "link", json!({"connected": true, "reason": "", "session": 1, "storeProblem": ""}));
    wait("another status", || node.hub.received(kinds::NODE_STATUS).len() > before, String::new).await;
    assert_eq!(node.node_condition("CloudConnected").unwrap().0, "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_back_with_their_configuration_after_a_loss_of_everything_that_ran() {
    let mut node = Node::start().await;
    node.hub.put(kinds::SECRET, "test", "s", json!({"data": {"key": "c2VjcmV0"}}));
    let mut container = shell("echo key=$(cat /s/key); trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done");
    container["volumeMounts"] = json!([{"name": "s", "mountPath": "/s"}]);
    let volumes = json!([{"name": "s", "secret": {"secretName": "s"}}]);
    node.put_pod("p", "uid-1", json!({"containers": [container.clone()], "volumes": volumes}));
    let mut once = container;
    once["name"] = "once".into();
    node.put_pod("q", "uid-2", json!({"restartPolicy": "Never", "containers": [once], "volumes": volumes}));
    node.until_running("uid-1").await;
    node.until_running("uid-2").await;
    // As after a reboot: the agent and every process are gone, tmpfs too; the runtime's database stays.
    node.kill_agent().await;
    node.containerd.runtime().unwrap().kill_daemon(Signal::SIGKILL);
    node.containerd.lose_processes();
    node.containerd.runtime().unwrap().start_daemon().unwrap();
    node.start_agent().await;
    let restarted = |s: &Value| s["containerStatuses"][0]["restartCount"] == 1 && condition(s, "Ready") == "True";
    let status = node.until("uid-1", "restart", restarted).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 255, "{status:#}");
    wait("the secret", || node.log("p", "uid-1", "c", 1).contains("key=secret"), || node.log("p", "uid-1", "c", 1))
        .await;
    node.until_event("uid-1", "SandboxChanged", "Pod sandbox changed").await;
    // A pod that may run once does not run twice.
    let status = node.until("uid-2", "failure", |s| s["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    node.delete_gracefully("p", 1);
    node.until_deleted("uid-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_and_an_agent_that_is_killed_at_any_moment_leave_nothing() {
    const PODS: usize = 12;
    let mut node = Node::start().await;
    let uid = |i: usize| format!("uid-churn-{i}");
    for i in 0..PODS {
        node.put_pod(&format!("p{i}"), &uid(i), sleeper());
    }
    // Spread over the start of all pods, which takes some seconds.
    for delay in [50, 120, 200, 310, 90, 430, 150, 260] {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        node.kill_agent().await;
        node.start_agent().await;
    }
    for i in 0..PODS {
        node.until_running(&uid(i)).await;
    }
    let running = || node.ctr(&["tasks", "ls"]).matches("RUNNING").count();
    wait("no more and no less", || running() == 2 * PODS, || node.ctr(&["tasks", "ls"])).await;
    for i in 0..PODS {
        node.delete_gracefully(&format!("p{i}"), 1);
    }
    for delay in [80, 200, 350, 140] {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        node.kill_agent().await;
        node.start_agent().await;
    }
    for i in 0..PODS {
        node.until_deleted(&uid(i)).await;
    }
    // An agent may have said so and been killed; the next one looks once more.
    let left = || {
        let groups = find_paths(Path::new("/sys/fs/cgroup"), "poduid-churn", 4).len();
        (node.ctr(&["containers", "ls", "-q"]), fs::read_dir(node.root().join("pods")).unwrap().count(), groups)
    };
    wait("nothing to be left", || left() == (String::new(), 0, 0), || format!("{:?}", left())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_runs_though_the_runtime_calls_it_ended_is_removed() {
    let node = Node::start().await;
    let mut once = shell("[ -e /ran ] && sleep 1000; touch /ran");
    once["name"] = "once".into();
    // The other keeps the sandbox.
    node.put_pod("p", "uid-1", json!({"restartPolicy": "Never", "containers": [once, shell("sleep 1000")]}));
    let id = || {
        let all = node.status("uid-1")["containerStatuses"].as_array().cloned().unwrap_or_default();
        let once = all.into_iter().find(|c| c["name"] == "once" && c["state"]["terminated"].is_object())?;
        once["containerID"].as_str()?.strip_prefix("containerd://").map(str::to_owned)
    };
    wait("its end", || id().is_some(), || format!("{:#}", node.status("uid-1"))).await;
    let id = &id().unwrap();
    // As it is when a start is given up after its task began.
    let said = node.ctr(&["tasks", "start", "--null-io", "--detach", id]);
    let tasks = node.ctr(&["tasks", "ls"]);
    assert!(tasks.lines().any(|l| l.starts_with(id) && l.contains("RUNNING")), "{said} {tasks}");
    node.delete_gracefully("p", 1);
    node.until_deleted("uid-1").await;
    node.until_event("uid-1", "FailedKillPod", "cannot delete running task").await;
    assert_eq!(node.ctr(&["containers", "ls", "-q"]).trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_network_pod_and_a_privileged_one_see_the_machine() {
    let node = Node::start().await;
    let mut container = shell("hostname; id -u; cat /proc/self/status | grep CapEff; sleep 1000");
    container["securityContext"] = json!({"runAsUser": 1234, "capabilities": {"drop": ["ALL"]}});
    node.put_pod(
        "host",
        "uid-1",
        json!({"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [container]}),
    );
    let mut container = shell("ls /dev/kmsg && touch /etc/x || echo read-only; sleep 1000");
    container["securityContext"] = json!({"privileged": true, "readOnlyRootFilesystem": true});
    node.put_pod("mighty", "uid-2", json!({"terminationGracePeriodSeconds": 0, "containers": [container]}));
    let status = node.until_running("uid-1").await;
    assert_eq!(status["podIP"], status["hostIP"]);
    node.until_running("uid-2").await;
    let log = || node.log("host", "uid-1", "c", 0);
    wait("the log", || log().contains("CapEff"), log).await;
    assert!(log().contains(" 1234\n") && log().contains("CapEff:\t0000000000000000"), "{}", log());
    let log = || node.log("mighty", "uid-2", "c", 0);
    wait("the log", || log().contains("read-only"), log).await;
    assert!(log().contains("/dev/kmsg"), "{}", log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_run_again_though_the_runtime_lost_it() {
    let mut node = Node::start().await;
    node.put_pod("job", "uid-1", json!({"restartPolicy": "Never", "containers": [shell("exit 0")]}));
    let first = node.until("uid-1", "success", |s| s["phase"] == "Succeeded").await;
    node.kill_agent().await;
    for id in node.ctr(&["containers", "ls", "-q"]).lines() {
        node.ctr(&["containers", "rm", id]);
    }
    // The runtime forgets what its database does not have.
    node.containerd.runtime().unwrap().kill_daemon(Signal::SIGKILL);
    node.containerd.runtime().unwrap().start_daemon().unwrap();
    let reports = node.hub.received(kinds::POD_STATUS).len();
    node.start_agent().await;
    wait("a report", || node.hub.received(kinds::POD_STATUS).len() > reports, String::new).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let second = node.status("uid-1");
    assert_eq!((&second["phase"], &second["startTime"]), (&json!("Succeeded"), &first["startTime"]));
    assert_eq!(second["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed", "{second:#}");
    assert_eq!(node.ctr(&["tasks", "ls"]).matches("RUNNING").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_cloud_gave_up_tells_everything_again() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    node.until_running("uid-1").await;
    wait("the status", || node.node_condition("Ready").is_some_and(|c| c.0 == "True"), String::new).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = || (node.hub.received(kinds::POD_STATUS).len(), node.hub.received(kinds::NODE_STATUS).len());
    let before = count();
    let unknown = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
    node.hub.put(kinds::NODE, "", &node.name, json!({ "status": unknown }));
    wait("both again", || count().0 > before.0 && count().1 > before.1, || format!("{:?}", count())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_vanishes_and_comes_again_runs_again() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    let first = node.until_running("uid-1").await;
    let pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    node.hub.delete(kinds::POD, "test", "p");
    node.until_event("uid-1", "Killing", "Stopping").await;
    node.hub.put(kinds::POD, "test", "p", pod);
    let id = |s: &Value| s["containerStatuses"][0]["containerID"].clone();
    node.until("uid-1", "another container", |s| condition(s, "Ready") == "True" && id(s) != id(&first)).await;
    assert!(node.hub.received(kinds::POD_DELETION).is_empty(), "nobody asked to delete the object");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_the_image_replaces_the_container_alone() {
    let node = Node::start().await;
    let other = "skerry.test/busybox:2";
    assert!(node.ctr(&["images", "tag", IMAGE, other]).contains(other));
    node.put_pod("p", "uid-1", sleeper());
    let first = node.until_running("uid-1").await;
    let mut pod = node.hub.get(kinds::POD, "test", "p").unwrap();
    pod["spec"]["containers"][0]["image"] = other.into();
    node.hub.put(kinds::POD, "test", "p", pod);
    let restarted = |s: &Value| s["containerStatuses"][0]["restartCount"] == 1 && condition(s, "Ready") == "True";
    let second = node.until("uid-1", "the new image", restarted).await;
    assert_eq!(first["podIP"], second["podIP"], "the sandbox stays");
    node.until_event("uid-1", "Killing", "definition changed, will be restarted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_taken_away_under_running_pods_leaves_nothing() {
    let mut node = Node::start().await;
    node.put_pod("p", "uid-taken-away", sleeper());
    node.until_running("uid-taken-away").await;
    let sandbox = node.sandbox_ids().pop().unwrap();
    let (dir, bridge) = (node.containerd.dir().to_owned(), node.containerd.runtime().unwrap().options().bridge.clone());
    node.kill_agent().await;
    drop(node);
    assert!(!dir.exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.to_str().unwrap()));
    assert!(!Path::new("/sys/class/net").join(&bridge).exists());
    assert!(find_paths(Path::new("/sys/fs/cgroup"), "poduid-taken-away", 4).is_empty());
    let cached = fs::read_dir("/var/lib/cni/results").map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    assert!(!cached.iter().any(|e| e.file_name().to_string_lossy().contains(&sandbox)));
}
