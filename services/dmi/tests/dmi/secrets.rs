//! A password in a Device, and text that wants to be a line of the log: neither is in what the agent writes.

use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;
use skerry_test_support::Hub;

use crate::node::{device, eventually, key, model};
use crate::process::{agent, free_port, metrics};
use crate::stream::{Mapper, value};
use crate::v1beta1::{REGISTER, STATUS, registration, report};
use crate::wire::{MapperServer, call};

const CANARY: &str = "canary-7f1c";
const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[31m";

#[tokio::test]
async fn logs_metrics_and_refusals_hold_no_secret_and_no_forged_line() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _trigger) = Hub::start_at(&dir.path().join("edgehub.sock")).await;
    hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
    let mut secret = device("b1");
    secret["spec"]["protocol"]["configData"]["password"] = json!(CANARY);
    hub.put(kinds::DEVICE, "plant", "b1", secret.clone());
    // One that cannot be sent to a mapper of KubeEdge, and one that is no Device.
    secret["spec"]["protocol"]["configData"]["keys"] = json!([CANARY]);
    secret["metadata"]["uid"] = "uid-b2".into();
    hub.put(kinds::DEVICE, "plant", "b2", secret);
    hub.put(kinds::DEVICE, "plant", "b3", json!({ "metadata": {}, "spec": { "properties": CANARY } }));
    let admin = free_port();
    let agent = agent(dir.path(), admin);
    let socket = dir.path().join("dmi.sock");
    assert!(
        eventually(async || tokio::net::UnixStream::connect(&socket).await.ok()).await.is_some(),
        "{}",
        agent.said()
    );

    let mut mapper = Mapper::connect_at(&socket, "m").await;
    let told = mapper.take_device().await;
    // The mapper needs it and has it.
    assert!(String::from_utf8(told.protocol_config).unwrap().contains(CANARY));
    let said = |text: &str| value("temperature", pb::value::Value::Text(text.into()));
    let refused =
        mapper.report("b1", vec![said(CANARY), said(FORGED), value("no such", pb::value::Value::Boolean(true))]).await;
    let mut refusals = format!("{refused:?}");
    mapper.state("b1", pb::DeviceState::Unhealthy, FORGED).await;
    drop(mapper);
    let address = dir.path().join("k.sock");
    let server = MapperServer::willing(&address);
    let (code, words, _) = call(&socket, REGISTER, &registration("k", "modbus", &address, true)).await;
    assert_eq!(code, 0, "{words}");
    let moved = eventually(async || (!server.bodies("RegisterDevice").is_empty()).then_some(())).await;
    assert!(moved.is_some(), "{}", agent.said());
    for name in [CANARY, FORGED] {
        refusals.push_str(&call(&socket, REGISTER, &registration(FORGED, name, &address, true)).await.1);
        refusals.push_str(&call(&socket, STATUS, &report("b1", FORGED, CANARY)).await.1);
    }
    let shown = metrics(admin).await.unwrap();
    assert!(shown.contains("skerry_dmi_values_total"), "{shown}");
    let mut devices = skerry_proto::dmi::v1::devices_client::DevicesClient::new(skerry_rpc::Channel::unix(&socket));
    let unknown = pb::SetDesiredRequest { device: Some(key("b1")), property: "setpoint".into(), value: CANARY.into() };
    // What somebody typed is repeated to them alone.
    assert!(devices.set_desired(unknown).await.unwrap_err().message().contains(CANARY));

    let log = std::fs::read_to_string(dir.path().join("agent.log")).unwrap();
    for (what, text) in [("the log", &log), ("the metrics", &shown), ("a refusal", &refusals)] {
        assert!(!text.contains(CANARY), "{what}: {text}");
    }
    // It says something, and each line of it is its own.
    assert!(log.contains("mapper connected") && log.contains("mapper registered"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
    agent.kill().await;
}
