//! Security contexts, namespaces, kernel parameters, RuntimeClasses and host ports: what the container
//! sees, and what is refused in which words.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::kinds;
use skerry_edged::private_runtime::Image;

use crate::node::{IMAGE, Node, wait};

/// A pod whose only container runs a script and ends.
fn once(script: &str, pod: Value, container: Value) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script]}]
    });
    spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
    spec["containers"][0].as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    spec
}

fn of_pod(context: Value) -> Value {
    json!({ "securityContext": context })
}

/// Starts all pods at once and compares what each of them wrote.
async fn check(node: &Node, table: &[(&str, Value, &str)]) {
    for (name, spec, _) in table {
        node.put_pod(name, name, spec.clone());
    }
    for (name, _, want) in table {
        node.until(name, "the end", |s| s["phase"] == "Succeeded" || s["phase"] == "Failed").await;
        let log = node.log(name, name, "c", 0);
        let said: Vec<&str> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
        assert_eq!(said.join("\n"), *want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_sees_its_security_context() {
    let node = Node::start().await;
    fs::create_dir_all(node.root().join("seccomp")).unwrap();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
                         "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    fs::write(node.root().join("seccomp/no-mkdir.json"), profile.to_string()).unwrap();
    let status = |field: &str| format!("grep {field}: /proc/self/status | tr -d '\\t'");
    let own = |context: Value| json!({ "securityContext": context });
    let none = || json!({});
    let seccomp =
        |kind: &str, name: Option<&str>| own(json!({"seccompProfile": {"type": kind, "localhostProfile": name}}));
    let ids = "id -u; id -g";
    let link = "ip link add dummy0 type dummy 2>/dev/null && echo made || echo denied";
    let write = "touch /file 2>/dev/null && echo written || echo refused";
    check(
        &node,
        &[
            ("user", once("id -u", none(), own(json!({"runAsUser": 65534}))), "65534"),
            ("root", once("id -u", none(), own(json!({"runAsUser": 0}))), "0"),
            ("pod-ids", once(ids, of_pod(json!({"runAsUser": 1001, "runAsGroup": 2002})), none()), "1001\n2002"),
            (
                "own-ids",
                once(ids, of_pod(json!({"runAsUser": 1})), own(json!({"runAsUser": 1001, "runAsGroup": 2002}))),
                "1001\n2002",
            ),
            (
                "groups",
                once(
                    "id -G",
                    of_pod(json!({"runAsUser": 7, "runAsGroup": 8, "supplementalGroups": [1234], "fsGroup": 5678})),
                    none(),
                ),
                "8 1234 5678",
            ),
            ("non-root", once("id -u", of_pod(json!({"runAsNonRoot": true, "runAsUser": 5})), none()), "5"),
            ("unprivileged", once(link, none(), own(json!({"privileged": false}))), "denied"),
            (
                "privileged",
                once("mount -t tmpfs none /tmp && echo mounted", none(), own(json!({"privileged": true}))),
                "mounted",
            ),
            ("read-only", once(write, none(), own(json!({"readOnlyRootFilesystem": true}))), "refused"),
            ("writable", once(write, none(), own(json!({"readOnlyRootFilesystem": false}))), "written"),
            (
                "no-escalation",
                once(&status("NoNewPrivs"), none(), own(json!({"allowPrivilegeEscalation": false, "runAsUser": 1000}))),
                "NoNewPrivs:1",
            ),
            (
                "escalation",
                once(&status("NoNewPrivs"), none(), own(json!({"allowPrivilegeEscalation": true, "runAsUser": 1000}))),
                "NoNewPrivs:0",
            ),
            (
                "capabilities",
                once(&status("CapEff"), none(), own(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}))),
                "CapEff:0000000000001000",
            ),
            ("filtered", once(&status("Seccomp"), none(), seccomp("RuntimeDefault", None)), "Seccomp:2"),
            ("unconfined", once(&status("Seccomp"), none(), seccomp("Unconfined", None)), "Seccomp:0"),
            (
                "local",
                once("mkdir /tmp/x 2>/dev/null || echo refused", none(), seccomp("Localhost", Some("no-mkdir.json"))),
                "refused",
            ),
            (
                "masked",
                once(
                    "wc -c < /proc/keys; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused",
                    none(),
                    none(),
                ),
                "0\nrefused",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_kernel_parameters_are_the_pods() {
    let node = Node::start().await;
    let ns = |name: &str| {
        format!(
            "{name}:[{}]",
            fs::read_link(format!("/proc/self/ns/{name}"))
                .unwrap()
                .display()
                .to_string()
                .trim_start_matches(&format!("{name}:["))
                .trim_end_matches(']')
        )
    };
    let read = |name: &str| format!("readlink /proc/self/ns/{name}");
    let none = || json!({});
    let sysctls = |list: Value| of_pod(json!({ "sysctls": list }));
    // An orphan becomes a child of the sandbox's process, which has to reap it.
    let orphan = "cat /proc/1/comm; sh -c 'sleep 0.1 & true'; sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    check(
        &node,
        &[
            ("shared", once(orphan, json!({"shareProcessNamespace": true}), none()), "pause\n0"),
            ("alone", once("cat /proc/1/comm", none(), none()), "cat"),
            ("host-ipc", once(&read("ipc"), json!({"hostIPC": true}), none()), &ns("ipc")),
            ("host-network", once(&read("net"), json!({"hostNetwork": true}), none()), &ns("net")),
            ("host-pid", once(&read("pid"), json!({"hostPID": true}), none()), &ns("pid")),
            (
                "sysctl",
                once(
                    "cat /proc/sys/kernel/shm_rmid_forced",
                    sysctls(json!([{"name": "kernel.shm_rmid_forced", "value": "1"}])),
                    none(),
                ),
                "1",
            ),
            (
                "slashes",
                once(
                    "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
                    sysctls(json!([{"name": "net/ipv4/ip_unprivileged_port_start", "value": "81"}])),
                    none(),
                ),
                "81",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_run_is_refused_with_the_kubelets_words() {
    let mut node = Node::start().await;
    let mut named = Image::busybox("skerry.test/nobody:1");
    named.user = "nobody".into();
    node.containerd.runtime().unwrap().import(vec![named]).await.unwrap();
    node.hub.put(kinds::RUNTIME_CLASS, "", "unknown", json!({"handler": "no-such-handler"}));
    let non_root = || of_pod(json!({"runAsNonRoot": true}));
    let waiting = [
        (
            "as-root",
            once("true", non_root(), json!({})),
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root (pod: \"as-root_test(as-root)\", container: c)",
        ),
        (
            "zero",
            once("true", non_root(), json!({"securityContext": {"runAsUser": 0}})),
            "CreateContainerConfigError",
            "container's runAsUser breaks non-root policy (pod: \"zero_test(zero)\", container: c)",
        ),
        (
            "named",
            once("true", non_root(), json!({"image": "skerry.test/nobody:1"})),
            "CreateContainerConfigError",
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
        ),
        (
            "no-profile",
            once(
                "true",
                of_pod(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}})),
                json!({}),
            ),
            "CreateContainerError",
            "none.json",
        ),
        (
            "outside",
            once(
                "true",
                of_pod(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}})),
                json!({}),
            ),
            "CreateContainerConfigError",
            "must be a path below",
        ),
    ];
    let never_made = [
        (
            "no-class",
            once("true", json!({"runtimeClassName": "deleted"}), json!({})),
            "runtimeclass.node.k8s.io \"deleted\" not found",
        ),
        (
            "no-handler",
            once("true", json!({"runtimeClassName": "unknown"}), json!({})),
            "no runtime for \"no-such-handler\" is configured",
        ),
        (
            "user-namespace",
            once("true", json!({"hostUsers": false}), json!({})),
            "RuntimeClass handler \"\" does not support user namespaces",
        ),
        (
            "strict-groups",
            once("true", of_pod(json!({"supplementalGroupsPolicy": "Strict"})), json!({})),
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
    ];
    for (name, spec, ..) in &waiting {
        node.put_pod(name, name, spec.clone());
    }
    for (name, spec, _) in &never_made {
        node.put_pod(name, name, spec.clone());
    }
    for (name, _, reason, message) in &waiting {
        let shown = |s: &Value| s["containerStatuses"][0]["state"]["waiting"].clone();
        let status = node.until(name, reason, |s| shown(s)["reason"] == *reason).await;
        let said = shown(&status)["message"].to_string().replace("\\\"", "\"");
        assert!(said.contains(message), "{name}: {said}");
    }
    for (name, _, message) in &never_made {
        node.until_event(name, "FailedCreatePodSandBox", message).await;
        assert_eq!(node.status(name)["phase"], "Pending", "{name}");
    }
    // With the class the pod runs.
    node.hub.put(kinds::RUNTIME_CLASS, "", "deleted", json!({"handler": "runc"}));
    node.until("no-class", "the end", |s| s["phase"] == "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_node_cannot_serve_is_rejected() {
    let node = Node::start().await;
    let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    let mut rejected = vec![
        (
            "unsafe",
            once("true", of_pod(sysctl("kernel.msgmax")), json!({})),
            "SysctlForbidden",
            "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        ),
        (
            "shared",
            once("true", json!({"hostIPC": true, "securityContext": sysctl("kernel.shm_rmid_forced")}), json!({})),
            "SysctlForbidden",
            "Pod was rejected: forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
        ),
    ];
    let armored = once("true", of_pod(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), json!({}));
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.trim() == "Y") {
        node.put_pod("armored", "armored", armored);
        node.until("armored", "the end", |s| s["phase"] == "Succeeded").await;
    } else {
        rejected.push((
            "armored",
            armored,
            "AppArmor",
            "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ));
    }
    for (name, spec, ..) in &rejected {
        node.put_pod(name, name, spec.clone());
    }
    for (name, _, reason, message) in &rejected {
        let status = node.until(name, "rejection", |s| s["phase"] == "Failed").await;
        assert_eq!((&status["reason"], &status["message"]), (&json!(reason), &json!(message)), "{name}");
        assert!(status["containerStatuses"].as_array().is_none_or(Vec::is_empty), "{name}: nothing was started");
        node.until_event(name, reason, "").await;
    }
}

/// An address of this machine that is not the loopback's; nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn fetch(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /id HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_reaches_its_pod_and_is_given_back() {
    let node = Node::start().await;
    let (address, port, bound) = (own_address(), free_port(), free_port());
    let serve = |who: &str, ports: Value| {
        let script = format!("mkdir -p /www; echo {who} > /www/id; exec httpd -f -p 8080 -h /www");
        json!({"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script], "ports": ports
        }]})
    };
    let published = |port: u16| json!([{"containerPort": 8080, "hostPort": port}]);
    node.put_pod("first", "first", serve("first", published(port)));
    node.put_pod(
        "bound",
        "bound",
        serve("bound", json!([{"containerPort": 8080, "hostPort": bound, "hostIP": address.to_string()}])),
    );
    node.until_running("first").await;
    node.until_running("bound").await;
    let answers =
        |port: u16, who: &str| fetch((address, port).into()).is_some_and(|t| t.ends_with(&format!("\r\n\r\n{who}\n")));
    wait("the first pod's answer", || answers(port, "first"), String::new).await;
    wait("the bound pod's answer", || answers(bound, "bound"), String::new).await;

    node.put_pod("second", "second", serve("second", published(port)));
    let status = node.until("second", "rejection", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "NodePorts");

    node.delete_gracefully("first", 0);
    node.until_deleted("first").await;
    assert_eq!(fetch((address, port).into()), None);
    node.put_pod("third", "third", serve("third", published(port)));
    node.until_running("third").await;
    wait("the third pod's answer", || answers(port, "third"), String::new).await;
}
