//! A mapper as KubeEdge's are, as a process: this test binary, started again.
//!
//! It calls in KubeEdge's order and never again: MapperRegister with its devices, its own server, then a report
//! per device and cycle. What the node does to its devices it writes to its standard output, and its devices
//! have the value that is in a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::node::eventually;
use crate::process::{Process, tail};
use crate::v1beta1::{REGISTER, STATES, STATUS, registration, report, states};
use crate::wire::{MapperServer, all, one, text, try_call};

const CHILD: &str = "SKERRY_TEST_KUBEEDGE_MAPPER";
const CYCLE: Duration = Duration::from_millis(500);
/// Between two attempts to register: KubeEdge's end, and are started again.
const AGAIN: Duration = Duration::from_millis(200);

/// Does nothing, except in the child.
#[test]
fn entry() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (dir, name) = arguments.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(Path::new(dir), name));
}

async fn run(dir: &Path, name: &str) {
    let (node, own) = (dir.join("dmi.sock"), dir.join(format!("{name}.sock")));
    say("started");
    let register = registration(name, name, &own, true);
    let answer = loop {
        match try_call(&node, REGISTER, &register).await {
            Some((0, _, answer)) => break answer,
            _ => tokio::time::sleep(AGAIN).await,
        }
    };
    let mut devices: BTreeSet<String> = all(&answer, 2).iter().map(|device| text(device, 1)).collect();
    devices.iter().for_each(|device| say(&format!("set {device}")));
    let server = MapperServer::willing(&own);
    let mut handled = 0;
    loop {
        for got in server.got().into_iter().skip(handled) {
            handled += 1;
            match got.method.as_str() {
                "RegisterDevice" => {
                    let device = text(&one(&got.body, 1), 1);
                    say(&format!("set {device}"));
                    devices.insert(device);
                }
                "UpdateDevice" => say(&format!("updated {}", text(&one(&got.body, 1), 1))),
                // It names the device, and does not bring it.
                "RemoveDevice" => {
                    let device = text(&got.body, 1);
                    say(&format!("removed {device}"));
                    devices.remove(&device);
                }
                _ => {}
            }
        }
        let value = std::fs::read_to_string(dir.join("value")).unwrap();
        for device in &devices {
            let reported = try_call(&node, STATUS, &report(device, "value", &value)).await;
            if matches!(reported, Some((0, ..))) {
                let _ = try_call(&node, STATES, &states(device, "ok")).await;
            }
        }
        tokio::time::sleep(CYCLE).await;
    }
}

/// What the parent reads.
fn say(what: &str) {
    println!("\nmapper: {what}");
}

/// The process, from outside.
pub(super) struct KubeEdgeMapper {
    pub(super) process: Process,
    log: PathBuf,
}

impl KubeEdgeMapper {
    /// Starts it for the protocol of its name, and waits until it runs.
    pub(super) async fn start(dir: &Path, name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "orders::kubeedge::entry", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {name}", dir.display()));
        let log = dir.join(format!("{name}.log"));
        let mapper = Self { process: Process::start(command, log.clone()), log };
        let started = eventually(async || (mapper.count("started") == 1).then_some(())).await;
        assert!(started.is_some(), "{}", tail(&mapper.log));
        mapper
    }

    /// How often it said something.
    pub(super) fn count(&self, what: &str) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = text.lines().filter_map(|line| line.strip_prefix("mapper: "));
        said.filter(|said| said.split(' ').next() == Some(what)).count()
    }
}
