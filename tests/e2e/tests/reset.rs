//! A second node on a runtime that others use, and how it goes again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use skerry_common::exit;
use skerry_e2e::{System, program};

const PORT: u16 = 21_400;
const PATIENCE: Duration = Duration::from_secs(30);

fn wait(what: &str, mut good: impl FnMut() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn running(system: &System, namespace: &str, pod: &str) -> bool {
    system.kubectl(&["get", "pod", "-n", namespace, pod]).is_ok_and(|p| p["status"]["phase"] == "Running")
}

/// Ends the agent whatever happens to the test.
struct Agent(Child);

impl Agent {
    fn stop(&mut self) -> i32 {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        self.0.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_joins_runs_a_pod_and_is_reset_without_harm_to_others() {
    let system = System::up(PORT, &[]).unwrap();
    let folder = system.dir().with_file_name("two");
    let data_dir = folder.to_str().unwrap();
    let endpoint = format!("unix://{}/runtime/containerd.sock", system.dir().display());
    let token = system.json(&["token", "create", "--label", "site=harbour"]).unwrap();
    let logs = system.dir().with_file_name("two-logs");
    let joined = system
        .attempt(&[
            "join",
            &format!("127.0.0.1:{PORT}"),
            "--token",
            token["token"].as_str().unwrap(),
            "--node-name",
            "edge-2",
            "--labels",
            "site=mine,rack=7",
            "--taints",
            "dedicated=tests:NoSchedule",
            "--runtime-endpoint",
            &endpoint,
            "--data-dir",
            data_dir,
            "--pod-log-dir",
            logs.to_str().unwrap(),
            "--admin-listen",
            "127.0.0.1:21450",
            "--dmi-socket",
            folder.join("dmi.sock").to_str().unwrap(),
            "--no-start",
        ])
        .unwrap();
    assert_eq!(joined.code, 0, "{joined:?}");
    // How full the disk of this machine is must not matter.
    let config = folder.join("edge.yaml");
    let mut settings = std::fs::read_to_string(&config).unwrap();
    settings.push_str("\nnode:\n  evictionHard:\n    memory.available: 50Mi\n");
    std::fs::write(&config, settings).unwrap();
    let agent = Command::new(program("skerry"))
        .args(["edge", "--data-dir", data_dir])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut agent = Agent(agent);
    wait("edge-2 is Ready", || {
        let nodes = system.json(&["status"]).unwrap();
        nodes["nodes"].as_array().unwrap().iter().any(|n| n["node"] == "edge-2" && n["ready"] == "yes")
    });
    let node = system.kubectl(&["get", "node", "edge-2"]).unwrap();
    let labels = &node["metadata"]["labels"];
    assert_eq!((&labels["site"], &labels["rack"]), (&json!("harbour"), &json!("7")), "the token's labels win");
    assert_eq!(node["spec"]["taints"][0]["key"], "dedicated", "{}", node["spec"]);

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "guest", "namespace": "default"},
        "spec": {
            "nodeName": "edge-2", "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "wait", "image": "skerry.test/busybox:1", "command": ["/bin/busybox", "sleep", "3600"]}],
        },
    });
    let file = system.dir().with_file_name("pod.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    system.kubectl(&["create", "-f", file.to_str().unwrap()]).unwrap();
    wait("the pod runs", || running(&system, "default", "guest"));

    // Stopping the agent is clean, and stops no pod.
    assert_eq!(agent.stop(), 0);
    let sleeping = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        lines.filter(|l| String::from_utf8_lossy(l).replace('\0', " ").starts_with("/bin/busybox sleep 3600")).count()
    };
    assert_eq!(sleeping(), 1);

    let asked = system.attempt(&["reset", "--data-dir", data_dir]).unwrap();
    assert_eq!(asked.code, i32::from(exit::USAGE), "without --force it only says what it would do");
    let reset = system.attempt(&["reset", "--force", "--data-dir", data_dir]).unwrap();
    assert_eq!(reset.code, 0, "{reset:?}");
    assert_eq!(sleeping(), 0, "its pods are gone");
    assert!(!folder.exists());
    assert_eq!(system.attempt(&["reset", "--force", "--data-dir", data_dir]).unwrap().code, 0, "twice is fine");

    let others = system.kubectl(&["get", "pods", "-n", "hello"]).unwrap();
    for pod in others["items"].as_array().unwrap() {
        let restarts =
            pod["status"]["containerStatuses"].as_array().unwrap().iter().map(|c| c["restartCount"].as_u64());
        assert!(restarts.flatten().all(|count| count == 0), "pods of the other node were left alone");
    }
    system.down().unwrap();
}
