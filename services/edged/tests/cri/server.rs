//! The node's API on real containers: who gets in, logs, commands over WebSocket, statistics, limits.

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::api::Who;
use crate::node::{Node, wait};
use crate::{shell, sleeper};

const API: Who = Who::Service("apiserver");
/// As many as the node serves.
const MAX_STREAMS: usize = 256;

fn pod(script: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [shell(script)]})
}

async fn until_logged(node: &Node, uid: &str, text: &str) {
    let log = || node.log("p", uid, "c", 0);
    wait(text, || log().contains(text), log).await;
}

/// Opens a WebSocket with a sub-protocol.
async fn websocket(
    node: &Node,
    path: &str,
    protocol: &str,
) -> Result<WebSocketStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>>, u16> {
    let mut request = format!("wss://kubelet.example{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    match tokio_tungstenite::client_async(request, node.dial(API).await).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// What came on each channel until the end.
async fn channels<S>(mut socket: WebSocketStream<S>) -> Vec<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut channels = vec![String::new(); 5];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message
            && let Some((channel, bytes)) = bytes.split_first()
        {
            channels[usize::from(*channel)].push_str(&String::from_utf8_lossy(bytes));
        }
    }
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_asks_who_calls() {
    let node = Node::start().await;
    node.hub.review("good", "ann", true);
    node.hub.review("poor", "bob", false);
    node.hub.review("carl", "carl", true);
    let paths = [
        ("GET", "/healthz"),
        ("GET", "/pods"),
        ("GET", "/runningpods/"),
        ("GET", "/configz"),
        ("GET", "/stats/summary"),
        ("GET", "/metrics"),
        ("GET", "/metrics/resource"),
        ("GET", "/metrics/cadvisor"),
        ("GET", "/metrics/probes"),
        ("GET", "/containerLogs/test/p/c"),
        ("GET", "/exec/test/p/c?command=id&output=1"),
        ("POST", "/exec/test/p/c?command=id&output=1"),
        ("POST", "/attach/test/p/c?output=1"),
        ("POST", "/portForward/test/p"),
        ("POST", "/run/test/p/c?cmd=id"),
        ("GET", "/nothing"),
    ];
    for (method, path) in paths {
        for (who, status) in [
            (Who::Nobody, 401),
            (Who::Token("guess"), 401),
            (Who::Token("poor"), 403),
            (Who::OtherNode, 403),
            (Who::Service("cloudhub"), 403),
            (Who::User("dora"), 403),
        ] {
            let (found, text) = node.call(who, method, path).await;
            assert_eq!(found, status, "{method} {path} by {who:?}: {text}");
            assert!(text.len() < 200 && !text.contains("kind"), "{path} by {who:?}: {text}");
        }
        for who in [API, Who::Service("cloudstream"), Who::Token("good"), Who::User("carl")] {
            let (found, text) = node.call(who, method, path).await;
            assert!(![401, 403, 503].contains(&found), "{method} {path} by {who:?}: {found} {text}");
        }
    }
    let text = node.call(Who::OtherNode, "GET", "/stats/summary").await.1;
    assert_eq!(text, "Forbidden (user=node/another-node, verb=get, resource=nodes, subresource(s)=[stats])\n");
    assert!(node.hub.reviewed().iter().any(|asked| asked == "good get stats"), "{:?}", node.hub.reviewed());
    assert!(node.hub.reviewed().iter().any(|asked| asked == "poor create proxy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_cloud_are_kept_and_without_it_nobody_new_gets_in() {
    let node = Node::start().await;
    node.hub.review("good", "ann", true);
    for _ in 0..3 {
        assert_eq!(node.call(Who::Token("good"), "GET", "/healthz").await.0, 200);
        assert_eq!(node.call(Who::Token("guess"), "GET", "/healthz").await.0, 401);
    }
    assert_eq!(node.hub.reviewed().len(), 2, "{:?}", node.hub.reviewed());
    node.hub.cut_off_reviews();
    assert_eq!(node.call(Who::Token("good"), "GET", "/healthz").await.0, 200, "known");
    assert_eq!(node.call(Who::Token("good"), "GET", "/metrics").await.0, 503, "another question");
    assert_eq!(node.call(Who::User("ann"), "GET", "/healthz").await.0, 503);
    assert_eq!(node.get("/healthz").await, (200, "ok".into()), "certificates of ours need no cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_in_the_log_with_all_options() {
    let node = Node::start().await;
    // The runtime reads the two streams apart: what is near in time has no order between them.
    let script = "echo one; sleep 1; echo two >&2; sleep 1; printf part; sleep 1; echo -end; sleep 1; \
                  echo 'three' >&2; trap 'exit 0' TERM; while [ ! -e /tmp/go ]; do sleep 0.1; done; \
                  echo last";
    let mut spec = pod(script);
    spec["restartPolicy"] = "Never".into();
    node.put_pod("p", "uid-1", spec);
    until_logged(&node, "uid-1", "three").await;
    let logs = |query: &str| {
        let path = format!("/containerLogs/test/p/c?{query}");
        let node = &node;
        async move { node.get(&path).await }
    };
    assert_eq!(logs("").await, (200, "one\ntwo\npart-end\nthree\n".into()));
    assert_eq!(logs("stream=Stderr").await.1, "two\nthree\n");
    assert_eq!(logs("stream=Stdout").await.1, "one\npart-end\n");
    assert_eq!(logs("tailLines=1").await.1, "three\n");
    assert_eq!(logs("limitBytes=6").await.1, "one\ntw");
    assert_eq!(logs("sinceTime=2100-01-01T00:00:00Z").await.1, "");
    let stamped = logs("timestamps=true&tailLines=1").await.1;
    assert!(stamped.ends_with("Z three\n") || stamped.ends_with(":00 three\n"), "{stamped}");
    assert_eq!(logs("tailLines=-1").await.0, 422);
    let none = "previous terminated container \"c\" in pod \"p\" not found";
    assert_eq!(logs("previous=true").await, (400, none.into()));

    // Followed: what is there, what comes, and the end with the container.
    let mut follow = node.ask(API, "GET", "/containerLogs/test/p/c?follow=true&tailLines=1").await.into_body();
    let first = follow.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "three\n");
    let began = Instant::now();
    assert_eq!(node.call(API, "POST", "/run/test/p/c?cmd=touch+/tmp/go").await.0, 200);
    assert_eq!(follow.collect().await.unwrap().to_bytes(), "last\n");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    node.until("uid-1", "success", |s| s["phase"] == "Succeeded").await;
    assert_eq!(logs("follow=true&tailLines=1").await.1, "last\n", "the log of one that has ended");

    for (path, status, text) in [
        ("/containerLogs/test/q/c", 404, "pod \"q\" does not exist"),
        ("/containerLogs/test/p/d", 404, "container \"d\" not found in pod \"p\""),
        ("/containerLogs/other/p/c", 404, "pod \"p\" does not exist"),
    ] {
        assert_eq!(node.get(path).await, (status, text.into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_container_before_and_why_there_is_none() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", pod("echo run-$((RANDOM)); sleep 2; exit 1"));
    node.until("uid-1", "a restart", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    let first = node.log("p", "uid-1", "c", 0);
    let first = first.split(" F ").nth(1).unwrap();
    assert_eq!(node.get("/containerLogs/test/p/c?previous=true").await, (200, first.to_owned()));
    let mut missing = shell("true");
    missing["image"] = "skerry.test/missing:1".into();
    missing["imagePullPolicy"] = "Never".into();
    node.put_pod("q", "uid-2", json!({"containers": [missing]}));
    let reason = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull";
    node.until("uid-2", "waiting", reason).await;
    let text = "container \"c\" in pod \"q\" is waiting to start: ErrImageNeverPull";
    assert_eq!(node.get("/containerLogs/test/q/c").await, (400, text.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_over_websockets() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    node.until_running("uid-1").await;
    let command = "command=sh&command=-c&command=echo+out;echo+err+%3E%262;exit+3";
    for protocol in ["channel.k8s.io", "v4.channel.k8s.io"] {
        let path = format!("/exec/test/p/c?output=1&error=1&{command}");
        let found = channels(websocket(&node, &path, protocol).await.unwrap()).await;
        assert_eq!((found[1].as_str(), found[2].as_str()), ("out\n", "err\n"), "{protocol}: {found:?}");
        assert!(protocol == "channel.k8s.io" || found[3].contains("NonZeroExitCode"), "{protocol}: {found:?}");
    }
    let uid = websocket(&node, "/exec/test/p/uid-1/c?output=1&command=echo&command=yes", "v4.channel.k8s.io").await;
    assert_eq!(channels(uid.unwrap()).await[1], "yes\n");

    // Into it, and out again.
    let path = "/exec/test/p/c?input=1&output=1&command=head&command=-n1";
    let mut cat = websocket(&node, path, "v4.channel.k8s.io").await.unwrap();
    cat.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
    assert_eq!(channels(cat).await[1], "hello\n");

    for (path, status) in [
        ("/exec/test/p/c?output=1", 400),
        ("/exec/test/p/c?command=id", 400),
        ("/exec/test/q/c?output=1&command=id", 404),
        ("/exec/test/p/uid-2/c?output=1&command=id", 404),
        ("/exec/test/p/d?output=1&command=id", 500),
        ("/portForward/test/q", 404),
    ] {
        let refused = websocket(&node, path, "v4.channel.k8s.io").await.map(drop).unwrap_err();
        assert_eq!(refused, status, "{path}");
    }
    let (status, text) = node.call(API, "POST", "/exec/test/p/c?output=1&command=id").await;
    assert_eq!((status, text.as_str()), (400, "Upgrade request required"));
    let (status, text) = node.call(API, "POST", "/run/test/p/c?cmd=echo+a").await;
    assert_eq!((status, text.as_str()), (200, "a\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_client_and_others_go_on() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", sleeper());
    node.until_running("uid-1").await;
    let running = |word: &str| {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let with =
            |e: &std::fs::DirEntry| std::fs::read_to_string(e.path().join("cmdline")).is_ok_and(|c| c.contains(word));
        all.filter(with).count()
    };
    let exec = |seconds: &str| {
        let path = format!("/exec/test/p/c?output=1&command=sleep&command={seconds}");
        let node = &node;
        async move { websocket(node, &path, "v4.channel.k8s.io").await.unwrap() }
    };
    let (doomed, stays) = (exec("48151623").await, exec("48151642").await);
    wait("both run", || running("48151623") == 1 && running("48151642") == 1, String::new).await;
    drop(doomed);
    wait("the first ends", || running("48151623") == 0, String::new).await;
    assert_eq!(running("48151642"), 1);
    assert_eq!(node.status("uid-1")["containerStatuses"][0]["restartCount"], 0);
    drop(stays);
    wait("the second ends", || running("48151642") == 0, String::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_streams() {
    let node = Node::start().await;
    node.put_pod("p", "uid-1", pod("echo up; trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"));
    until_logged(&node, "uid-1", "up").await;
    let path = "/containerLogs/test/p/c?follow=true";
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut body = node.ask(API, "GET", path).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "up\n");
        open.push(body);
    }
    assert_eq!(node.get(path).await, (429, "too many open streams on this node".into()));
    let refused = websocket(&node, "/exec/test/p/c?output=1&command=id", "v4.channel.k8s.io").await;
    assert_eq!(refused.map(drop).unwrap_err(), 429);
    assert_eq!(node.get("/healthz").await.0, 200, "what is no stream goes on");
    let streams = || node.metric("skerry_edged_streams{kind=\"logs\"}");
    assert_eq!(streams(), MAX_STREAMS as u64);
    open.clear();
    wait("their end", || streams() == 0, || streams().to_string()).await;
    assert_eq!(node.get("/containerLogs/test/p/c").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_pods_are_shown() {
    let node = Node::start().await;
    let mut spec = sleeper();
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    node.put_pod("p", "uid-1", spec);
    node.until_running("uid-1").await;
    let parsed = |(status, text): (u16, String)| -> Value {
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let summary = parsed(node.get("/stats/summary").await);
    assert_eq!(summary["node"]["nodeName"], node.name);
    let mine = summary["pods"].as_array().unwrap().iter().find(|p| p["podRef"]["uid"] == "uid-1").unwrap();
    assert!(mine["containers"][0]["memory"]["workingSetBytes"].as_u64().unwrap() > 0, "{mine:#}");
    let pods = parsed(node.get("/pods").await);
    assert_eq!(
        (&pods["items"][0]["metadata"]["name"], &pods["items"][0]["status"]["phase"]),
        (&json!("p"), &json!("Running"))
    );
    let running = parsed(node.get("/runningpods/").await);
    assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "c");
    assert_eq!(parsed(node.get("/configz").await)["kubeletconfig"]["maxPods"], 110);
    let resource = node.get("/metrics/resource").await.1;
    assert!(
        resource.contains("container_memory_working_set_bytes{container=\"c\",namespace=\"test\",pod=\"p\"}"),
        "{resource}"
    );
    assert!(node.get("/metrics/cadvisor").await.1.contains("container_cpu_usage_seconds_total{container=\"c\","));
    assert!(node.get("/metrics").await.1.contains("skerry_edged_pods 1"));
    let probes = node.get("/metrics/probes").await;
    let counted = |line: &str| line.starts_with("prober_probe_total{probe_type=\"Readiness\",result=\"successful\"}");
    assert!(probes.0 == 200 && probes.1.lines().any(counted), "{probes:?}");
    assert_eq!(node.get("/metrics/nothing").await.0, 404);
    let answer = node.ask(API, "DELETE", "/pods").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET"));
}
