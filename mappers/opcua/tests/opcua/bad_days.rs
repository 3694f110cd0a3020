//! Servers that go and come back, with a whole mapper.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_mapper_opcua::ABOUT;
use skerry_mapper_sdk::conformance::{Api, Node};
use skerry_mapper_sdk::{CancellationToken, Common, Config, DeviceKey, DeviceState, GrpcServer, Mapper, Rest};
use skerry_telemetry::{Readiness, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// Python needs seconds to start on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A mapper with a node.
struct Stage {
    node: Node,
    stop: CancellationToken,
    mapper: JoinHandle<()>,
}

impl Stage {
    async fn begin(folder: &Path) -> Self {
        let socket = folder.join("dmi.sock");
        let node = Node::start(&socket, Api::V1).await.unwrap();
        let config = Config {
            grpc_server: GrpcServer { socket_path: Some(folder.join("mapper.sock")) },
            common: Common { edgecore_sock: Some(socket.display().to_string()), ..Common::default() },
            rest: Rest { enabled: false, ..Rest::default() },
            ..Config::default()
        };
        let driver = OpcUa::new(folder.join("pki"));
        let mapper = Mapper::build(&config, &ABOUT, driver, &Registry::new(), &Readiness::new()).await.unwrap();
        let stop = CancellationToken::new();
        let mapper = tokio::spawn(mapper.run(stop.clone()));
        Self { node, stop, mapper }
    }

    async fn end(self) {
        self.stop.cancel();
        self.mapper.await.unwrap();
        self.node.stop().await;
    }
}

async fn values_resume(subscribe: bool, security: Json) {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path(), &[]);
    let (port, mut protocol) = (peer.port, peer.with(security));
    protocol["subscribe"] = subscribe.into();
    let device = definition(protocol, &[("i", DataType::Int, node("Int32")), ("none", DataType::Int, node("Nothing"))]);
    let key = DeviceKey::new("default", "a");
    let stage = Stage::begin(folder.path()).await;
    stage.node.set(&Arc::new(device), "1");
    let since = Instant::now();
    for value in [11, 12] {
        peer.set("Int32", value);
        let shown = |seen: &skerry_mapper_sdk::conformance::Seen| {
            let last = seen.last(&key, "i");
            last.is_some_and(|last| last.is_good() && last.at >= since && last.value == value.to_string())
        };
        stage.node.until("the value", SOON, shown).await.unwrap();
    }
    drop(peer);
    let gone = |seen: &skerry_mapper_sdk::conformance::Seen| {
        let doubted = seen.last(&key, "i").is_some_and(|last| last.quality == Quality::Uncertain);
        doubted && seen.state(&key) == Some(DeviceState::Offline)
    };
    stage.node.until("the device offline, its values doubted", SOON, gone).await.unwrap();
    // What it had is gone with it; what it has now is read, or told again.
    let mut peer = Peer::start_on(folder.path(), port, &[]);
    peer.set("Int32", 13);
    let back = |seen: &skerry_mapper_sdk::conformance::Seen| {
        let read = seen.last(&key, "i").is_some_and(|last| last.is_good() && last.value == "13");
        let bad = seen.last(&key, "none").is_some_and(|last| last.quality == Quality::Bad);
        read && bad && seen.state(&key) == Some(DeviceState::Online)
    };
    stage.node.until("the device back", SOON, back).await.unwrap();
    peer.set("Int32", 14);
    let goes_on =
        |seen: &skerry_mapper_sdk::conformance::Seen| seen.last(&key, "i").is_some_and(|last| last.value == "14");
    stage.node.until("what changes after that", SOON, goes_on).await.unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_is_read_again() {
    values_resume(false, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_tells_again() {
    values_resume(true, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_opc_ua_server_is_a_lost_line_and_says_so() {
    let driver = OpcUa::new("/nonexistent");
    let gone = json!({ "url": "opc.tcp://127.0.0.1:1", "timeout": 1 });
    let fault = Line::open(&driver, &definition(gone, &[])).await.err().unwrap();
    assert!(matches!(&fault, Fault::Lost(words) if words.contains("Connection refused")), "{fault}");

    let answers: [&'static [u8]; 3] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"ACKF\xFF\xFF\xFF\x7F", b""];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                let mut sink = Vec::new();
                // The last one says nothing and stays.
                let _ = stream.read_to_end(&mut sink).await;
            }
        });
        let config = json!({ "url": format!("opc.tcp://127.0.0.1:{port}"), "timeout": 0.5 });
        let begun = Instant::now();
        let fault = Line::open(&driver, &definition(config, &[])).await.err().unwrap();
        assert!(matches!(&fault, Fault::Lost(words) if words.contains("cannot be asked for its endpoints")), "{fault}");
        assert!(begun.elapsed() < Duration::from_secs(3), "one timeout: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_gone_is_a_lost_line() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let device = definition(peer.with(json!({ "timeout": 1 })), &[("i", DataType::Int, node("Int32"))]);
    let mut line = Line::open(&OpcUa::new(folder.path()), &device).await.unwrap();
    drop(peer);
    assert!(matches!(line.read().await, Err(Fault::Lost(_))));
    assert!(matches!(line.connection.check(&line.device).await, Err(Fault::Lost(_))));
    assert!(matches!(line.write("i", 1_i64).await, Err(Fault::Lost(_))));
}

/// A line on which nothing comes any more while the value is true, as with a pulled cable.
async fn silent_line(to: u16) -> (watch::Sender<bool>, u16) {
    let (silence, silent) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (ends, silent) = ((near.into_split(), far.into_split()), silent.clone());
            let ((near_in, near_out), (far_in, far_out)) = ends;
            tokio::spawn(relay(near_in, far_out, silent.clone()));
            tokio::spawn(relay(far_in, near_out, silent));
        }
    });
    (silence, port)
}

async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut bytes = [0; 4096];
    while let Ok(count) = from.read(&mut bytes).await {
        let waited = silent.wait_for(|silent| !silent).await.is_ok();
        if count == 0 || !waited || to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_pulled_is_noticed_within_the_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let (silence, port) = silent_line(peer.port).await;
    let protocol = json!({ "url": format!("opc.tcp://127.0.0.1:{port}"), "timeout": 1 });
    let device = definition(protocol, &[("i", DataType::Int, node("Int32"))]);
    let mut line = Line::open(&OpcUa::new(folder.path()), &device).await.unwrap();
    line.read().await.unwrap();
    silence.send_replace(true);
    let begun = Instant::now();
    let lost = line.read().await;
    assert!(matches!(&lost, Err(Fault::Lost(words)) if words.contains("BadTimeout")), "{lost:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_be_served_says_which_key_and_why() {
    let driver = OpcUa::new("/nonexistent");
    let stream = definition(json!({ "url": "opc.tcp://127.0.0.1:1" }), &[("s", DataType::Stream, node("x"))]);
    let table = [
        (stream, "property s: a STREAM"),
        (definition(json!({ "ulr": "x" }), &[]), "protocol.configData: `url` is missing"),
        (
            definition(json!({ "url": "opc.tcp://127.0.0.1:1" }), &[("i", DataType::Int, json!({ "nodeID": 5 }))]),
            "property i: visitors.configData: `nodeID`: `5` is not the node",
        ),
    ];
    for (device, expected) in table {
        let fault = Line::open(&driver, &device).await.err().unwrap();
        assert!(matches!(&fault, Fault::Config(words) if words.starts_with(expected)), "{fault}");
    }
}
