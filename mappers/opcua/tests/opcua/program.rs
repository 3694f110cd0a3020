//! The mapper as a process: what it says of itself, and values of a server in a redis-server.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use skerry_mapper_opcua::ABOUT;
use skerry_mapper_sdk::conformance::{Api, Node};

use super::*;
use crate::peer::Ended;

const PROGRAM: &str = env!("CARGO_BIN_EXE_skerry-mapper-opcua");
/// Longest wait for what must happen.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn it_says_its_own_name_and_version() {
    let said = Command::new(PROGRAM).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{} {}\n", ABOUT.name, ABOUT.version));
}

/// What redis-cli prints.
fn redis(port: u16, command: &[&str]) -> String {
    let said = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().unwrap();
    String::from_utf8_lossy(&said.stdout).into_owned()
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, wait).await.is_ok(), "not within {SOON:?}: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_server_go_where_the_device_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut peer = Peer::start(folder.path(), &[]);
    // Nobody else asks for it in the moment until it is used: the kernel hands them out in turn.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
    let server = server.stdout(Stdio::null()).spawn().expect("scripts/install-tools test installs redis-server");
    let _server = Ended(server);
    eventually("redis-server listens", || redis(port, &["PING"]) == "PONG\n").await;

    let node = Node::start(&folder.path().join("dmi.sock"), Api::V1).await.unwrap();
    let mut device = definition(
        peer.url(),
        &[("pushed", DataType::Int, super::node("Int32")), ("quiet", DataType::Double, super::node("Double"))],
    );
    for property in device.properties.iter_mut().map(Arc::make_mut) {
        property.collect_cycle = Duration::from_millis(50);
        property.report_to_cloud = true;
    }
    let push = json!({"dbMethod": {"redis": {"redisClientConfig": {"addr": format!("127.0.0.1:{port}"), "db": 0}}}});
    Arc::make_mut(&mut device.properties[0]).push_method = push.as_object().unwrap().clone().into();
    let key = device.key.clone();
    node.set(&Arc::new(device), "1");
    let config = json!({
        "common": { "edgecore_sock": path("dmi.sock") },
        "grpc_server": { "socket_path": path("mapper.sock") },
        "rest": { "enabled": false },
        "data_plane": { "folder": path("spool") },
    });
    std::fs::write(path("config.yaml"), config.to_string()).unwrap();
    let mut mapper = Command::new(PROGRAM);
    mapper.args(["--config-file", &path("config.yaml")]).env("SKERRY_OPCUA_PKI", path("pki"));
    let _mapper = Ended(mapper.spawn().unwrap());

    peer.set("Int32", 41);
    let has = |value: &str| redis(port, &["ZRANGE", &key.name, "0", "-1"]).contains(&format!("\"Value\":\"{value}\""));
    eventually("41 is in the database", || has("41")).await;
    peer.set("Int32", 42);
    eventually("42 is in the database", || has("42")).await;
    // The other property is read too, and goes to the node alone.
    let quiet = |seen: &skerry_mapper_sdk::conformance::Seen| seen.last(&key, "quiet").is_some_and(|o| o.is_good());
    node.until("the other value", SOON, quiet).await.unwrap();
    assert!(!redis(port, &["ZRANGE", &key.name, "0", "-1"]).contains("quiet"));
    node.stop().await;
}
