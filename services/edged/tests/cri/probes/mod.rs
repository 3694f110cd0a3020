//! Probes on a real containerd, with every line "Probing container" of the conformance list.

mod server;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use skerry_common::kinds;

use crate::node::{IMAGE, Node, condition, wait};
use crate::shell;

/// Enough to say that it goes on well.
const OFTEN: usize = 4;

/// A pod of one container with these probes, each asking every second and patient with a busy machine.
fn pod(script: &str, probes: Value) -> Value {
    let mut container = shell(script);
    for (kind, probe) in probes.as_object().unwrap() {
        let mut probe = probe.clone();
        for (field, value) in [("periodSeconds", 1), ("timeoutSeconds", 10), ("failureThreshold", 2)] {
            if probe.get(field).is_none() {
                probe[field] = value.into();
            }
        }
        container[kind] = probe;
    }
    json!({ "terminationGracePeriodSeconds": 1, "containers": [container] })
}

fn exec(command: &str) -> Value {
    json!({ "exec": { "command": ["/bin/sh", "-c", command] } })
}

/// Asks until the container is up, so that the other probes may be strict.
fn patient(probe: &Value) -> Value {
    let mut probe = probe.clone();
    probe["failureThreshold"] = 100.into();
    probe
}

fn asked(node: &Node, kind: &str, result: &str) -> u64 {
    node.metric(&format!("skerry_edged_prober_probe_total{{probe_type=\"{kind}\",result=\"{result}\"}}"))
}

fn restarts(status: &Value) -> i64 {
    status["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default()
}

/// All statuses of a pod that were ever reported, oldest first.
fn reports(node: &Node, uid: &str) -> Vec<Value> {
    let all = node.hub.received(kinds::POD_STATUS).into_iter().filter(|r| r.uid == uid);
    all.map(|r| r.body["status"].clone()).collect()
}

fn ready(status: &Value) -> bool {
    condition(status, "Ready") == "True"
}

fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

/// Processes of this machine whose command line has this part.
fn processes(part: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|p| {
        let line = fs::read(p.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(part)
    })
    .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_container_is_not_restarted() {
    let node = Node::start().await;
    let said = "echo probed > /proc/1/fd/1";
    let http = json!({ "httpGet": { "path": "/healthz", "port": "web" } });
    let tcp = json!({ "tcpSocket": { "port": 8080 } });
    let cat = exec(&format!("cat /tmp/health && {said}"));
    let answer = format!("#!/bin/sh\\n{said}\\n");
    for (name, script, probe) in [
        ("http", "mkdir /www; echo ok > /www/healthz; exec httpd -f -vv -p 8080 -h /www 2>&1".to_owned(), &http),
        ("exec", "echo ok > /tmp/health; sleep 600".to_owned(), &cat),
        ("tcp", format!("printf '{answer}' > /t; chmod +x /t; exec nc -ll -p 8080 -e /t"), &tcp),
    ] {
        let mut spec = pod(&script, json!({ "startupProbe": patient(probe), "livenessProbe": probe }));
        spec["containers"][0]["ports"] = json!([{ "name": "web", "containerPort": 8080 }]);
        node.put_pod(name, name, spec);
    }
    for (name, line) in [("http", "url:/healthz"), ("exec", "probed"), ("tcp", "probed")] {
        let log = || node.log(name, name, "c", 0);
        wait("many probes", || log().matches(line).count() > OFTEN, || format!("{}{:#?}", log(), node.all_events()))
            .await;
        assert_eq!(restarts(&node.status(name)), 0);
        assert!(node.hub.events(name, "Killing").is_empty(), "{:#?}", node.all_events());
    }
    assert!(asked(&node, "Liveness", "successful") > OFTEN as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_decides_about_restarts() {
    let (port, health, _trigger) = server::grpc().await;
    // The probe has no host of its own: a pod on the host's network shares the server's address.
    let node = Node::start_at(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))).await;
    let mut spec = pod("exec sleep 600", json!({ "livenessProbe": { "grpc": { "port": port } } }));
    spec["hostNetwork"] = true.into();
    node.put_pod("p", "uid-1", spec);
    let often = || asked(&node, "Liveness", "successful") > OFTEN as u64;
    wait("many probes", often, || format!("{:#?}", node.all_events())).await;
    assert_eq!(restarts(&node.status("uid-1")), 0);
    health.set_all(false).await;
    node.until("uid-1", "a restart", |s| restarts(s) > 0).await;
    node.until_event("uid-1", "Unhealthy", "Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_container_is_restarted_and_the_count_only_grows() {
    let node = Node::start().await;
    let http = json!({ "httpGet": { "path": "/healthz", "port": 8080 } });
    let serve = "mkdir /www; echo ok > /www/healthz; httpd -p 8080 -h /www; sleep 3; rm /www/healthz; exec sleep 600";
    node.put_pod("http", "http", pod(serve, json!({ "startupProbe": patient(&http), "livenessProbe": http })));
    let health = "echo ok > /tmp/health; sleep 3; rm /tmp/health; exec sleep 600";
    node.put_pod("exec", "exec", pod(health, json!({ "livenessProbe": exec("cat /tmp/health") })));
    for (name, why) in [
        ("http", "Liveness probe failed: HTTP probe failed with statuscode: 404"),
        ("exec", "Liveness probe failed: cat: can't open '/tmp/health': No such file or directory"),
    ] {
        let status =
            node.until(name, "a restart", |s| restarts(s) == 1 && s["containerStatuses"][0]["started"] == true).await;
        let last = &status["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("Error")), "{status:#}");
        node.until_event(name, "Unhealthy", why).await;
        node.until_event(name, "Killing", "Container c failed liveness probe, will be restarted").await;
    }
    // The second restart waits for the crash loop's delay.
    node.until("exec", "another restart", |s| restarts(s) == 2).await;
    let counts: Vec<i64> = reports(&node, "exec").iter().map(restarts).collect();
    assert!(counts.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_container_is_restarted_though_it_ends_well() {
    let node = Node::start().await;
    let run = "trap 'exit 0' TERM; touch /tmp/up; while true; do sleep 0.1 & wait $!; done";
    let mut spec = pod(run, json!({ "livenessProbe": exec("test ! -f /tmp/up") }));
    spec["restartPolicy"] = "OnFailure".into();
    node.put_pod("p", "uid-1", spec);
    let status = node.until("uid-1", "a restart", |s| restarts(s) >= 1).await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(0), &json!("Completed")), "{status:#}");
    assert!(reports(&node, "uid-1").iter().all(|s| s["phase"] != "Succeeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_its_delay_and_never_restarts() {
    const DELAY: i64 = 4;
    let node = Node::start().await;
    let mut probe = exec("exit 0");
    probe["initialDelaySeconds"] = DELAY.into();
    node.put_pod("late", "late", pod("exec sleep 600", json!({ "readinessProbe": probe })));
    let failing = exec("echo no; exit 1");
    node.put_pod("never", "never", pod("exec sleep 600", json!({ "readinessProbe": failing })));
    let status = node.until_running("late").await;
    let began = seconds(&status["containerStatuses"][0]["state"]["running"]["startedAt"]);
    let conditions = status["conditions"].as_array().unwrap();
    let since = seconds(&conditions.iter().find(|c| c["type"] == "Ready").unwrap()["lastTransitionTime"]);
    assert!(since - began >= DELAY, "ready {} s after the start", since - began);
    assert_eq!(restarts(&status), 0);

    wait("many failures", || asked(&node, "Readiness", "failed") > OFTEN as u64, String::new).await;
    node.until_event("never", "Unhealthy", "Readiness probe failed: no").await;
    let all = reports(&node, "never");
    assert!(all.iter().all(|s| !ready(s) && restarts(s) == 0), "{all:#?}");
    let last = all.last().unwrap();
    assert_eq!((&last["phase"], &last["containerStatuses"][0]["started"]), (&json!("Running"), &json!(true)));
    assert!(node.hub.events("never", "Killing").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_startup_probe_goes_before_the_others() {
    let node = Node::start().await;
    let up = exec("test -f /tmp/up");
    let probes = json!({ "startupProbe": patient(&up), "livenessProbe": up, "readinessProbe": exec("exit 0") });
    node.put_pod("slow", "slow", pod("sleep 4; touch /tmp/up; exec sleep 600", probes));
    let mut startup = exec("exit 1");
    startup["failureThreshold"] = 2.into();
    node.put_pod("stuck", "stuck", pod("exec sleep 600", json!({ "startupProbe": startup })));
    let running = |s: &Value| s["containerStatuses"][0]["state"]["running"].is_object();
    let started = |s: &Value| s["containerStatuses"][0]["started"] == true;
    node.until_running("slow").await;
    let all = reports(&node, "slow");
    assert!(all.iter().any(|s| running(s) && !started(s) && !ready(s)), "{all:#?}");
    assert!(all.iter().all(|s| started(s) || !ready(s)), "{all:#?}");
    assert_eq!(restarts(all.last().unwrap()), 0);
    assert!(node.hub.events("slow", "Killing").is_empty(), "{:#?}", node.all_events());
    node.until("stuck", "a restart", |s| restarts(s) == 1).await;
    node.until_event("stuck", "Killing", "Container c failed startup probe, will be restarted").await;
    assert!(reports(&node, "stuck").iter().all(|s| !started(s)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_probe_that_never_ends_leaves_no_process_and_no_task() {
    let node = Node::start().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let marker = format!("sleep 98{}", std::process::id());
    let mut probe = exec(&marker);
    probe["timeoutSeconds"] = 1.into();
    node.put_pod("warm", "warm", pod("exec sleep 600", json!({ "readinessProbe": exec("exit 0") })));
    node.until_running("warm").await;
    let before = tasks();
    node.put_pod("p", "uid-1", pod("exec sleep 600", json!({ "readinessProbe": probe })));
    wait("many timeouts", || asked(&node, "Readiness", "failed") >= 3, || format!("{:#?}", node.all_events())).await;
    let message = format!("Readiness probe failed: command timed out: \"/bin/sh -c {marker}\" timed out after 1s");
    node.until_event("uid-1", "Unhealthy", &message).await;
    // The shell and its child, of the one question that is open.
    assert!(processes(&marker) <= 2, "{}", processes(&marker));
    node.delete_gracefully("p", 0);
    node.until_deleted("uid-1").await;
    wait("no process", || processes(&marker) == 0, || processes(&marker).to_string()).await;
    wait("no task", || tasks() <= before, || format!("{} tasks, {before} before", tasks())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_hangs_makes_nobody_unhealthy() {
    let mut node = Node::start().await;
    let mut probe = exec("exit 0");
    (probe["timeoutSeconds"], probe["failureThreshold"]) = (1.into(), 1.into());
    node.put_pod("p", "uid-1", pod("exec sleep 600", json!({ "livenessProbe": probe })));
    let successes = |node: &Node| asked(node, "Liveness", "successful");
    wait("a success", || successes(&node) > 0, || format!("{:#?}", node.all_events())).await;
    node.containerd.runtime().unwrap().freeze_daemon(true);
    let unknown = || asked(&node, "Liveness", "unknown") > 0;
    wait("no answer", unknown, || format!("{:#?}", node.all_events())).await;
    node.containerd.runtime().unwrap().freeze_daemon(false);
    let before = successes(&node);
    wait("answers again", || successes(&node) > before + 1, || format!("{:#?}", node.all_events())).await;
    assert_eq!(restarts(&node.status("uid-1")), 0);
    assert!(node.hub.events("uid-1", "Killing").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probes_own_grace_period_goes_before_the_pods() {
    let node = Node::start().await;
    let mut probe = exec("exit 1");
    probe["terminationGracePeriodSeconds"] = 1.into();
    // The first process of a container ignores SIGTERM unless it says otherwise.
    let mut spec = pod("exec sleep 6000", json!({ "livenessProbe": probe }));
    spec["terminationGracePeriodSeconds"] = 3600.into();
    node.put_pod("p", "uid-1", spec);
    let status = node.until("uid-1", "a restart", |s| restarts(s) == 1).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137, "{status:#}");
    node.delete_gracefully("p", 0);
    node.until_deleted("uid-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_any_certificate_and_redirects() {
    let web = server::Web::start().await;
    let node = Node::start().await;
    let get = |path: &str| json!({ "httpGet": { "host": "127.0.0.1", "port": web.address.port(), "scheme": "HTTPS", "path": path } });
    for path in ["here", "moved", "away", "gone"] {
        let probe = json!({ "readinessProbe": get(&format!("/{path}")) });
        node.put_pod(path, path, pod("exec sleep 600", probe));
    }
    for path in ["here", "moved", "away"] {
        node.until_running(path).await;
    }
    assert!(web.served.load(Ordering::Relaxed) >= 2, "the redirect was followed");
    node.until_event("away", "ProbeWarning", "Readiness probe warning: Probe terminated redirects, Response body: ")
        .await;
    node.until_event("gone", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404").await;
    assert!(reports(&node, "gone").iter().all(|s| !ready(s)));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_on_while_the_pod_ends() {
    let node = Node::start().await;
    let script = "touch /tmp/up; trap 'rm /tmp/up; sleep 600 & wait $!' TERM; while true; do sleep 1 & wait $!; done";
    let probes = json!({ "readinessProbe": exec("test -f /tmp/up"), "livenessProbe": exec("test -f /tmp/up") });
    node.put_pod("p", "uid-1", pod(script, probes));
    node.until_running("uid-1").await;
    node.delete_gracefully("p", 3600);
    let status = node.until("uid-1", "not ready", |s| !ready(s)).await;
    assert!(status["containerStatuses"][0]["state"]["running"].is_object(), "{status:#}");
    assert!(
        node.hub.events("uid-1", "Unhealthy").iter().all(|m| m.starts_with("Readiness")),
        "{:#?}",
        node.all_events()
    );
    node.delete_gracefully("p", 0);
    node.until_deleted("uid-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_agent_makes_nobody_unready() {
    let mut node = Node::start().await;
    let probe = exec("exit 0");
    let probes = json!({ "startupProbe": probe, "readinessProbe": probe });
    node.put_pod("p", "uid-1", pod("exec sleep 600", probes));
    node.until_running("uid-1").await;
    // What is not on the disk yet cannot be known after a kill.
    let kept = || fs::read_to_string(node.root().join("pods/uid-1/status.json")).unwrap_or_default();
    let kept = || serde_json::from_str(&kept()).unwrap_or(Value::Null);
    wait("the status on the disk", || ready(&kept()), || kept().to_string()).await;
    node.kill_agent().await;
    let before = reports(&node, "uid-1").len();
    node.start_agent().await;
    wait("a probe", || asked(&node, "Readiness", "successful") > 1, || format!("{:#?}", node.all_events())).await;
    let since = reports(&node, "uid-1").split_off(before);
    assert!(!since.is_empty() && since.iter().all(ready), "{}", json!(since));
    assert_eq!(asked(&node, "Startup", "successful"), 0, "it had started");
    assert_eq!(node.status("uid-1")["containerStatuses"][0]["image"], IMAGE);
}
