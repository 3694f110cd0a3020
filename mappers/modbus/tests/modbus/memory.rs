//! What a property costs the mapper, as a process: with many of them it is nearly all that it has.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_mapper_sdk::DeviceKey;
use skerry_mapper_sdk::conformance::{Api, Node};

use super::*;
use crate::bad_days::server;

/// Properties of a device.
const REGISTERS: u16 = 500;
/// What one may cost, in bytes of resident memory: its definition, its last report, and where it is. 50,000 of them
/// are less than half of what the mapper may have with them.
const LIMIT: u64 = 800;
/// A round of all devices, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mapper that ends when it is dropped.
struct Mapper(Child);

impl Mapper {
    fn start(folder: &Path) -> Self {
        let (node, own, config) = (folder.join("dmi.sock"), folder.join("own.sock"), folder.join("config.yaml"));
        let text = format!(
            "grpc_server:\n  socket_path: {}\ncommon:\n  edgecore_sock: {}\nrest:\n  enabled: false\n",
            own.display(),
            node.display()
        );
        std::fs::write(&config, text).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_skerry-mapper-modbus"))
            .arg("--config-file")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(program.unwrap())
    }

    /// Bytes that are neither the program's own pages nor shared.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_costs_less_than_a_kilobyte() {
    let (few, many) = (resident_with(2).await, resident_with(22).await);
    let each = many.saturating_sub(few) / (20 * u64::from(REGISTERS));
    assert!(each <= LIMIT, "{each} bytes for each property: {few} and {many} in all");
    // Otherwise it was not measured.
    assert!(each > 100, "{each} bytes for each property: {few} and {many} in all");
}

/// What the mapper has after it reported everything a few times.
async fn resident_with(devices: u8) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("dmi.sock"), Api::V1).await.unwrap();
    let (protocol, _) = server(|asked| Some(asked.answer())).await;
    let name = |device: u8| DeviceKey::new("default", &format!("meter-{device}"));
    for device in 0..devices {
        let protocol = json!({ "ip": "127.0.0.1", "port": protocol["port"], "slaveID": device + 1 });
        let mut definition = registers(protocol, &holding(0..REGISTERS));
        definition.key = name(device);
        node.set(&Arc::new(definition), "1");
    }
    let mapper = Mapper::start(folder.path());
    let last = format!("r{}", REGISTERS - 1);
    for _ in 0..3 {
        let since = Instant::now();
        let fresh = |seen: &skerry_mapper_sdk::conformance::Seen| {
            let told =
                |device| seen.last(&name(device), &last).is_some_and(|value| value.is_good() && value.at > since);
            (0..devices).all(told)
        };
        node.until("a round of all devices", PATIENCE, fresh).await.unwrap();
    }
    let resident = mapper.resident();
    node.stop().await;
    resident
}
