//! `kill -9` while a sink is away: what was read more than a moment before is on disk.

use std::path::Path;
use std::process::Stdio;

use axum::http::StatusCode;
use serde_json::json;
use skerry_mapper_sdk::DataType;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::server::{Server, once};
use crate::support::{Fixture, device, port};

/// Names of variables by which the test tells its process what to do.
const FOLDER: &str = "SKERRY_TEST_SPOOL";
const PORT: &str = "SKERRY_TEST_PORT";
const VALUES: i64 = 500;

/// The process that is killed: started by the tests below, and nothing by itself.
#[tokio::test]
async fn a_mapper_that_waits_to_be_killed() {
    let (Ok(folder), Ok(port)) = (std::env::var(FOLDER), std::env::var(PORT)) else { return };
    let fixture = Fixture::new(Path::new(&folder));
    let counter = device(
        "counter",
        DataType::Int,
        &json!({"http": {"hostName": "127.0.0.1", "port": port.parse::<u16>().unwrap()}}),
    );
    fixture.define(&counter);
    fixture.record(&counter, 0..VALUES);
    // After the first one everything was written down, if it could be.
    fixture.until("failures", 2).await;
    println!("kill me");
    std::future::pending::<()>().await;
}

/// What a server gets from the next process, after the first was killed.
async fn after_a_kill(folder: &Path) -> Vec<i64> {
    let port = port();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::a_mapper_that_waits_to_be_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(PORT, port.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it ended").contains("kill me") {}
    process.kill().await.unwrap();
    let server = Server::on(port, |_| StatusCode::OK).await;
    let next = Fixture::new(folder);
    let counter = device("counter", DataType::Int, &json!({"http": {"hostName": "127.0.0.1", "port": port}}));
    next.define(&counter);
    next.record(&counter, VALUES..VALUES + 1);
    crate::support::eventually(async || server.numbers().contains(&VALUES).then_some(())).await.unwrap();
    once(server.numbers())
}

#[tokio::test]
async fn what_waited_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(after_a_kill(folder.path()).await, (0..=VALUES).collect::<Vec<_>>());
}

/// The control: without a spool they are gone.
#[tokio::test]
async fn without_a_spool_what_waited_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(after_a_kill(&file.join("below")).await, [VALUES]);
}
