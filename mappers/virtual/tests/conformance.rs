//! The conformance kit on this mapper.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use skerry_mapper_sdk::conformance::{Api, Results, Subject, Write, check};
use skerry_mapper_sdk::{DataType, Definition};
use skerry_mapper_virtual::{ABOUT, Virtual};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_what_a_mapper_must_be() {
    let results = results(Api::V1).await;
    assert!(results.failed().is_empty() && results.passed().len() == 9, "\n{results}");
}

/// With a node of KubeEdge, which has no way to say that a value was refused.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_so_with_kubeedge_too() {
    let results = results(Api::V1Beta1).await;
    assert!(results.failed().is_empty() && results.passed().len() == 8, "\n{results}");
}

#[test]
fn the_program_says_its_own_name_and_version() {
    let said =
        std::process::Command::new(env!("CARGO_BIN_EXE_skerry-mapper-virtual")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{} {}\n", ABOUT.name, ABOUT.version));
}

async fn results(api: Api) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let driver = Virtual::default();
    let device = |name: &str| {
        Definition::new("default", name, json!({"line": "one"}))
            .property("counter", DataType::Int, json!({"source": "counter"}))
            .property("wave", DataType::Double, json!({"source": "sine", "amplitude": 2.5, "periodSeconds": 3}))
            .property("echo", DataType::Int, json!({"source": "echo", "value": "1"}))
            .property("name", DataType::String, json!({"source": "constant", "value": name}))
    };
    let line = driver.clone();
    let subject = Subject {
        about: ABOUT,
        driver: Box::new(move || driver.clone()),
        devices: vec![device("a"), device("b"), device("c")],
        writable: Write { device: 1, property: "echo".into(), values: vec!["41".into(), "42".into()] },
        refused: Some(Write { device: 0, property: "name".into(), values: vec!["other".into()] }),
        dead: Some(Definition::new("default", "dead", json!({"line": "one", "silent": true})).property(
            "counter",
            DataType::Int,
            json!({"source": "counter"}),
        )),
        cut: Some(Box::new(move |away| line.cut(away))),
        folder: folder.path().to_owned(),
    };
    check(&subject, api).await
}
