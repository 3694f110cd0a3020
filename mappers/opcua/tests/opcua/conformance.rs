//! The SDK's conformance kit on this mapper, with asyncua as the server and a line that can be cut.

use skerry_mapper_opcua::ABOUT;
use skerry_mapper_sdk::conformance::{Api, Results, Subject, Write, check_some, line};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn it_is_what_a_mapper_must_be() {
    let results = results(Api::V1, false, |_| true).await;
    assert!(results.failed().is_empty() && results.passed().len() == 8, "\n{results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_so_with_kubeedge_too() {
    let results = results(Api::V1Beta1, false, |_| true).await;
    assert!(results.failed().is_empty() && results.passed().len() == 7, "\n{results}");
}

/// Without the case that wants a value in each cycle: what does not change is not told again so often.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_so_with_subscriptions() {
    let results = results(Api::V1, true, |name| name != "a storm of edits").await;
    assert!(results.failed().is_empty() && results.passed().len() == 7, "\n{results}");
}

async fn results(api: Api, subscribe: bool, picked: impl Fn(&str) -> bool) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let (cut, port) = line(peer.port).await.unwrap();
    let device = |name: &str| {
        let protocol = json!({ "url": format!("opc.tcp://127.0.0.1:{port}"), "timeout": 1, "subscribe": subscribe });
        let kinds = [
            ("Int32", DataType::Int),
            ("Byte", DataType::Int),
            ("Boolean", DataType::Boolean),
            ("Double", DataType::Double),
        ];
        kinds.iter().fold(Definition::new("default", name, protocol), |device, (name, kind)| {
            device.property(&name.to_lowercase(), *kind, node(name))
        })
    };
    let pki = folder.path().join("pki");
    let subject = Subject {
        about: ABOUT,
        driver: Box::new(move || OpcUa::new(&pki)),
        devices: vec![device("a"), device("b")],
        writable: Write { device: 1, property: "int32".into(), values: vec!["41".into(), "42".into()] },
        refused: Some(Write { device: 0, property: "byte".into(), values: vec!["256".into()] }),
        // What does not answer is the server, and all of its devices with it.
        dead: None,
        cut: Some(Box::new(move |away| {
            cut.send_replace(away);
        })),
        folder: folder.path().to_owned(),
    };
    check_some(&subject, api, picked).await
}
