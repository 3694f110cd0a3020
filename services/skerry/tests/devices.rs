//! `skerry get|describe|read|set|watch` as a user has them: the program, on the socket of a dmi that has no cloud,
//! with a mapper on its stream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::{NodeName, drain, exit, kinds};
use skerry_dmi::{Config, Connect, Dmi};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use skerry_proto::dmi::v1::mappers_client::MappersClient;
use skerry_proto::dmi::v1::node_message::Message as Down;
use skerry_test_support::Hub;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Longest time that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(60);
/// The set point that the device of the mapper refuses.
const TOO_HOT: &str = "66";

struct Node {
    hub: Arc<Hub>,
    dir: tempfile::TempDir,
    _running: (drain::Trigger, drain::Trigger, JoinHandle<Result<(), skerry_dmi::Error>>),
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, connector, hub_trigger) = Hub::start().await;
        let mut config = Config::new(NodeName::parse("edge-1").unwrap(), dir.path().join("store"));
        config.dmi.socket = dir.path().join("dmi.sock");
        let registry = skerry_telemetry::Registry::new();
        let dmi = Dmi::build(config, Connect::Pipe(connector), &registry).await.unwrap();
        let (trigger, watch) = drain::channel(Duration::from_secs(5));
        let node = Self { hub, dir, _running: (hub_trigger, trigger, tokio::spawn(dmi.run(watch))) };
        node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
        node.hub.put(kinds::DEVICE, "plant", "b1", device("b1"));
        node
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("dmi.sock")
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
        command.args(arguments.split(' ')).arg("--socket").arg(self.socket());
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &str) -> Output {
        tokio::time::timeout(PATIENCE, self.command(arguments).output()).await.expect("it does not end").unwrap()
    }

    /// What a command that works prints.
    async fn prints(&self, arguments: &str) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.prints(arguments).await).unwrap()
    }

    /// What a command says that ends with this code.
    async fn fails(&self, arguments: &str, code: u8) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(code.into()), "{arguments}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Watches until a change is as wanted.
    async fn watch(&self, what: impl Fn(&Value) -> bool) -> Value {
        let mut child = self.command("watch devices -A -o json").spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the watch ended");
                let change: Value = serde_json::from_str(&line).unwrap();
                if what(&change) {
                    return change;
                }
                last = Some(change);
            }
        });
        let found = found.await.unwrap_or_else(|_| panic!("the last change is {last:#?}"));
        child.kill().await.unwrap();
        found
    }

    async fn mapper(&self) -> JoinHandle<()> {
        let (send, queue) = mpsc::channel(64);
        let hello =
            pb::Hello { name: "m".into(), version: "1".into(), protocol: "modbus".into(), ..Default::default() };
        send.send(pb::MapperMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let mut client = MappersClient::new(skerry_rpc::Channel::unix(self.socket()));
        let mut receive = client.connect(ReceiverStream::new(queue)).await.unwrap().into_inner();
        tokio::spawn(async move {
            let mut sequence = 0;
            while let Ok(Some(message)) = receive.message().await {
                let mut values = Vec::new();
                let mut key = None;
                match message.message {
                    Some(Down::Device(device)) => {
                        key.clone_from(&device.key);
                        let applied = pb::Applied {
                            device: device.key.clone(),
                            version: device.version.clone(),
                            error: String::new(),
                        };
                        send.send(pb::MapperMessage { message: Some(Up::Applied(applied)) }).await.unwrap();
                        let state = pb::StateReport {
                            device: device.key.clone(),
                            state: pb::DeviceState::Online.into(),
                            reason: String::new(),
                        };
                        let states = Up::States(pb::StateReports { states: vec![state] });
                        send.send(pb::MapperMessage { message: Some(states) }).await.unwrap();
                        values.push(value("temperature", "21.5"));
                        values.extend(device.properties.into_iter().filter_map(|p| p.desired).map(take));
                    }
                    Some(Down::Command(command)) => {
                        let Some(pb::command::What::Read(read)) = command.what else { continue };
                        let names =
                            if read.properties.is_empty() { vec!["temperature".into()] } else { read.properties };
                        let values = names.iter().map(|name| value(name, "23.75")).collect();
                        let result = pb::CommandResult { id: command.id, error: String::new(), values };
                        send.send(pb::MapperMessage { message: Some(Up::Result(result)) }).await.unwrap();
                    }
                    Some(Down::Desired(desired)) => {
                        key.clone_from(&desired.device);
                        values.push(take(desired));
                    }
                    _ => {}
                }
                if !values.is_empty() {
                    sequence += 1;
                    let devices = vec![pb::DeviceValues { device: key, values }];
                    let reports = Up::Reports(pb::Reports { sequence, devices });
                    send.send(pb::MapperMessage { message: Some(reports) }).await.unwrap();
                }
            }
        })
    }
}

fn value(property: &str, text: &str) -> pb::Value {
    let value = Some(pb::value::Value::Text(text.into()));
    pb::Value { property: property.into(), value, quality: pb::Quality::Good.into(), ..Default::default() }
}

/// The outcome of a desired value.
fn take(desired: pb::Desired) -> pb::Value {
    let outcome = pb::Value { desired_version: desired.version, ..value(&desired.property, &desired.value) };
    if desired.value == TOO_HOT {
        pb::Value { value: None, desired_refused: true, problem: "illegal data value".into(), ..outcome }
    } else {
        outcome
    }
}

fn model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": { "uid": "uid-boiler" },
        "spec": { "protocol": "modbus", "properties": [
            { "name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly", "unit": "C" },
            { "name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "90" },
            { "name": "mode", "type": "STRING", "accessMode": "ReadWrite" },
        ] },
    })
}

fn device(name: &str) -> Value {
    let property = |name: &str| json!({ "name": name, "visitors": { "protocolName": "modbus", "configData": {} } });
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": { "uid": format!("uid-{name}"), "generation": 1 },
        "spec": {
            "deviceModelRef": { "name": "boiler" }, "nodeName": "edge-1",
            "protocol": { "protocolName": "modbus", "configData": {} },
            "properties": [property("temperature"), property("setpoint"), property("mode")],
        },
    })
}

fn twin<'v>(device: &'v Value, property: &str) -> &'v Value {
    device["twins"].as_array().unwrap().iter().find(|twin| twin["property"] == property).unwrap()
}

#[tokio::test]
async fn devices_are_shown_set_and_watched_without_the_cloud() {
    let node = Node::start().await;
    let mapper = node.mapper().await;
    node.watch(|change| {
        let device = &change["device"];
        device["name"] == "b1" && device["state"] == "online" && twin(device, "temperature")["quality"] == "Good"
    })
    .await;

    let table = node.prints("get devices -n plant").await;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["NAME", "MODEL", "PROTOCOL", "MAPPER", "STATE", "SYNCED", "LAST-SEEN"]);
    assert_eq!(rows.next().unwrap()[..6], ["b1", "boiler", "modbus", "m", "online", "True"]);
    assert!(node.prints("get devices -A -o wide").await.starts_with("NAMESPACE"));
    assert_eq!(node.prints("get devices").await, "", "the namespace default has none");
    let shown = node.json("get device b1 -n plant -o json").await;
    assert_eq!(twin(&shown, "temperature")["reported"], "21.5");
    assert!(node.prints("get device b1 -n plant -o yaml").await.contains("model: boiler"));
    assert!(node.prints("describe device b1 -n plant").await.contains("21.5 C"));
    let mappers = node.json("get mappers -o json").await;
    assert_eq!(
        (&mappers[0]["name"], &mappers[0]["devices"], &mappers[0]["connected"]),
        (&json!("m"), &json!(1), &json!(true))
    );

    // What it has now, and not what was reported last.
    let now = node.prints("read device b1 -n plant temperature").await;
    let rows: Vec<Vec<_>> = now.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["PROPERTY", "TYPE", "VALUE", "QUALITY", "PROBLEM"]);
    assert_eq!(rows[1][..5], ["temperature", "DOUBLE", "23.75", "C", "Good"]);
    let now = node.json("read device b1 -n plant -o json").await;
    assert_eq!((&now[0]["property"], &now[0]["reported"]), (&json!("temperature"), &json!("23.75")));
    let said = node.fails("read device b1 -n plant pressure", exit::NOT_FOUND).await;
    assert!(said.contains("has no property \"pressure\""), "{said}");

    let set = node.prints("set device b1 -n plant setpoint=55 mode=eco=2 --wait --timeout 40s").await;
    assert_eq!(set, "plant/b1 has setpoint=55\nplant/b1 has mode=eco=2\n");
    let shown = node.json("get device b1 -n plant -o json").await;
    assert_eq!((&twin(&shown, "mode")["desired"], &twin(&shown, "mode")["synced"]), (&json!("eco=2"), &json!(true)));
    assert_eq!(twin(&shown, "setpoint")["desiredOrigin"], "edge");

    let said = node.fails(&format!("set device b1 -n plant setpoint={TOO_HOT} --wait"), exit::REFUSED).await;
    assert!(said.contains("refused setpoint: illegal data value"), "{said}");
    assert!(node.prints("describe device b1 -n plant").await.contains("setpoint: illegal data value"));

    mapper.abort();
    // At once for values; the state when the mapper had its moment to come back.
    node.watch(|change| twin(&change["device"], "temperature")["quality"] == "Uncertain").await;
    node.watch(|change| change["device"]["state"] == "unknown").await;
    let described = node.prints("describe device b1 -n plant").await;
    assert!(described.contains("Uncertain") && described.contains("State:        unknown"), "{described}");
    let said = node.fails("set device b1 -n plant setpoint=57 --wait --timeout 1s", exit::UNREACHABLE).await;
    assert!(said.contains("does not have setpoint in time") && said.contains("mapper"), "{said}");
    let shown = node.json("get device b1 -n plant -o json").await;
    assert_eq!(
        (&twin(&shown, "setpoint")["desired"], &twin(&shown, "setpoint")["synced"]),
        (&json!("57"), &json!(false))
    );

    node.hub.delete(kinds::DEVICE, "plant", "b1");
    node.hub.put(kinds::DEVICE, "plant", "b2", device("b2"));
    node.watch(|change| change["device"]["name"] == "b2").await;
}

#[tokio::test]
async fn a_mistake_says_what_to_do_and_changes_nothing() {
    let node = Node::start().await;
    node.watch(|change| change["device"]["name"] == "b1").await;
    for (arguments, code, words) in [
        ("get device b11 -n plant", exit::NOT_FOUND, "did you mean b1?"),
        ("describe device b1", exit::NOT_FOUND, "-n plant"),
        ("set device b1 -n plant setpint=1", exit::NOT_FOUND, "did you mean setpoint?"),
        ("set device b1 -n plant temperature=1", exit::USAGE, "read only"),
        ("set device b1 -n plant setpoint=900", exit::USAGE, "90"),
        ("set device b1 -n plant setpoint=1 nothing=2", exit::NOT_FOUND, "nothing"),
        ("set device b1 -n plant setpoint", exit::USAGE, "PROPERTY=VALUE"),
        ("set device b1 -n plant setpoint=1 --timeout 1s", exit::USAGE, "--wait"),
        ("get devices -n plant -A", exit::USAGE, "cannot be used with"),
    ] {
        let said = node.fails(arguments, code).await;
        assert!(said.contains(words), "{arguments}: {said}");
    }
    let shown = node.json("get device b1 -n plant -o json").await;
    assert_eq!(twin(&shown, "setpoint")["desired"], Value::Null);
    assert_eq!(node.prints("set device b1 -n plant setpoint=1").await, "plant/b1 is to have setpoint=1\n");
}

#[tokio::test]
async fn a_node_that_does_not_run_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in ["get devices", "get mappers", "describe device x", "set device x a=1", "watch devices"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
        command.args(arguments.split(' ')).arg("--socket").arg(dir.path().join("dmi.sock"));
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(exit::UNREACHABLE.into()), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("systemctl start skerry-edge") && said.contains("--data-dir"), "{said}");
    }
}
