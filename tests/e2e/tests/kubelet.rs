//! kubectl logs, exec, attach, cp, port-forward, debug and top on a node, and clients that are killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use skerry_e2e::System;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const BASE: u16 = 21_500;
const IMAGE: &str = "skerry.test/busybox:1";
/// A step that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that are killed half-way.
const CLIENTS: usize = 100;

fn kubectl(system: &System, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(system.dir().join("kubeconfig")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command prints; it must succeed.
fn says(system: &System, arguments: &[&str]) -> String {
    let output = kubectl(system, arguments).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Running {
    Running(command.spawn().unwrap())
}

fn wait(what: &str, mut good: impl FnMut() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

fn apply(system: &System, object: &Value) {
    let mut child = kubectl(system, &["apply", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn talker(system: &System) {
    let mut shell = container("shell", "exec sh");
    shell["stdin"] = true.into();
    shell["tty"] = true.into();
    let web =
        container("web", "mkdir /www && echo hello-from-the-pod > /www/index.html && exec httpd -f -p 8080 -h /www");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talk"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            container("lines", "i=0; while true; do echo line $i; i=$((i+1)); sleep 1; done"),
            container("crash", "echo run $(cat /proc/uptime); sleep 2; exit 1"),
            shell, web,
        ]},
    });
    apply(system, &pod);
    wait("the pod talks", || {
        kubectl(system, &["logs", "talk", "-c", "lines"]).output().unwrap().stdout.starts_with(b"line 0\n")
            && kubectl(system, &["logs", "talk", "-c", "crash", "--previous"]).output().unwrap().status.success()
    });
}

#[test]
fn kubectl_works_on_the_node() {
    let system = System::up(BASE, &[]).unwrap();
    talker(&system);
    logs(&system);
    exec(&system);
    attach(&system);
    copy(&system);
    port_forward(&system);
    debug(&system);
    top(&system);
    system.down().unwrap();
}

fn logs(system: &System) {
    let tail = says(system, &["logs", "talk", "-c", "lines", "--tail=2", "--timestamps"]);
    assert_eq!(tail.lines().count(), 2, "{tail}");
    assert!(tail.lines().all(|line| line.split_once(' ').is_some_and(|(time, _)| time.len() >= 30)), "{tail}");
    assert_eq!(says(system, &["logs", "talk", "-c", "lines", "--limit-bytes=9"]), "line 0\nli");
    assert_eq!(says(system, &["logs", "talk", "-c", "lines", "--since-time=2100-01-01T00:00:00Z"]), "");
    let since = says(system, &["logs", "talk", "-c", "lines", "--since=1s"]);
    assert!(!since.contains("line 0\n") && since.lines().count() <= 6, "{since}");
    let (before, now) =
        (says(system, &["logs", "talk", "-c", "crash", "--previous"]), says(system, &["logs", "talk", "-c", "crash"]));
    assert!(before.starts_with("run ") && now.starts_with("run ") && before != now, "{before} {now}");

    // As it comes.
    let mut follow = start(&mut kubectl(system, &["logs", "-f", "talk", "-c", "lines", "--tail=1"]));
    let lines: Vec<String> = BufReader::new(follow.0.stdout.take().unwrap()).lines().take(5).flatten().collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    // Until the container ends.
    apply(
        system,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "short"},
        "spec": {"restartPolicy": "Never", "containers": [container("c", "echo first; sleep 3; echo last")]}}),
    );
    wait("its first words", || !kubectl(system, &["logs", "short"]).output().unwrap().stdout.is_empty());
    assert_eq!(says(system, &["logs", "-f", "short"]), "first\nlast\n");

    let refused = kubectl(system, &["logs", "talk", "-c", "nobody"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("container nobody is not valid for pod talk"));
    let mut waiting = container("c", "true");
    waiting["image"] = "skerry.test/missing:1".into();
    waiting["imagePullPolicy"] = "Never".into();
    apply(
        system,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stuck"},
        "spec": {"containers": [waiting]}}),
    );
    wait("why there is no log", || {
        let refused = kubectl(system, &["logs", "stuck"]).output().unwrap();
        String::from_utf8_lossy(&refused.stderr).contains("is waiting to start: ErrImageNeverPull")
    });
}

fn exec(system: &System) {
    assert_eq!(says(system, &["exec", "talk", "-c", "lines", "--", "echo", "a b"]), "a b\n");
    let failed = kubectl(system, &["exec", "talk", "-c", "lines", "--", "sh", "-c", "echo no >&2; exit 7"]).output();
    let failed = failed.unwrap();
    assert_eq!((failed.status.code(), failed.stderr.starts_with(b"no\n")), (Some(7), true), "{failed:?}");
    let mut cat =
        kubectl(system, &["exec", "-i", "talk", "-c", "lines", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"in and out").unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!((output.status.success(), &*output.stdout), (true, &b"in and out"[..]), "{output:?}");
    // With a terminal on both sides.
    let kubeconfig = system.dir().join("kubeconfig");
    let line = format!("kubectl --kubeconfig {} exec -it talk -c lines -- tty", kubeconfig.display());
    let terminal = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&terminal.stdout).contains("/dev/pts/"), "{terminal:?}");
}

fn attach(system: &System) {
    let mut child = kubectl(system, &["attach", "-i", "talk", "-c", "shell"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut running = Running(child);
    stdin.write_all(b"echo attached-$((20+3))\n").unwrap();
    let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("attached-23")));
}

fn copy(system: &System) {
    let (there, back) = (system.dir().join("there.bin"), system.dir().join("back.bin"));
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&there, &bytes).unwrap();
    says(system, &["cp", there.to_str().unwrap(), "talk:/tmp/copy.bin", "-c", "lines"]);
    says(system, &["cp", "talk:/tmp/copy.bin", back.to_str().unwrap(), "-c", "lines"]);
    assert!(fs::read(back).unwrap() == bytes, "what came back is not what went there");
}

fn port_forward(system: &System) {
    let mut forward = start(&mut kubectl(system, &["port-forward", "pod/talk", ":8080"]));
    let mut line = String::new();
    // Kept open: kubectl goes on writing there.
    let mut stdout = BufReader::new(forward.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello-from-the-pod\n"), "{answer}");
    }
}

fn debug(system: &System) {
    let image = format!("--image={IMAGE}");
    let command = ["debug", "talk", &image, "--image-pull-policy=IfNotPresent", "-c", "helper", "--target=web", "--"];
    says(system, &[&command[..], &["sleep", "600"]].concat());
    wait("the ephemeral container runs", || {
        let pod = system.kubectl(&["get", "pod", "talk"]).unwrap();
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
    });
    let processes = says(system, &["exec", "talk", "-c", "helper", "--", "ps"]);
    assert!(processes.contains("sleep 600"), "{processes}");
}

fn top(system: &System) {
    let nodes = says(system, &["top", "node", "--no-headers"]);
    assert!(nodes.starts_with("edge-1 ") && nodes.contains("Mi"), "{nodes}");
    let pods = says(system, &["top", "pod", "talk", "--containers", "--no-headers"]);
    assert!(pods.lines().any(|line| line.contains("talk") && line.contains("lines")), "{pods}");
    let summary = says(system, &["get", "--raw", "/api/v1/nodes/edge-1/proxy/stats/summary"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["node"]["nodeName"], "edge-1");
    let metrics = says(system, &["get", "--raw", "/api/v1/nodes/edge-1/proxy/metrics/cadvisor"]);
    assert!(metrics.contains("container_cpu_usage_seconds_total{container=\"lines\""), "{metrics}");
}

/// A client of the API with the administrator's certificate.
struct Api {
    tls: TlsConnector,
    address: String,
}

impl Api {
    fn new(system: &System) -> Self {
        let config: Value = serde_json::from_slice(&fs::read(system.dir().join("kubeconfig")).unwrap()).unwrap();
        let text = |value: &Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(&text(&cluster["certificate-authority-data"])).unwrap();
        roots.add(ca).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(&text(&user["client-certificate-data"])).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&text(&user["client-key-data"])).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = cluster["server"].as_str().unwrap().trim_start_matches("https://").to_owned();
        Self { tls: TlsConnector::from(Arc::new(tls)), address }
    }

    /// Sends a request and reads until the stream has begun: `until` is in what came.
    async fn begin(&self, path: &str, headers: &str, until: &str) -> Box<dyn Send> {
        let stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = self.tls.connect(name, stream).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        let begun = async {
            while !String::from_utf8_lossy(&seen).contains(until) {
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0, "{path}: {}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&buffer[..read]);
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.unwrap_or_else(|_| panic!("{path} did not begin"));
        let upgraded = seen.starts_with(b"HTTP/1.1 101");
        assert_eq!(upgraded, !headers.is_empty(), "{path}: {}", String::from_utf8_lossy(&seen));
        Box::new(stream)
    }
}

/// The sum of a metric's samples at an admin port.
fn metric(port: u16, name: &str) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let samples = text.lines().filter(|line| line.starts_with(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Processes of the machine with this word in their command.
fn processes(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(word)))
        .count()
}

/// Descriptors of the node's services.
fn descriptors(system: &System) -> usize {
    let record: Value = serde_json::from_slice(&fs::read(system.dir().join("run/edge.pid")).unwrap()).unwrap();
    fs::read_dir(format!("/proc/{}/fd", record["pid"])).unwrap().count()
}

#[test]
fn clients_that_are_killed_leave_no_stream_task_or_process() {
    const WORD: &str = "7654321";
    let system = System::up(BASE + 40, &[]).unwrap();
    talker(&system);
    let (apiserver, edged) = (BASE + 40 + 5, BASE + 40 + 13);
    let before = descriptors(&system);
    let websocket = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: ";
    let exec = format!("{websocket}v4.channel.k8s.io\r\n");
    let forward = format!("{websocket}v4.channel.k8s.io\r\n");
    let log = format!("{websocket}binary.k8s.io\r\n");
    let api = Api::new(&system);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pod = "/api/v1/namespaces/default/pods/talk";
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let switched = "101 Switching Protocols";
            clients.push(match number % 5 {
                0 => {
                    let headers = if number % 2 == 0 { "" } else { &log };
                    api.begin(&format!("{pod}/log?container=lines&follow=true&tailLines=1"), headers, "line ").await
                }
                1 => {
                    let command = format!("command=sh&command=-c&command=echo+up;sleep+{WORD}{number};true");
                    api.begin(&format!("{pod}/exec?container=lines&stdout=1&{command}"), &exec, "up").await
                }
                2 => {
                    let command = format!("command=sleep&command={WORD}{number}");
                    let path = format!("{pod}/exec?container=lines&stdin=1&stdout=1&tty=1&{command}");
                    api.begin(&path, &exec, switched).await
                }
                3 => api.begin(&format!("{pod}/attach?container=lines&stdout=1"), &exec, "line ").await,
                _ => api.begin(&format!("{pod}/portforward?ports=8080"), &forward, switched).await,
            });
        }
        assert!(metric(apiserver, "skerry_apiserver_streams") >= CLIENTS as f64);
        assert!(metric(edged, "skerry_edged_streams") >= CLIENTS as f64);
        let started = Instant::now();
        // Both processes of every shell, and the bare ones.
        while processes(WORD) < CLIENTS / 5 * 3 {
            assert!(started.elapsed() < PATIENCE, "{} processes of exec", processes(WORD));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Without a word: as when a process is killed.
        drop(clients);
    });
    drop(runtime);
    wait("the streams end", || {
        metric(apiserver, "skerry_apiserver_streams") == 0.0 && metric(edged, "skerry_edged_streams") == 0.0
    });
    wait("the processes of exec end", || processes(WORD) == 0);
    wait("connections are closed", || descriptors(&system) <= before + 4);
    let pod = system.kubectl(&["get", "pod", "talk"]).unwrap();
    let lines = pod["status"]["containerStatuses"].as_array().unwrap().iter().find(|c| c["name"] == "lines").unwrap();
    assert_eq!(lines["restartCount"], 0, "nothing else was touched");
    system.down().unwrap();
}
