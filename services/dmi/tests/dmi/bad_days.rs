//! Bad days with a mapper of the SDK: its model is gone, its device is edited without end, names are strange.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_common::kinds;
use skerry_mapper_sdk::{CancellationToken, Common, Config, Counters, GrpcServer, Mapper, Rest};
use skerry_mapper_virtual::{ABOUT, Virtual};
use skerry_proto::dmi::v1 as pb;
use skerry_telemetry::{Readiness, Registry};
use tokio::task::JoinHandle;

use crate::node::{Node, condition, eventually, key, twin};

/// The virtual mapper.
struct Running {
    counters: Counters,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until no device is read any more.
    async fn rests(&self) {
        let still = eventually(async || {
            let before = self.counters.polls();
            tokio::time::sleep(Duration::from_millis(500)).await;
            (self.counters.polls() == before).then_some(())
        });
        assert!(still.await.is_some(), "a device is still read");
    }

    async fn start(node: &Node) -> Self {
        let config = Config {
            grpc_server: GrpcServer { socket_path: Some(node.path("virtual.sock")) },
            common: Common { edgecore_sock: Some(node.socket().display().to_string()), ..Common::default() },
            rest: Rest { enabled: false, ..Rest::default() },
            ..Config::default()
        };
        let built = Mapper::build(&config, &ABOUT, Virtual::default(), &Registry::new(), &Readiness::new()).await;
        let (mapper, stop) = (built.unwrap(), CancellationToken::new());
        let counters = mapper.counters();
        Self { counters, task: tokio::spawn(mapper.run(stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Waits until devices are read again.
    async fn reads(&self) {
        let before = self.counters.polls();
        let more = eventually(async || (self.counters.polls() >= before + 3).then_some(())).await;
        assert!(more.is_some(), "nothing is read any more");
    }
}

/// A model of properties with these names; the first one counts, the others can be written.
fn model(names: &[&str]) -> Value {
    let property = |(at, name): (usize, &&str)| {
        let access = if at == 0 { "ReadOnly" } else { "ReadWrite" };
        json!({ "name": name, "type": "INT", "accessMode": access })
    };
    let properties: Vec<Value> = names.iter().enumerate().map(property).collect();
    json!({ "metadata": { "uid": "uid-m" }, "spec": { "properties": properties } })
}

fn device(uid: &str, names: &[&str]) -> Value {
    let property = |(at, name): (usize, &&str)| {
        let visitor = if at == 0 { json!({ "source": "counter" }) } else { json!({ "source": "echo", "value": "0" }) };
        json!({
            "name": name, "collectCycle": 200, "reportCycle": 200, "reportToCloud": true,
            "visitors": { "protocolName": "virtual", "configData": visitor },
        })
    };
    json!({
        "metadata": { "uid": uid, "generation": 1 },
        "spec": {
            "deviceModelRef": { "name": "m" }, "nodeName": "edge-1",
            "protocol": { "protocolName": "virtual", "configData": {} },
            "properties": names.iter().enumerate().map(property).collect::<Vec<Value>>(),
        },
    })
}

/// Properties of a device: one that counts, one that can be written.
const NAMES: [&str; 2] = ["count", "setpoint"];

/// A node with a device of these properties, and the mapper that serves it.
async fn served_device(name: &str, properties: &[&str]) -> (Node, Running) {
    let node = Node::start().await;
    node.hub.put(kinds::DEVICE_MODEL, "plant", "m", model(properties));
    node.hub.put(kinds::DEVICE, "plant", name, device(&format!("uid-{name}"), properties));
    let mapper = Running::start(&node).await;
    node.until(name, served).await;
    (node, mapper)
}

fn served(view: &pb::DeviceView) -> bool {
    condition(view, "Ready").status && condition(view, "Online").status
}

#[tokio::test]
async fn a_model_that_is_deleted_while_in_use_stops_nothing() {
    let (mut node, mapper) = served_device("d", &NAMES).await;
    node.hub.delete(kinds::DEVICE_MODEL, "plant", "m");
    node.until("d", |view| condition(view, "Ready").reason == "ModelNotFound").await;
    mapper.reads().await;
    // The agent comes back and cannot describe the device: its mapper goes on with it.
    node.kill().await;
    node.run().await;
    let sessions = mapper.counters.node_sessions();
    eventually(async || (mapper.counters.node_sessions() > sessions).then_some(())).await;
    let good = |view: &pb::DeviceView| {
        condition(view, "Ready").reason == "ModelNotFound" && twin(view, "count").quality() == pb::Quality::Good
    };
    node.until("d", good).await;
    mapper.reads().await;
    // The model is back: nothing was set up again.
    node.hub.put(kinds::DEVICE_MODEL, "plant", "m", model(&NAMES));
    node.until("d", served).await;
    assert_eq!(mapper.counters.devices_set(), 1);
    // A second time, without a restart between.
    node.hub.delete(kinds::DEVICE_MODEL, "plant", "m");
    node.until("d", |view| condition(view, "Ready").reason == "ModelNotFound").await;
    node.hub.put(kinds::DEVICE_MODEL, "plant", "m", model(&NAMES));
    node.until("d", served).await;
    assert_eq!(mapper.counters.devices_set(), 1);
    // A device without its model that goes is let go, also where its mapper was never told what it is.
    node.hub.delete(kinds::DEVICE_MODEL, "plant", "m");
    node.kill().await;
    node.run().await;
    node.until("d", good).await;
    node.hub.delete(kinds::DEVICE, "plant", "d");
    mapper.rests().await;
    mapper.end().await;
}

#[tokio::test]
async fn a_device_edited_ten_times_a_second_is_not_set_up_again_for_what_its_mapper_does_not_see() {
    let (node, mapper) = served_device("d", &NAMES).await;
    let (started, before) = (Instant::now(), node.hub.received(kinds::DEVICE_STATUS).len());
    let mut every = tokio::time::interval(Duration::from_millis(100));
    for edit in 1..=50 {
        every.tick().await;
        let mut edited = device("uid-d", &NAMES);
        edited["metadata"]["generation"] = (edit + 1).into();
        edited["metadata"]["labels"] = json!({ "edit": edit.to_string() });
        edited["spec"]["properties"][1]["desired"] = json!({ "value": edit.to_string() });
        node.hub.put(kinds::DEVICE, "plant", "d", edited);
    }
    let last = |view: &pb::DeviceView| {
        condition(view, "Synced").status && twin(view, "setpoint").reported.as_deref() == Some("50")
    };
    node.until("d", last).await;
    assert_eq!(mapper.counters.devices_set(), 1);
    // Each status names the newest generation, and there is one a second at most.
    let told = node.hub.received(kinds::DEVICE_STATUS).len() - before;
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap() + 2;
    assert!(told <= seconds, "{told} statuses in {seconds} s");
    mapper.end().await;
}

#[tokio::test]
async fn names_with_every_legal_character() {
    let longest = "p".repeat(128);
    let names = [
        "count",
        "a/b",
        "../../etc/passwd",
        "p.q:r@s#t,u-v_w",
        "ä ö 水",
        "'; drop table twins; --",
        "$(reboot) `id` | ;",
        "%s{}{{x}}\\n",
        &longest,
    ];
    // What Kubernetes allows for a name: 253 letters, digits, '-' and '.'.
    let name = format!("0{}{}9", "a-b.".repeat(60), "z".repeat(11));
    let (mut node, mapper) = served_device(&name, &names).await;
    for (at, property) in names.iter().enumerate().skip(1) {
        let request =
            pb::SetDesiredRequest { device: Some(key(&name)), property: (*property).into(), value: at.to_string() };
        node.devices().set_desired(request).await.unwrap();
    }
    let all = |view: &pb::DeviceView| {
        let has = |(at, name): (usize, &&str)| twin(view, name).reported == Some(at.to_string());
        condition(view, "Synced").status && names.iter().enumerate().skip(1).all(has)
    };
    node.until(&name, all).await;
    let told = eventually(async || {
        let told = node.hub.received(kinds::DEVICE_DESIRED);
        let properties = told.iter().map(|report| report.body["property"].to_string());
        (properties.collect::<BTreeSet<_>>().len() == names.len() - 1).then_some(())
    });
    assert!(told.await.is_some(), "{:?}", node.hub.received(kinds::DEVICE_DESIRED));
    // All of it comes back from the disk.
    node.kill().await;
    mapper.end().await;
    node.run().await;
    let wanted = |view: &pb::DeviceView| {
        let wants = |(at, name): (usize, &&str)| twin(view, name).desired == Some(at.to_string());
        names.iter().enumerate().skip(1).all(wants)
    };
    node.until(&name, wanted).await;
    let status = node.status(&name, |status| status["status"]["twins"].as_array().is_some_and(|t| t.len() >= 8)).await;
    let shown = status["status"]["twins"].as_array().unwrap().iter().map(|twin| twin["propertyName"].as_str().unwrap());
    let shown: Vec<&str> = shown.collect();
    assert!(names.iter().skip(1).all(|name| shown.contains(name)), "{shown:?}");
}

#[tokio::test]
async fn a_device_that_another_node_gets_leaves_nothing_behind() {
    let (mut node, mapper) = served_device("d", &NAMES).await;
    let set = pb::SetDesiredRequest { device: Some(key("d")), property: "setpoint".into(), value: "7".into() };
    node.devices().set_desired(set).await.unwrap();
    node.until("d", |view| condition(view, "Synced").status).await;
    node.hub.delete(kinds::DEVICE, "plant", "d");
    assert!(eventually(async || node.view("d").await.is_none().then_some(())).await.is_some());
    // Its mapper has let it go.
    mapper.rests().await;
    // It comes back, also after a restart: what was wanted here is not wanted any more.
    node.stop().await;
    node.hub.put(kinds::DEVICE, "plant", "d", device("uid-d", &NAMES));
    node.run().await;
    let view = node.until("d", served).await;
    assert_eq!(twin(&view, "setpoint").desired, None);
    mapper.end().await;
}

#[tokio::test]
async fn a_mapper_of_the_sdk_reads_when_it_is_asked() {
    let (node, mapper) = served_device("d", &NAMES).await;
    let read = async |properties: &[&str]| {
        let properties = properties.iter().map(|name| (*name).to_owned()).collect();
        let request = pb::ReadDeviceRequest { device: Some(key("d")), properties, timeout_ms: 0 };
        node.devices().read_device(request).await.unwrap().into_inner().twins
    };
    let number = |twin: &pb::TwinView| twin.reported.as_ref().unwrap().parse::<i64>().unwrap();
    // It counts reads: each answer is one of its own.
    let (first, second) = (read(&["count"]).await, read(&["count"]).await);
    assert!(number(&second[0]) > number(&first[0]), "{first:?} {second:?}");
    let all = read(&[]).await;
    assert_eq!(all.iter().map(|twin| twin.property.as_str()).collect::<Vec<_>>(), NAMES);
    assert!(all.iter().all(|twin| twin.quality() == pb::Quality::Good), "{all:?}");
    mapper.end().await;
}
