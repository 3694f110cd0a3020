//! The SDK's conformance kit on this mapper, with pymodbus as the devices and a line that can be cut.

use skerry_mapper_modbus::ABOUT;
use skerry_mapper_sdk::conformance::{Api, Results, Subject, Write, check, line};

use super::*;
use crate::pymodbus::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn it_is_what_a_mapper_must_be() {
    let results = results(Api::V1).await;
    assert!(results.failed().is_empty() && results.passed().len() == 9, "\n{results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_so_with_kubeedge_too() {
    let results = results(Api::V1Beta1).await;
    assert!(results.failed().is_empty() && results.passed().len() == 8, "\n{results}");
}

#[test]
fn the_program_says_its_own_name_and_version() {
    let said =
        std::process::Command::new(env!("CARGO_BIN_EXE_skerry-mapper-modbus")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{} {}\n", ABOUT.name, ABOUT.version));
}

async fn results(api: Api) -> Results {
    let peer = Peer::start(&["tcp"]);
    let (cut, port) = line(peer.port).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = |name: &str, unit: u8, timeout: u16| {
        let protocol = json!({ "ip": "127.0.0.1", "port": port, "slaveID": unit, "timeout": timeout });
        let holding = |offset: u16| json!({ "register": "HoldingRegister", "offset": offset, "limit": 1 });
        Definition::new("default", name, protocol)
            .property("register", DataType::Int, holding(7))
            .property("setpoint", DataType::Int, holding(8))
            .property("coil", DataType::Boolean, json!({ "register": "CoilRegister", "offset": 0 }))
            .property("energy", DataType::Float, json!({ "register": "Holding", "offset": 600, "dataType": "float32" }))
    };
    let subject = Subject {
        about: ABOUT,
        driver: Box::new(|| Modbus),
        devices: vec![device("a", 1, 1000), device("b", 2, 1000)],
        writable: Write { device: 1, property: "setpoint".into(), values: vec!["41".into(), "42".into()] },
        refused: Some(Write { device: 0, property: "register".into(), values: vec!["65536".into()] }),
        // What a dead device costs the others is its timeout.
        dead: Some(device("dead", 9, 50)),
        cut: Some(Box::new(move |away| {
            cut.send_replace(away);
        })),
        folder: folder.path().to_owned(),
    };
    check(&subject, api).await
}
