//! Attacks at the socket for mappers: bodies, silence, nonsense, and text that is not what it seems.
//!
//! The controls are KubeEdge's way: a gRPC server of the library as it comes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::json;
use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1beta1 as kubeedge;
use skerry_proto::dmi::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::node::{Node, device, model, twin};
use crate::stream::{Mapper, value};
use crate::v1beta1::{REGISTER, STATES, STATUS, registration, report, states};
use crate::wire::{MapperServer, Message, call, framed, send};

const OK: i32 = 0;
pub(crate) const INVALID: i32 = 3;
const EXHAUSTED: i32 = 8;
pub(crate) const CONNECT: &str = "/skerry.dmi.v1.Mappers/Connect";

/// A node with a device that a mapper of KubeEdge serves.
async fn served() -> (Node, MapperServer) {
    let node = Node::start().await;
    node.put_boiler("b1");
    let address = node.path("m.sock");
    let (code, words, _) = call(node.socket(), REGISTER, &registration("m", "modbus", &address, true)).await;
    assert_eq!(code, OK, "{words}");
    let server = MapperServer::willing(&address);
    node.until("b1", |view| crate::node::condition(view, "Ready").status).await;
    (node, server)
}

/// A report of this many twins without anything in them.
fn empty_twins(count: usize) -> Message {
    let twins = Message([0x0a, 0x00].repeat(count));
    Message::new().text(1, "b1").message(2, &twins).text(3, "plant")
}

/// Counts what reaches it.
#[derive(Clone, Default)]
struct TakesAll;

#[tonic::async_trait]
impl DeviceManagerService for TakesAll {
    async fn mapper_register(
        &self,
        _: Request<kubeedge::MapperRegisterRequest>,
    ) -> Result<Response<kubeedge::MapperRegisterResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn report_device_status(
        &self,
        _: Request<kubeedge::ReportDeviceStatusRequest>,
    ) -> Result<Response<kubeedge::ReportDeviceStatusResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn report_device_states(
        &self,
        _: Request<kubeedge::ReportDeviceStatesRequest>,
    ) -> Result<Response<kubeedge::ReportDeviceStatesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

/// The library's server as it comes, at a socket in the folder.
fn plain_server(folder: &Path) -> PathBuf {
    let socket = folder.join("plain.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server = tonic::transport::Server::builder().add_service(DeviceManagerServiceServer::new(TakesAll));
    tokio::spawn(server.serve_with_incoming(incoming));
    socket
}

#[tokio::test]
async fn bodies_that_are_too_large_or_lie_are_refused() {
    let (node, _server) = served().await;
    let socket = node.socket();
    let large = report("b1", "temperature", &"1".repeat(300 << 10));
    assert_eq!(call(socket, STATUS, &large).await.0, EXHAUSTED);
    let (code, words, _) = call(socket, STATUS, &empty_twins(100_000)).await;
    assert_eq!(code, INVALID);
    assert!(words.contains("2000 twins"), "{words}");
    // Ten bytes that say that they are 4 GiB, or compressed, or not all.
    for prefix in
        [[0, 255, 255, 255, 255], [1, 0, 0, 0, 10], [1, 255, 255, 255, 255], [0, 0, 0, 0, 11], [9, 0, 0, 0, 10]]
    {
        let body = [&prefix[..], &[0; 10]].concat();
        let answer = send(socket, STATUS, body.into()).await;
        assert!(answer.as_ref().is_none_or(|(code, ..)| *code != OK), "{prefix:?}: {answer:?}");
    }
    // A stream takes more in one message, and not everything.
    let hello = pb::Hello { name: "s".into(), protocol: "modbus".into(), ..Default::default() };
    let hello = pb::MapperMessage { message: Some(pb::mapper_message::Message::Hello(hello)) };
    let body = [&framed(&hello.encode_to_vec())[..], &[0, 0, 0x50, 0, 0], &vec![0; 0x50_0000]].concat();
    assert_eq!(send(socket, CONNECT, body.into()).await.unwrap().0, EXHAUSTED);
    assert_eq!(call(socket, STATUS, &report("b1", "temperature", "1")).await.0, OK);
}

#[tokio::test]
async fn control_the_library_as_it_comes_takes_large_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let socket = plain_server(folder.path());
    assert_eq!(call(&socket, STATUS, &report("b1", "temperature", &"1".repeat(300 << 10))).await.0, OK);
    assert_eq!(call(&socket, STATUS, &empty_twins(100_000)).await.0, OK);
}

/// How long the server keeps a connection that says nothing, up to a limit.
async fn kept(mut connection: UnixStream, limit: Duration) -> Duration {
    let (begun, mut answer) = (Instant::now(), Vec::new());
    let _ = tokio::time::timeout(limit, connection.read_to_end(&mut answer)).await;
    begun.elapsed()
}

#[tokio::test]
async fn silent_connections_lose_their_place() {
    /// More than the socket has places for.
    const MANY: usize = 300;
    const LIMIT: Duration = Duration::from_secs(9);
    let (node, _server) = served().await;
    let folder = tempfile::tempdir().unwrap();
    let control = plain_server(folder.path());
    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(UnixStream::connect(node.socket()).await.unwrap());
    }
    let first = kept(silent.remove(0), LIMIT);
    // A mapper waits for a place, and gets it when the silent ones have lost theirs.
    let report = report("b1", "temperature", "1");
    let begun = Instant::now();
    let plain = kept(UnixStream::connect(&control).await.unwrap(), LIMIT);
    let ((code, ..), first, plain) = tokio::join!(call(node.socket(), STATUS, &report), first, plain);
    assert_eq!(code, OK);
    assert!(first < LIMIT && begun.elapsed() >= LIMIT, "{first:?}");
    // The control: the library keeps it.
    assert!(plain >= LIMIT, "{plain:?}");
}

/// Repeatable numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A message with some bytes changed, left out or repeated.
    fn spoiled(&mut self, message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match self.below(4) {
                0 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}

#[tokio::test]
async fn nonsense_is_answered_and_ends_nothing_else() {
    const ROUNDS: usize = 300;
    let (node, _server) = served().await;
    let address = node.path("m.sock");
    let unary = [
        (REGISTER, registration("m", "modbus", &address, true)),
        (STATUS, report("b1", "temperature", "21.5")),
        (STATES, states("b1", "ok")),
    ];
    let reports = pb::Reports {
        sequence: 1,
        devices: vec![pb::DeviceValues {
            device: Some(crate::node::key("b2")),
            values: vec![value("temperature", pb::value::Value::Number(21.5))],
        }],
    };
    let said = [
        pb::mapper_message::Message::Hello(pb::Hello { name: "s".into(), protocol: "x".into(), ..Default::default() }),
        pb::mapper_message::Message::Reports(reports),
    ];
    let said = said.map(|message| pb::MapperMessage { message: Some(message) }.encode_to_vec());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        for (path, message) in &unary {
            let spoiled = Message(random.spoiled(&message.0));
            let answer = tokio::time::timeout(Duration::from_secs(5), call(node.socket(), path, &spoiled)).await;
            assert!(answer.is_ok(), "round {round}: {path} hangs with {spoiled:?}");
        }
        let spoiled = random.spoiled(&said[1]);
        let body = [&framed(&said[0])[..], &framed(&spoiled)].concat();
        let answer = tokio::time::timeout(Duration::from_secs(5), send(node.socket(), CONNECT, body.into())).await;
        assert!(answer.is_ok(), "round {round}: the stream hangs with {spoiled:?}");
    }
    // The same without a fault is taken.
    for (path, message) in &unary {
        let (code, words, _) = call(node.socket(), path, message).await;
        assert_eq!(code, OK, "{path}: {words}");
    }
    assert_eq!(
        node.devices().list_devices(pb::ListDevicesRequest::default()).await.unwrap().get_ref().devices.len(),
        1
    );
}

#[tokio::test]
async fn text_of_others_is_text() {
    let node = Node::start().await;
    // A command, a path, a template, a line of a log, colours of a terminal.
    let texts = [
        "$(touch /tmp/x); `id` | sh",
        "../../../etc/passwd",
        "{{.Env}} %s %n",
        "a\r\nINFO forged: line",
        "\u{1b}[31mred\u{7}",
    ];
    let mut strange = device("b1");
    for (at, text) in texts.iter().enumerate() {
        strange["spec"]["protocol"]["configData"][*text] = json!(text);
        strange["metadata"]["annotations"][at.to_string()] = json!(text);
    }
    strange["spec"]["methods"][0]["description"] = json!(texts.join(" "));
    node.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
    node.hub.put(kinds::DEVICE, "plant", "b1", strange);
    let mut mapper = Mapper::connect(&node, "m").await;
    let told = mapper.take_device().await;
    let config: serde_json::Value = serde_json::from_slice(&told.protocol_config).unwrap();
    for text in texts {
        // As it is, to whom it is for.
        assert_eq!(config[text], text);
        let said = pb::Value { problem: text.into(), ..value("temperature", pb::value::Value::Text(text.into())) };
        assert!(mapper.report("b1", vec![said]).await.refused.is_empty());
        mapper.state("b1", pb::DeviceState::Unhealthy, text).await;
        let shown = node.until("b1", |view| twin(view, "temperature").reported.as_deref() == Some(text)).await;
        // What people read is one line.
        assert!(!twin(&shown, "temperature").problem.contains(char::is_control), "{shown:?}");
        let shown = node.until("b1", |view| !view.state_reason.is_empty()).await;
        assert!(!shown.state_reason.contains(char::is_control), "{shown:?}");
        // As a name it is refused where a name is a path, a key or a line.
        let refused = call(node.socket(), STATUS, &report(text, "temperature", "1")).await;
        assert!(refused.0 == INVALID, "{text:?}: {refused:?}");
        let address = node.path(&format!("{text}.sock"));
        let refused = call(node.socket(), REGISTER, &registration("r", "modbus", &address, true)).await;
        assert!(refused.0 == INVALID || !text.contains("../"), "{text:?}: {refused:?}");
    }
    for name in ["a/../b", "a\nb", "\u{1b}[2J", ""] {
        let refused = call(node.socket(), REGISTER, &registration(name, "modbus", &node.path("r.sock"), true)).await;
        assert_eq!(refused.0, INVALID, "{name:?}: {refused:?}");
    }
}
