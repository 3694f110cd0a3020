//! A thousand devices on one node, with mappers of both kinds, and the memory of the agent's process.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_test_support::Hub;

use crate::node::{eventually, key};
use crate::process::agent;
use crate::stream::{Mapper, value};
use crate::v1beta1::{REGISTER, registration};
use crate::wire::{MapperServer, all, call};

const DEVICES: usize = 1_000;
const PROPERTIES: usize = 10;
/// From the start of the agent until its mapper has everything, unoptimised and beside other tests.
const TAKEN: Duration = Duration::from_secs(20);
/// Resident memory of the process, kB: what all services of a node may have.
const MEMORY: u64 = 60_000;
/// The same, unoptimised, where all devices are in one answer, as KubeEdge's mappers want it.
const MEMORY_OF_ALL: u64 = 100_000;

fn name(at: usize) -> String {
    format!("d{at:04}")
}

/// What a process has in memory, kB: `VmRSS` now, `VmHWM` at most so far.
pub(crate) fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_thousand_devices_are_served_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _trigger) = Hub::start_at(&dir.path().join("edgehub.sock")).await;
    let properties = |property: fn(usize) -> serde_json::Value| (0..PROPERTIES).map(property).collect::<Vec<_>>();
    let model = properties(|at| json!({ "name": format!("p{at}"), "type": "INT", "accessMode": "ReadWrite" }));
    hub.put(kinds::DEVICE_MODEL, "plant", "m", json!({ "metadata": { "uid": "m" }, "spec": { "properties": model } }));
    for at in 0..DEVICES {
        let visitor = |at: usize| {
            let config = json!({ "register": "HoldingRegister", "offset": at, "limit": 1, "scale": 0.1 });
            json!({ "name": format!("p{at}"), "collectCycle": 1000, "reportCycle": 10_000, "reportToCloud": true,
                    "visitors": { "protocolName": "modbus", "configData": config } })
        };
        let device = json!({
            "metadata": { "uid": format!("uid-{at}"), "generation": 1 },
            "spec": {
                "deviceModelRef": { "name": "m" }, "nodeName": "edge-1",
                "protocol": { "protocolName": "modbus", "configData": { "ip": "10.0.0.7", "slaveID": at % 247 } },
                "properties": properties(visitor),
            },
        });
        hub.put(kinds::DEVICE, "plant", &name(at), device);
    }
    let begun = Instant::now();
    let agent = agent(dir.path(), 0);
    let socket = dir.path().join("dmi.sock");
    assert!(
        eventually(async || tokio::net::UnixStream::connect(&socket).await.ok()).await.is_some(),
        "{}",
        agent.said()
    );
    let mut mapper = Mapper::connect_at(&socket, "m").await;
    let mut taken = BTreeSet::new();
    loop {
        match mapper.hear().await {
            Down::Device(device) => {
                taken.insert(device.key.clone().unwrap().name);
                let applied = pb::Applied { device: device.key, version: device.version, error: String::new() };
                mapper.say(Up::Applied(applied)).await;
            }
            Down::AllSent(_) => break,
            _ => {}
        }
    }
    assert_eq!(taken.len(), DEVICES);
    // All values, twice: a second time costs no more memory.
    for round in 0..2_i64 {
        for at in 0..DEVICES {
            let values = (0..PROPERTIES).map(|p| value(&format!("p{p}"), pb::value::Value::Integer(round))).collect();
            assert!(mapper.report(&name(at), values).await.refused.is_empty());
        }
    }
    let statuses = eventually(async || {
        let told: BTreeSet<String> = hub.received(kinds::DEVICE_STATUS).into_iter().map(|report| report.uid).collect();
        (told.len() == DEVICES).then_some(())
    });
    assert!(statuses.await.is_some(), "not all devices have a status");
    let (took, used) = (begun.elapsed(), memory(agent.pid(), "VmRSS"));
    assert!(took < TAKEN && used < MEMORY, "{took:?}, {used} kB");

    // A mapper of KubeEdge gets them all in the answer to its registration, which its library takes up to 4 MiB.
    drop(mapper);
    let address = dir.path().join("k.sock");
    let _server = MapperServer::willing(&address);
    let begun = Instant::now();
    let devices = eventually(async || {
        let (code, words, answer) = call(&socket, REGISTER, &registration("k", "modbus", &address, true)).await;
        assert_eq!(code, 0, "{words}");
        assert!(answer.len() < 4 << 20, "{} bytes", answer.len());
        let devices = all(&answer, 2).len();
        // The other mapper's lease has to end first.
        (devices == DEVICES).then_some(devices)
    });
    assert_eq!(devices.await, Some(DEVICES));
    assert!(
        begun.elapsed() < TAKEN && memory(agent.pid(), "VmRSS") < MEMORY_OF_ALL,
        "{} kB",
        memory(agent.pid(), "VmRSS")
    );
    let mut people = pb::devices_client::DevicesClient::new(skerry_rpc::Channel::unix(&socket));
    let view = people.get_device(pb::GetDeviceRequest { device: Some(key(&name(DEVICES - 1))) }).await.unwrap();
    assert_eq!(view.get_ref().mapper, "k");
    agent.kill().await;
}
