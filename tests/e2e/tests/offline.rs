//! A node without its cloud: what runs goes on, what dies comes back, and later both sides agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use skerry_e2e::System;

/// A container or an agent that died is back.
const BACK: Duration = Duration::from_secs(20);
/// Node Ready, and both sides agreed, after the link is back.
const AGREED: Duration = Duration::from_secs(10);

/// A process of the system that the test can stop and start, as an operator would.
struct Service {
    unit: PathBuf,
    record: PathBuf,
    text: Vec<u8>,
}

impl Service {
    fn stop(system: &System, name: &str) -> Self {
        let unit = system.dir().join("units").join(format!("{name}.json"));
        let record = system.dir().join("run").join(format!("{name}.pid"));
        let text = fs::read(&unit).unwrap();
        fs::remove_file(&unit).unwrap();
        wait("the service stops", Duration::from_secs(40), || !record.exists());
        Self { unit, record, text }
    }

    fn start(self) {
        fs::write(&self.unit, &self.text).unwrap();
        wait("the service starts", BACK, || self.record.exists());
    }
}

fn wait(what: &str, limit: Duration, mut good: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    started.elapsed()
}

/// Name to uid, address and the restarts of the container `serve`.
fn pods(system: &System) -> BTreeMap<String, (String, String, u64)> {
    let list = system.kubectl(&["get", "pods", "-n", "hello"]).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            let serve =
                pod["status"]["containerStatuses"].as_array().into_iter().flatten().find(|c| c["name"] == "serve");
            let restarts = serve.and_then(|c| c["restartCount"].as_u64()).unwrap_or(0);
            (text(&pod["metadata"]["name"]), (text(&pod["metadata"]["uid"]), text(&pod["status"]["podIP"]), restarts))
        })
        .collect()
}

/// What the pod's container answers to its neighbours.
fn page(address: &str) -> Option<String> {
    let target = format!("{address}:8080").parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("200 OK").then_some(answer)
}

fn pid(system: &System, name: &str) -> i64 {
    let text = fs::read_to_string(system.dir().join("run").join(format!("{name}.pid"))).unwrap_or_default();
    serde_json::from_str::<Value>(&text).ok().and_then(|v| v["pid"].as_i64()).unwrap_or(0)
}

fn kill(pid: i64) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Processes of containers with these words in their command line.
fn container_processes(words: &str) -> Vec<i64> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.starts_with(words).then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect()
}

fn link(system: &System) -> String {
    let folder = system.dir().join("edge");
    let ended = system.attempt(&["status", "--data-dir", folder.to_str().unwrap(), "-o", "json"]).unwrap();
    serde_json::from_str::<Value>(&ended.out)
        .map(|v| v["link"].as_str().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

fn ready(system: &System) -> bool {
    system.json(&["status"]).is_ok_and(|s| s["nodes"][0]["link"] == "connected" && s["nodes"][0]["ready"] == "yes")
}

#[test]
fn a_node_lives_without_the_cloud_and_agrees_with_it_later() {
    let system = System::up(21_200, &[]).unwrap();
    let before = pods(&system);
    assert_eq!(before.len(), 2);
    let cloud = Service::stop(&system, "cloud");
    wait("the node notices", Duration::from_secs(15), || link(&system) == "disconnected");

    // The agent is killed: nothing happens to the pods, and the new one can tell about them.
    let old = pid(&system, "edge");
    kill(old);
    for (_, address, _) in before.values() {
        assert!(page(address).is_some_and(|p| p.contains("from a ConfigMap")), "{address}");
    }
    wait("the agent is back", BACK, || pid(&system, "edge") != old && link(&system) == "disconnected");

    // A container dies: it is started again here, with its configuration.
    let words = "/bin/busybox httpd -f -p 8080 -h /page";
    let processes = container_processes(words);
    assert_eq!(processes.len(), 2, "{processes:?}");
    processes.into_iter().for_each(kill);
    wait("containers are back", BACK, || before.values().all(|(_, address, _)| page(address).is_some()));

    cloud.start();
    let took = wait("the node is Ready again", BACK + AGREED, || ready(&system));
    println!("Ready {took:?} after the cloud was started");
    wait("the cloud knows of the restarts", AGREED, || pods(&system).values().all(|(_, _, restarts)| *restarts == 1));
    let after = pods(&system);
    for (name, (uid, address, _)) in &before {
        assert_eq!((uid, address), (&after[name].0, &after[name].1), "{name} is the same pod");
    }
    system.down().unwrap();
}

#[test]
fn what_was_deleted_during_a_cut_goes_when_the_link_is_back() {
    let system = System::up(21_220, &["--processes"]).unwrap();
    let before = pods(&system);
    let hub = Service::stop(&system, "cloudhub");
    let (victim, (_, address, _)) = before.first_key_value().unwrap();
    system.attempt(&["version"]).unwrap();
    let kubeconfig = system.dir().join("kubeconfig");
    let deleted = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .args(["delete", "pod", "-n", "hello", victim, "--wait=false"])
        .output()
        .unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    std::thread::sleep(Duration::from_secs(5));
    assert!(page(address).is_some(), "nothing is stopped by silence");

    hub.start();
    wait("the deleted pod is gone", BACK + AGREED, || {
        let now = pods(&system);
        !now.contains_key(victim) && page(address).is_none()
    });
    wait("its successor runs", BACK, || {
        let now = pods(&system);
        now.len() == 2 && now.values().all(|(_, address, _)| page(address).is_some())
    });
    // The other one was left alone.
    let (other, (uid, ..)) = before.last_key_value().unwrap();
    assert_eq!(&pods(&system)[other].0, uid);
    system.down().unwrap();
}
