//! `skerry up` and `skerry down`, as a new user meets them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::fs;
use std::time::{Duration, Instant};

use skerry_e2e::{Machine, System};

/// From the command to running pods; a promise of the README.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// A killed service is back, and the node with it.
const BACK_LIMIT: Duration = Duration::from_secs(60);

fn ready_pods(system: &System) -> usize {
    let Ok(pods) = system.kubectl(&["get", "pods", "-n", "hello"]) else { return 0 };
    let ready = |pod: &&serde_json::Value| {
        pod["metadata"]["deletionTimestamp"].is_null()
            && pod["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    pods["items"].as_array().into_iter().flatten().filter(ready).count()
}

fn connected(system: &System) -> bool {
    system.json(&["status"]).is_ok_and(|s| s["nodes"][0]["link"] == "connected" && s["nodes"][0]["ready"] == "yes")
}

fn wait(what: &str, limit: Duration, mut good: impl FnMut() -> bool) {
    let started = Instant::now();
    while !good() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn up_runs_the_example_and_down_leaves_nothing() {
    let before = Machine::look(std::path::Path::new("/nonexistent"));
    let started = Instant::now();
    let system = System::up(21_000, &[]).unwrap();
    let took = started.elapsed();
    assert!(took <= UP_LIMIT, "up took {took:?}");
    assert_eq!(ready_pods(&system), 2);
    assert!(connected(&system));
    let bytes = system.json(&["net"]).unwrap();
    assert!(bytes.as_array().unwrap().iter().any(|row| row["kind"] == "Pod"), "{bytes}");

    // A second time it changes nothing.
    let pods = system.kubectl(&["get", "pods", "-n", "hello"]).unwrap();
    system.up_again(21_000, &[]).unwrap();
    let again = system.kubectl(&["get", "pods", "-n", "hello"]).unwrap();
    assert_eq!(pods["items"][0]["metadata"]["uid"], again["items"][0]["metadata"]["uid"]);

    let dir = system.dir();
    system.down().unwrap();
    let left = Machine::look(&dir).since(&before);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    assert!(!dir.exists());
    system.down().unwrap();
}

#[test]
fn every_service_may_be_killed_and_comes_back() {
    let before = Machine::look(std::path::Path::new("/nonexistent"));
    let system = System::up(21_040, &["--processes"]).unwrap();
    let dir = system.dir();
    for service in
        ["edged", "edgehub", "cloudhub", "devicecontroller", "edgecontroller", "controllers", "apiserver", "runtime"]
    {
        let record = dir.join("run").join(format!("{service}.pid"));
        let pid = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["pid"].as_i64().unwrap();
        let old = pid(&fs::read_to_string(&record).unwrap());
        let killed = std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap();
        assert!(killed.success(), "{service}");
        wait(&format!("{service} is back"), BACK_LIMIT, || {
            fs::read_to_string(&record).is_ok_and(|text| pid(&text) != old)
                && connected(&system)
                && ready_pods(&system) == 2
        });
    }
    system.down().unwrap();
    let left = Machine::look(&dir).since(&before);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn down_works_after_a_crash_of_everything() {
    let before = Machine::look(std::path::Path::new("/nonexistent"));
    let system = System::up(21_060, &[]).unwrap();
    let dir = system.dir();
    let records: Vec<_> = fs::read_dir(dir.join("run")).unwrap().flatten().map(|e| e.path()).collect();
    for record in records.iter().filter(|r| r.extension().is_some_and(|e| e == "pid")) {
        let value: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let _ = std::process::Command::new("kill").args(["-9", &value["pid"].to_string()]).status();
    }
    // Half of it is missing, too.
    fs::remove_file(dir.join("up.json")).unwrap();
    fs::remove_dir_all(dir.join("units")).unwrap();
    system.down().unwrap();
    let left = Machine::look(&dir).since(&before);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}
