//! Commands, logs, exits, termination messages, init containers and the files that the node manages.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::kinds;
use skerry_edged::private_runtime::Image;

use super::{Sheet, check, plain, row};
use crate::node::{IMAGE, Node, condition, wait};

/// An image with an entrypoint and arguments of its own: `busybox sleep 2147483647`.
const WITH_ENTRYPOINT: &str = "skerry.test/entrypoint:1";

/// Waits for its process in the pod. The brackets keep this text out.
const WATCH: &str = "until grep -q '214748364[7]' /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.1; done; echo seen";

#[tokio::test(flavor = "multi_thread")]
async fn commands_override_what_the_image_says() {
    let mut node = Node::start().await;
    let mut image = Image::busybox(WITH_ENTRYPOINT);
    image.entrypoint = vec!["/bin/busybox".into(), "sleep".into()];
    image.cmd = vec!["2147483647".into()];
    node.containerd.runtime().unwrap().import(vec![image]).await.unwrap();
    let of = |name, fields: Value| {
        let mut row = row(name, "").with("command", Value::Null).with("image", json!(WITH_ENTRYPOINT));
        for (field, value) in fields.as_object().unwrap() {
            row = row.with(field, value.clone());
        }
        row
    };
    let rows = vec![
        of("arguments", json!({ "args": ["not-a-number"] })).sees("sleep: invalid number 'not-a-number'"),
        of("command", json!({ "command": ["/bin/busybox", "echo", "mine"] })).sees("mine"),
        of("command and arguments", json!({ "command": ["/bin/busybox"], "args": ["echo", "both"] })).sees("both"),
    ];
    let defaults = Sheet::new("defaults", vec![of("the image's own", json!({})), row("watches it", WATCH)])
        .with("shareProcessNamespace", json!(true));
    defaults.put(&node);
    check(&node, &[Sheet::new("overridden", rows)]).await;
    let seen = || defaults.output(&node, 1).contains("seen");
    wait("the image's own command", seen, || defaults.output(&node, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_log_and_end_as_expected() {
    let node = Node::start().await;
    let sheet = Sheet::new(
        "plain",
        vec![
            row("output goes to the log", "echo 'Hello World'").sees("Hello World"),
            row("a read-only root", "echo x > /file; echo ended")
                .with("securityContext", json!({ "readOnlyRootFilesystem": true }))
                .sees("/bin/sh: can't create /file: Read-only file system")
                .sees("ended"),
            row("a writable root", "echo written > /file; cat /file")
                .with("securityContext", json!({ "readOnlyRootFilesystem": false }))
                .sees("written"),
        ],
    );
    let with = |policy: &str, script: &str| {
        json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": 0, "containers": [
            { "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script] }] })
    };
    node.put_pod("false", "false", with("Always", "/bin/false"));
    // Ends twice, then stays: how often it ran is in its own volume.
    let count = "echo x >> /v/n; n=$(wc -l < /v/n); [ $n -ge 3 ] && exec sleep 1000; exit 1";
    let mut flaky = with("Always", count);
    flaky["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    flaky["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    node.put_pod("always", "always", flaky.clone());
    flaky["restartPolicy"] = "OnFailure".into();
    flaky["containers"][0]["command"][2] = "echo x >> /v/n; [ $(wc -l < /v/n) -ge 2 ]".into();
    node.put_pod("on-failure", "on-failure", flaky);
    node.put_pod("never", "never", with("Never", "exit 1"));
    node.hub.put(kinds::RUNTIME_CLASS, "", "plain", json!({ "handler": "runc" }));
    let classed = Sheet::new("classed", vec![row("of a RuntimeClass", "echo classed").sees("classed")])
        .with("runtimeClassName", json!("plain"))
        .with("overhead", json!({ "cpu": "10m", "memory": "8Mi" }));
    check(&node, &[sheet, classed]).await;
    let container = |s: &Value| s["containerStatuses"][0].clone();
    let crashed =
        node.until("false", "its end", |s| container(s)["lastState"]["terminated"]["reason"] == "Error").await;
    assert_eq!(container(&crashed)["lastState"]["terminated"]["exitCode"], 1);
    let never = node.until("never", "its end", |s| s["phase"] == "Failed").await;
    assert_eq!((&container(&never)["restartCount"], &container(&never)["ready"]), (&json!(0), &json!(false)));
    let twice = node.until("on-failure", "its end", |s| s["phase"] == "Succeeded").await;
    assert_eq!(container(&twice)["restartCount"], 1);
    // A container that always fails can be deleted.
    node.delete_gracefully("false", 0);
    node.until_deleted("false").await;
    let always = node
        .until("always", "the third start", |s| container(s)["restartCount"] == 2 && condition(s, "Ready") == "True")
        .await;
    assert_eq!((&always["phase"], &container(&always)["started"]), (&json!("Running"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn termination_messages_are_reported() {
    let node = Node::start().await;
    let of = |name: &str, policy: &str, script: &str| json!({ "name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script], "terminationMessagePolicy": policy });
    let mut custom = of("custom", "File", "echo -n DONE > /dev/termination-custom-log");
    custom["terminationMessagePath"] = "/dev/termination-custom-log".into();
    custom["securityContext"] = json!({ "runAsUser": 1000 });
    let fallback = "FallbackToLogsOnError";
    let spec = json!({ "restartPolicy": "Never", "containers": [
        custom,
        of("log", fallback, "echo -n DONE; exit 1"),
        of("empty", fallback, "echo -n DONE; exit 0"),
        of("file", fallback, "echo -n OK > /dev/termination-log; echo noise; exit 0"),
        of("long", "File", "head -c 5000 /dev/zero | tr '\\\\0' x > /dev/termination-log"),
    ]});
    node.put_pod("messages", "messages", spec);
    let status = node.until("messages", "the end", |s| s["phase"] == "Failed").await;
    let message = |name: &str| {
        let all = status["containerStatuses"].as_array().unwrap();
        let one = all.iter().find(|c| c["name"] == name).unwrap();
        one["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let got: Vec<String> = ["custom", "log", "empty", "file"].map(message).to_vec();
    assert_eq!(got, ["DONE", "DONE", "", "OK"]);
    assert!(message("long").len() <= 4096 && message("long").len() > 2000, "{}", message("long").len());
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_first_and_in_order() {
    let node = Node::start().await;
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let one = |name: &str, script: &str| json!({ "name": name, "image": IMAGE, "command": ["/bin/sh", "-c", script], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    let spec = |policy: &str, init: [&str; 2], app: &str| {
        json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": 0, "volumes": volumes,
            "initContainers": [one("init1", init[0]), one("init2", init[1])], "containers": [one("app", app)] })
    };
    let order = ["echo 1 >> /v/order", "echo 2 >> /v/order"];
    node.put_pod("never", "never", spec("Never", order, "cat /v/order"));
    node.put_pod("always", "always", spec("Always", order, "cat /v/order; sleep 1000"));
    let broken = ["echo 1", "exit 1"];
    node.put_pod("broken-never", "broken-never", spec("Never", broken, "echo app"));
    node.put_pod("broken-always", "broken-always", spec("Always", ["exit 1", "echo 2"], "echo app"));
    node.until("never", "the end", |s| s["phase"] == "Succeeded").await;
    assert_eq!(plain(&node.log("never", "never", "app", 0)), "1\n2\n");
    let status = node.until_running("always").await;
    assert_eq!(condition(&status, "Initialized"), "True");
    assert!(
        status["initContainerStatuses"].as_array().unwrap().iter().all(|c| c["state"]["terminated"]["exitCode"] == 0)
    );
    let status = node.until("broken-never", "the end", |s| s["phase"] == "Failed").await;
    assert_eq!(condition(&status, "Initialized"), "False");
    let retried = |s: &Value| s["initContainerStatuses"][0]["restartCount"].as_i64() >= Some(2);
    let status = node.until("broken-always", "two retries", retried).await;
    assert_eq!((&status["phase"], condition(&status, "Initialized").as_str()), (&json!("Pending"), "False"));
    for name in ["broken-never", "broken-always"] {
        assert_eq!(node.log(name, name, "app", 0), "", "{name}");
    }
    assert_eq!(node.log("broken-always", "broken-always", "init2", 0), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_file_and_the_resolver_are_managed() {
    let node = Node::start().await;
    let print = "head -n 1 /etc/hosts; tail -n 3 /etc/hosts; hostname";
    let aliases = json!([{ "ip": "123.45.67.89", "hostnames": ["foo", "bar"] }]);
    let managed = Sheet::new(
        "managed",
        vec![
            row("managed, with aliases", print)
                .sees("# Kubernetes-managed hosts file.")
                .sees("# Entries added by HostAliases.")
                .sees("123.45.67.89\tfoo\tbar")
                .sees("me"),
            row("a mount of the user's wins", "cat /etc/hosts").mount_with(json!({ "name": "own", "mountPath": "/etc/hosts", "subPath": "hosts" })).sees("own"),
        ],
    )
    .with("hostAliases", aliases)
    .with("hostname", json!("me"))
    .with("subdomain", json!("sub"))
    .with("volumes", json!([{ "name": "own", "downwardAPI": { "items": [{ "path": "hosts", "fieldRef": { "fieldPath": "metadata.labels['hosts']" } }] } }]))
    .metadata("labels", json!({ "hosts": "own" }));
    let host =
        Sheet::new("host", vec![row("host network", print).sees("# Kubernetes-managed hosts file (host network).")])
            .with("hostNetwork", json!(true));
    let dns = json!({ "nameservers": ["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4"], "searches": ["a.example"], "options": [{ "name": "ndots", "value": "2" }] });
    let resolver = Sheet::new(
        "resolver",
        vec![
            row("a resolver of its own", "cat /etc/resolv.conf")
                .sees("search a.example")
                .sees("nameserver 9.9.9.1")
                .sees("nameserver 9.9.9.3")
                .sees("options ndots:2"),
        ],
    )
    .with("dnsPolicy", json!("None"))
    .with("dnsConfig", dns);
    let full =
        Sheet::new("full", vec![row("the full name as hostname", "hostname").sees("full.s.test.svc.cluster.local")])
            .with("subdomain", json!("s"))
            .with("setHostnameAsFQDN", json!(true));
    let long = Sheet::new("long", vec![row("never starts", "hostname")])
        .with("subdomain", json!("s".repeat(63)))
        .with("setHostnameAsFQDN", json!(true));
    long.put(&node);
    let sheets = [managed, host, resolver, full];
    check(&node, &sheets).await;
    node.until_event("resolver", "DNSConfigForming", "the applied nameserver line is: 9.9.9.1 9.9.9.2 9.9.9.3").await;
    node.until_event("managed", "MissingClusterDNS", "Falling back to \"Default\" policy").await;
    node.until_event("long", "FailedCreatePodSandBox", "is too long (64 characters is the max").await;
    let ip = node.status("managed")["podIP"].as_str().unwrap().to_owned();
    let hosts = std::fs::read_to_string(node.root().join("pods/managed/etc-hosts")).unwrap();
    assert!(hosts.contains(&format!("{ip}\tme.sub.test.svc.cluster.local\tme\n")), "{hosts}");
    assert!(!sheets[2].output(&node, 0).contains("9.9.9.4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_updated_and_removed() {
    let node = Node::start().await;
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [
        { "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"] }] });
    for name in ["kept", "removed"] {
        node.put_pod(name, name, spec.clone());
    }
    let first = node.until_running("kept").await;
    node.until_running("removed").await;
    let mut pod = node.hub.get(kinds::POD, "test", "kept").unwrap();
    pod["metadata"]["labels"] = json!({ "time": "1" });
    pod["metadata"]["generation"] = 2.into();
    node.hub.put(kinds::POD, "test", "kept", pod.clone());
    node.until("kept", "the new generation", |s| s["observedGeneration"] == 2).await;
    let began = std::time::Instant::now();
    node.delete_gracefully("removed", 1);
    node.until_deleted("removed").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let same = |s: &Value| s["containerStatuses"][0]["containerID"] == first["containerStatuses"][0]["containerID"];
    assert!(same(&node.status("kept")), "new labels restart nothing");
    // A deadline that is set later ends the pod.
    pod["spec"]["activeDeadlineSeconds"] = 1.into();
    pod["metadata"]["generation"] = 3.into();
    node.hub.put(kinds::POD, "test", "kept", pod);
    let status = node.until("kept", "the deadline", |s| s["phase"] == "Failed").await;
    assert_eq!((&status["reason"], &status["observedGeneration"]), (&json!("DeadlineExceeded"), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_ask_over_http() {
    let node = Node::start().await;
    let serve = "mkdir /www; touch /www/poststart /www/prestop; exec httpd -f -vv -p 8080 -h /www 2>&1";
    let shell = |script: &str| json!({ "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script] });
    node.put_pod("server", "server", json!({ "terminationGracePeriodSeconds": 0, "containers": [shell(serve)] }));
    let ip = node.until_running("server").await["podIP"].as_str().unwrap().to_owned();
    let asks = |path: &str| json!({ "httpGet": { "host": ip, "port": 8080, "path": path } });
    let mut container = shell("trap 'exit 0' TERM; while true; do sleep 0.1 & wait $!; done");
    container["lifecycle"] = json!({ "postStart": asks("/poststart"), "preStop": asks("/prestop") });
    node.put_pod("hooked", "hooked", json!({ "terminationGracePeriodSeconds": 10, "containers": [container] }));
    node.until_running("hooked").await;
    let log = || node.log("server", "server", "c", 0);
    wait("the first hook", || log().contains("url:/poststart"), log).await;
    assert!(!log().contains("url:/prestop"), "{}", log());
    node.delete_gracefully("hooked", 10);
    node.until_deleted("hooked").await;
    wait("the second hook", || log().contains("url:/prestop"), log).await;
}
