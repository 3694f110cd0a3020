//! KubeEdge's interface, byte by byte: each call, each field number, the order of calls, every start order.
//!
//! What is expected is written from KubeEdge's proto file and its behaviour, not from generated code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;

use crate::node::{Node, condition, device, eventually, model, twin};
use crate::wire::{Field, MapperServer, Message, all, call, int, map, one, read, text};

pub(crate) const REGISTER: &str = "/v1beta1.DeviceManagerService/MapperRegister";
pub(crate) const STATUS: &str = "/v1beta1.DeviceManagerService/ReportDeviceStatus";
pub(crate) const STATES: &str = "/v1beta1.DeviceManagerService/ReportDeviceStates";

pub(crate) const OK: i32 = 0;
const INVALID: i32 = 3;
pub(crate) const EXHAUSTED: i32 = 8;
const DENIED: i32 = 7;

pub(crate) fn registration(name: &str, protocol: &str, address: &Path, with_data: bool) -> Message {
    let mapper = Message::new()
        .text(1, name)
        .text(2, "v1.13.0")
        .text(3, "v1.0.0")
        .text(4, protocol)
        .bytes(5, address.to_str().unwrap().as_bytes())
        .text(6, "ok");
    let message = if with_data { Message::new().int(1, 1) } else { Message::new() };
    message.message(2, &mapper)
}

pub(crate) async fn register(node: &Node, name: &str, protocol: &str, with_data: bool) -> (PathBuf, Vec<u8>) {
    let address = node.path(&format!("{name}.sock"));
    let (code, words, answer) = call(node.socket(), REGISTER, &registration(name, protocol, &address, with_data)).await;
    assert_eq!(code, OK, "{words}");
    (address, answer)
}

/// A report of one property: with what the mapper believes is desired, as KubeEdge's mappers send it.
pub(crate) fn report(device: &str, property: &str, value: &str) -> Message {
    let value_of = |value: &str| {
        let metadata = Message::new().text(1, "timestamp").text(2, "1700000000000");
        Message::new().text(1, value).message(2, &metadata)
    };
    let twin = Message::new().text(1, property).message(2, &value_of("")).message(3, &value_of(value));
    let status = Message::new().message(1, &twin);
    Message::new().text(1, device).message(2, &status).text(3, "plant")
}

pub(crate) fn states(device: &str, state: &str) -> Message {
    Message::new().text(1, device).text(2, "plant").text(3, state)
}

async fn until_methods(server: &MapperServer, methods: &[&str]) {
    let same = eventually(async || (server.methods() == methods).then_some(())).await;
    assert!(same.is_some(), "{:?} instead of {methods:?}", server.methods());
}

/// The type and the bytes of an Any.
fn any(data: &[u8]) -> (String, Vec<(u64, Field)>) {
    (text(data, 1), read(&one(data, 2)))
}

fn check_device(sent: &[u8], desired: &str) {
    assert_eq!((text(sent, 1).as_str(), text(sent, 4).as_str()), ("b1", "plant"));
    let spec = one(sent, 2);
    assert_eq!(text(&spec, 1), "boiler");
    let protocol = one(&spec, 2);
    assert_eq!(text(&protocol, 1), "modbus");
    let config = map(&one(&protocol, 2), 1);
    let wrapper = |name: &str| format!("type.googleapis.com/google.protobuf.{name}");
    let string = |value: &str| vec![(1, Field::Bytes(value.into()))];
    assert_eq!(any(&config["address"]), (wrapper("StringValue"), string("10.0.0.7")));
    assert_eq!(any(&config["unit"]), (wrapper("FloatValue"), vec![(1, Field::Fixed32(1.0_f32.to_bits()))]));
    assert_eq!(any(&config["timeoutMs"]), (wrapper("FloatValue"), vec![(1, Field::Fixed32(500.0_f32.to_bits()))]));
    assert_eq!(any(&config["keepAlive"]), (wrapper("BoolValue"), vec![(1, Field::Int(1))]));
    assert_eq!(config.len(), 4);

    let properties = all(&spec, 3);
    let [temperature, setpoint] = properties.as_slice() else { panic!("{properties:?}") };
    assert_eq!(text(temperature, 1), "temperature");
    assert!(one(temperature, 2).is_empty());
    let visitors = one(temperature, 3);
    assert_eq!(text(&visitors, 1), "modbus");
    let visitors = map(&one(&visitors, 2), 1);
    assert_eq!(any(&visitors["register"]), (wrapper("StringValue"), string("InputRegister")));
    assert_eq!(any(&visitors["scale"]).1, [(1, Field::Fixed32(0.5_f32.to_bits()))]);
    assert_eq!(any(&visitors["offset"]).1, [(1, Field::Fixed32(4.0_f32.to_bits()))]);
    assert_eq!((int(temperature, 4), int(temperature, 5), int(temperature, 6)), (1000, 500, 1));
    assert_eq!(text(setpoint, 1), "setpoint");
    let wanted = one(setpoint, 2);
    assert_eq!(text(&wanted, 1), desired);
    assert_eq!(map(&wanted, 2)["by"], b"ada");

    let methods = all(&spec, 4);
    assert_eq!(text(&methods[0], 1), "heat");
    assert_eq!(text(&methods[0], 2), "sets the temperature");
    assert_eq!(text(&methods[0], 3), "setpoint");
    let status = one(sent, 3);
    assert_eq!((int(&status, 2), int(&status, 3)), (1, 2000));
}

fn check_model(sent: &[u8]) {
    assert_eq!((text(sent, 1).as_str(), text(sent, 3).as_str()), ("boiler", "plant"));
    let properties = all(&one(sent, 2), 1);
    let [temperature, setpoint] = properties.as_slice() else { panic!("{properties:?}") };
    assert_eq!(text(temperature, 1), "temperature");
    assert_eq!(text(temperature, 2), "of the water");
    assert_eq!(text(temperature, 3), "DOUBLE");
    assert_eq!(text(temperature, 4), "ReadOnly");
    assert_eq!(text(temperature, 7), "C");
    assert_eq!((text(setpoint, 3).as_str(), text(setpoint, 4).as_str()), ("INT", "ReadWrite"));
    assert_eq!((text(setpoint, 5).as_str(), text(setpoint, 6).as_str()), ("0", "90"));
}

#[tokio::test]
async fn a_registration_with_data_gets_models_and_devices() {
    let node = Node::start().await;
    node.put_boiler("b1");
    node.until("b1", |_| true).await;
    let (_, answer) = register(&node, "m", "modbus", true).await;
    let (models, devices) = (all(&answer, 1), all(&answer, 2));
    assert_eq!((models.len(), devices.len()), (1, 1));
    check_model(&models[0]);
    check_device(&devices[0], "40");
}

#[tokio::test]
async fn devices_come_change_and_go_in_the_order_of_kubeedge() {
    let node = Node::start().await;
    let (address, answer) = register(&node, "m", "modbus", false).await;
    assert!(answer.is_empty());
    // The socket appears only after the registration.
    let server = MapperServer::willing(&address);
    node.put_boiler("b1");
    until_methods(&server, &["CreateDeviceModel", "RegisterDevice"]).await;
    check_model(&one(&server.bodies("CreateDeviceModel")[0], 1));
    check_device(&one(&server.bodies("RegisterDevice")[0], 1), "40");
    node.until("b1", |v| condition(v, "Ready").status).await;

    // Nothing that the mapper does not see: no call.
    let mut changed = device("b1");
    changed["metadata"]["generation"] = 2.into();
    changed["metadata"]["labels"] = json!({ "site": "harbour" });
    changed["spec"]["properties"].as_array_mut().unwrap().reverse();
    node.hub.put(kinds::DEVICE, "plant", "b1", changed.clone());
    // A desired value: the mapper hears of it by UpdateDevice.
    changed["spec"]["properties"][0]["desired"]["value"] = "50".into();
    node.hub.put(kinds::DEVICE, "plant", "b1", changed.clone());
    until_methods(&server, &["CreateDeviceModel", "RegisterDevice", "UpdateDevice"]).await;
    let sent = one(&server.bodies("UpdateDevice")[0], 1);
    let setpoint = all(&one(&sent, 2), 3).into_iter().find(|p| text(p, 1) == "setpoint").unwrap();
    assert_eq!(text(&one(&setpoint, 2), 1), "50");

    let mut other = model();
    other["spec"]["properties"][1]["maximum"] = "95".into();
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", other);
    let so_far = ["CreateDeviceModel", "RegisterDevice", "UpdateDevice", "UpdateDeviceModel"];
    until_methods(&server, &so_far).await;
    assert_eq!(text(&one(&server.bodies("UpdateDeviceModel")[0], 1), 1), "boiler");

    // The model goes with its last device, before it.
    node.hub.put(kinds::DEVICE, "plant", "b2", device("b2"));
    let so_far = [&so_far[..], &["RegisterDevice"]].concat();
    until_methods(&server, &so_far).await;
    node.hub.delete(kinds::DEVICE, "plant", "b2");
    let so_far = [&so_far[..], &["RemoveDevice"]].concat();
    until_methods(&server, &so_far).await;
    node.hub.delete(kinds::DEVICE, "plant", "b1");
    until_methods(&server, &[&so_far[..], &["RemoveDeviceModel", "RemoveDevice"]].concat()).await;
    let gone = &server.bodies("RemoveDevice")[1];
    assert_eq!((text(gone, 1).as_str(), text(gone, 2).as_str()), ("b1", "plant"));
    let gone = &server.bodies("RemoveDeviceModel")[0];
    assert_eq!((text(gone, 1).as_str(), text(gone, 2).as_str()), ("boiler", "plant"));
}

#[tokio::test]
async fn values_and_states_reach_the_status() {
    let node = Node::start().await;
    node.put_boiler("b1");
    let (address, _) = register(&node, "m", "modbus", true).await;
    let _server = MapperServer::willing(&address);
    node.until("b1", |v| condition(v, "Ready").status).await;
    for (property, value) in [("temperature", "21.500000"), ("setpoint", "40")] {
        let (code, words, answer) = call(node.socket(), STATUS, &report("b1", property, value)).await;
        assert_eq!((code, answer.is_empty()), (OK, true), "{words}");
    }
    for word in ["OK", "a word of tomorrow"] {
        assert_eq!(call(node.socket(), STATES, &states("b1", word)).await.0, OK);
    }
    let view = node.until("b1", |v| condition(v, "Synced").status && condition(v, "Online").status).await;
    assert_eq!(twin(&view, "temperature").reported_unix_ms, 1_700_000_000_000);
    let status = node
        .status("b1", |s| s["status"]["state"] == "ok" && s["status"]["twins"].as_array().is_some_and(|t| t.len() == 2))
        .await;
    let twins = status["status"]["twins"].as_array().unwrap();
    let reported = &twins.iter().find(|t| t["propertyName"] == "temperature").unwrap()["reported"];
    assert_eq!(reported["value"], "21.500000");
    assert_eq!(reported["metadata"]["timestamp"], "1700000000000");
    assert!(status["status"]["lastOnlineTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{status}");
}

#[tokio::test]
async fn what_is_missing_or_not_the_mappers_is_refused_with_words() {
    let node = Node::start().await;
    node.put_boiler("b1");
    let mut other = device("x1");
    other["spec"]["protocol"]["protocolName"] = "opcua".into();
    node.hub.put(kinds::DEVICE, "plant", "x1", other);
    node.until("b1", |_| true).await;
    let socket = node.socket();
    // Nobody has registered.
    for message in [report("b1", "temperature", "1"), report("none", "temperature", "1")] {
        let (code, words, _) = call(socket, STATUS, &message).await;
        assert_eq!(code, DENIED);
        assert!(words.contains("MapperRegister"), "{words}");
    }
    assert_eq!(call(socket, STATES, &states("b1", "ok")).await.0, DENIED);
    let at = |path: &str| registration("m", "modbus", Path::new(path), true);
    let good = node.path("m.sock");
    for message in [
        Message::new(),
        Message::new().int(1, 1),
        registration("m", "", &good, true),
        registration("", "modbus", &good, true),
        at(""),
        at("m.sock"),
        at("/var/run/docker.sock"),
        at(node.path("../x.sock").to_str().unwrap()),
        Message::new().bytes(2, b"\xff\xff"),
    ] {
        let (code, words, _) = call(socket, REGISTER, &message).await;
        assert!([INVALID, 13].contains(&code) && !words.is_empty(), "{message:?}: {code} {words}");
    }
    register(&node, "m", "modbus", true).await;
    let twin =
        |twin: &Message| Message::new().text(1, "b1").message(2, &Message::new().message(1, twin)).text(3, "plant");
    for (message, code) in [
        (Message::new(), INVALID),
        (Message::new().text(1, "b1").text(3, "plant"), INVALID),
        (Message::new().text(1, "../b1").text(3, "plant"), INVALID),
        (report("x1", "temperature", "1"), DENIED),
        (report("none", "temperature", "1"), DENIED),
        (report("b1", "nothing", "1"), INVALID),
        (report("b1", "temperature", &"1".repeat(4097)), INVALID),
        // A twin without a value, or without anything, as a mapper sends before the first read.
        (twin(&Message::new().text(1, "temperature")), OK),
        (twin(&Message::new()), OK),
    ] {
        let (got, words, _) = call(socket, STATUS, &message).await;
        assert_eq!(got, code, "{message:?}: {words}");
    }
    for (message, code) in [
        (Message::new(), INVALID),
        (states("b1", ""), INVALID),
        (states("x1", "ok"), DENIED),
        (states("b1", "Online"), OK),
    ] {
        assert_eq!(call(socket, STATES, &message).await.0, code, "{message:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_sent_is_said() {
    let node = Node::start().await;
    let (address, _) = register(&node, "m", "modbus", true).await;
    let server = MapperServer::willing(&address);
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
    let mut wrong = device("b1");
    wrong["spec"]["protocol"]["configData"]["tags"] = json!(["a"]);
    node.hub.put(kinds::DEVICE, "plant", "b1", wrong);
    let view = node.until("b1", |v| condition(v, "Ready").reason == "MapperRefused").await;
    let message = condition(&view, "Ready").message;
    assert!(message.contains("\"tags\"") && message.contains("a list"), "{message}");
    assert_eq!(server.methods(), ["CreateDeviceModel"]);
    // The mapper's own words, too.
    let picky =
        MapperServer::start(&address, Arc::new(|method| (method == "RegisterDevice").then_some((9, "no such line"))));
    register(&node, "m", "modbus", false).await;
    node.hub.put(kinds::DEVICE, "plant", "b1", device("b1"));
    let words = |v: &pb::DeviceView| condition(v, "Ready").message.contains("no such line");
    node.until("b1", words).await;
    drop((picky, server));
}

#[tokio::test]
async fn every_start_order_ends_the_same() {
    for order in ["amd", "adm", "mad", "mda", "dam", "dma"] {
        let mut node = Node::stopped(|_| {}).await;
        let (mut running, mut mapper) = (false, false);
        let mut server = None;
        for step in order.chars() {
            match step {
                'a' => {
                    node.run().await;
                    running = true;
                }
                'd' => node.put_boiler("b1"),
                _ => mapper = true,
            }
            // A mapper that comes before the agent tries to register until it is there.
            if running && mapper && server.is_none() {
                let (address, _) = register(&node, "m", "modbus", true).await;
                server = Some(MapperServer::willing(&address));
            }
        }
        node.until("b1", |v| condition(v, "Ready").status).await;
        assert_eq!(call(node.socket(), STATUS, &report("b1", "temperature", "1")).await.0, OK, "{order}");
        assert_eq!(call(node.socket(), STATES, &states("b1", "online")).await.0, OK, "{order}");
        node.until("b1", |v| condition(v, "Online").status).await;
        let methods = server.unwrap().methods();
        let registered = methods.iter().filter(|method| *method == "RegisterDevice").count();
        assert!(registered <= 1 && !methods.iter().any(|m| m == "UpdateDevice"), "{order}: {methods:?}");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_restart_of_the_agent_sets_nothing_up_again() {
    let mut node = Node::start().await;
    let (address, _) = register(&node, "m", "modbus", false).await;
    let server = MapperServer::willing(&address);
    node.put_boiler("b1");
    until_methods(&server, &["CreateDeviceModel", "RegisterDevice"]).await;
    call(node.socket(), STATUS, &report("b1", "temperature", "21.5")).await;
    call(node.socket(), STATES, &states("b1", "online")).await;
    node.until("b1", |v| condition(v, "Online").status).await;
    node.stop().await;
    // What changed meanwhile is told, and nothing else; the mapper does not register again.
    node.hub.put(kinds::DEVICE, "plant", "b2", device("b2"));
    node.run().await;
    let view = node.until("b1", |v| condition(v, "Ready").status).await;
    // The value of before is shown, and not as fresh.
    assert_eq!(twin(&view, "temperature").reported.as_deref(), Some("21.5"));
    assert_eq!(twin(&view, "temperature").quality(), pb::Quality::Uncertain);
    until_methods(&server, &["CreateDeviceModel", "RegisterDevice", "RegisterDevice"]).await;
    assert_eq!(call(node.socket(), STATUS, &report("b1", "temperature", "22")).await.0, OK);
    let view = node.until("b1", |v| condition(v, "Online").status).await;
    assert_eq!(twin(&view, "temperature").quality(), pb::Quality::Good);
    // Another run of the mapper at the same address knows nothing, and is told everything.
    drop(server);
    let server = MapperServer::willing(&address);
    eventually(async || (server.bodies("RegisterDevice").len() == 2).then_some(())).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_device_moves_when_its_mapper_is_gone_and_not_before() {
    let node = Node::start().await;
    node.put_boiler("b1");
    node.put_boiler("b2");
    node.until("b2", |_| true).await;
    let (first, _) = register(&node, "m1", "modbus", false).await;
    let first = MapperServer::willing(&first);
    eventually(async || (first.bodies("RegisterDevice").len() == 2).then_some(())).await.unwrap();
    let (second, _) = register(&node, "m2", "modbus", false).await;
    let second = MapperServer::willing(&second);
    node.until("b1", |v| v.mapper == "m1").await;
    assert!(second.methods().is_empty());
    drop(first);
    eventually(async || (second.bodies("RegisterDevice").len() == 2).then_some(())).await.unwrap();
    node.until("b1", |v| v.mapper == "m2" && condition(v, "Ready").status).await;
}

#[tokio::test]
async fn a_mapper_that_hangs_holds_up_itself_alone() {
    let node = Node::start().await;
    let address = node.path("slow.sock");
    let hangs = Arc::new(AtomicBool::new(true));
    let hung = Arc::clone(&hangs);
    let slow = MapperServer::start(&address, Arc::new(move |_| hung.load(Ordering::SeqCst).then_some((-1, ""))));
    register(&node, "slow", "modbus", false).await;
    node.put_boiler("b1");
    eventually(async || (!slow.methods().is_empty()).then_some(())).await.unwrap();
    let (other, _) = register(&node, "quick", "opcua", false).await;
    let quick = MapperServer::willing(&other);
    let mut device = device("x1");
    device["spec"]["protocol"]["protocolName"] = "opcua".into();
    node.hub.put(kinds::DEVICE, "plant", "x1", device);
    until_methods(&quick, &["CreateDeviceModel", "RegisterDevice"]).await;
    node.until("x1", |v| condition(v, "Ready").status).await;
    let view = node.view("b1").await.unwrap();
    assert_eq!(condition(&view, "Ready").reason, "MapperPending");
    drop(slow);
    // It is killed and comes back well: everything goes on.
    let slow = MapperServer::willing(&address);
    node.until("b1", |v| condition(v, "Ready").status).await;
    drop(slow);
}

/// What became of so many reports at once.
async fn flood(node: &Node, count: usize) -> Vec<(i32, String, Vec<u8>)> {
    let flood = (0..count).map(|_| async { call(node.socket(), STATUS, &report("b1", "temperature", "1")).await });
    futures::future::join_all(flood).await
}

#[tokio::test]
async fn control_without_a_quota_a_flood_is_taken() {
    let node = Node::with(|config| config.dmi.quotas.calls_per_second = u32::MAX).await;
    node.put_boiler("b1");
    let (address, _) = register(&node, "m", "modbus", true).await;
    let _server = MapperServer::willing(&address);
    node.until("b1", |v| condition(v, "Ready").status).await;
    assert!(flood(&node, 200).await.iter().all(|(code, ..)| *code == OK));
}

#[tokio::test]
async fn a_flood_is_refused_to_its_author_alone() {
    let node = Node::with(|config| config.dmi.quotas.calls_per_second = 20).await;
    node.put_boiler("b1");
    let (address, _) = register(&node, "m", "modbus", true).await;
    let _server = MapperServer::willing(&address);
    node.until("b1", |v| condition(v, "Ready").status).await;
    let answers = flood(&node, 200).await;
    let refused: Vec<_> = answers.iter().filter(|(code, ..)| *code == EXHAUSTED).collect();
    assert!(refused.len() > 100, "{} of 200 were refused", refused.len());
    assert!(refused[0].1.contains("too many request"), "{}", refused[0].1);
    assert!(answers.iter().filter(|(code, ..)| *code == OK).count() >= 20);
    // Others go on meanwhile, and it goes on when it is calm.
    assert!(node.view("b1").await.is_some());
    tokio::time::timeout(Duration::from_secs(5), async {
        while call(node.socket(), STATUS, &report("b1", "temperature", "2")).await.0 != OK {}
    })
    .await
    .unwrap();
}
