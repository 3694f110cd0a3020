//! A mapper that `skerry mapper new` made is built outside of the workspace, and runs: its values reach a node, and
//! what is wanted reaches its device.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use skerry_mapper_sdk::conformance::{Api, Node};
use skerry_mapper_sdk::{DataType, Definition, DeviceState};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// Ends the process that it started, whatever happens.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// The device of the template: lines of text.
async fn device(listener: TcpListener, setpoint: Arc<Mutex<String>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let setpoint = Arc::clone(&setpoint);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let words: Vec<_> = line.split_whitespace().collect();
                let answer = match words.as_slice() {
                    ["get", "temperature"] => "20.5".to_owned(),
                    ["get", "setpoint"] => setpoint.lock().unwrap().clone(),
                    ["set", "setpoint", value] => {
                        setpoint.lock().unwrap().replace_range(.., value);
                        "ok".to_owned()
                    }
                    _ => "error unknown register".to_owned(),
                };
                if stream.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_mapper_builds_elsewhere_and_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let skerry = env!("CARGO_BIN_EXE_skerry");
    let sdk = root.join("mappers/sdk");
    let new = |dir: &Path| {
        let mut command = Command::new(skerry);
        command.args(["mapper", "new", "soil-probe", "--dir"]).arg(dir).arg("--sdk-path").arg(&sdk);
        command
    };
    run(&mut new(&made));
    assert!(!new(&made).output().unwrap().status.success(), "a folder that is not empty was written to");

    // The versions and the profile of the repository: nothing is fetched, and what is built already is used.
    std::fs::copy(root.join("Cargo.lock"), made.join("Cargo.lock")).unwrap();
    let manifest = std::fs::read_to_string(made.join("Cargo.toml")).unwrap();
    let h2 = root.join("services/rpc/vendor/h2");
    let patch = format!("[patch.crates-io]\nh2 = {{ path = \"{}\" }}\n", h2.display());
    let profile = "[profile.dev]\ndebug = \"line-tables-only\"\n[profile.dev.package.\"*\"]\ndebug = false\n";
    // A version that the SDK does not have.
    let manifest = manifest.replacen("version = \"0.1.0\"", "version = \"7.8.9\"", 1);
    let patched = format!("{manifest}\n{patch}{profile}");
    std::fs::write(made.join("Cargo.toml"), patched).unwrap();
    let target = Path::new(skerry).parent().unwrap().parent().unwrap();
    run(Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet"])
        .current_dir(&made)
        .env("CARGO_TARGET_DIR", target));

    let program = target.join("debug/soil-probe-mapper");
    let version = Command::new(&program).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), "soil-probe-mapper 7.8.9\n");

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let setpoint = Arc::new(Mutex::new("18".to_owned()));
    tokio::spawn(device(listener, Arc::clone(&setpoint)));
    let socket = folder.path().join("dmi.sock");
    let node = Node::start(&socket, Api::V1).await.unwrap();
    let definition = Definition::new("default", "probe", json!({"address": address}))
        .property("temperature", DataType::Float, json!({"register": "temperature"}))
        .property("setpoint", DataType::Int, json!({"register": "setpoint"}));
    let key = definition.key.clone();
    node.set(&Arc::new(definition), "1");
    let config = folder.path().join("config.yaml");
    let text = format!("common: {{ edgecore_sock: {}, http_port: 0 }}\n", socket.display());
    std::fs::write(&config, text).unwrap();
    let _process = Process(Command::new(program).arg("--config-file").arg(&config).spawn().unwrap());

    let within = Duration::from_secs(10);
    let good = |seen: &skerry_mapper_sdk::conformance::Seen| {
        seen.state(&key) == Some(DeviceState::Online)
            && seen.last(&key, "temperature").is_some_and(|o| o.is_good() && o.value == "20.5")
    };
    node.until("the temperature", within, good).await.unwrap();
    node.desire(&key, "setpoint", "23");
    let set = |seen: &skerry_mapper_sdk::conformance::Seen| {
        seen.outcome(&key, "setpoint").is_some_and(|(version, refused)| version == "23" && refused.is_none())
    };
    node.until("the setpoint taken over", within, set).await.unwrap();
    assert_eq!(*setpoint.lock().unwrap(), "23");
    node.stop().await;
}
