//! HTTP, and with it what is the same for all sinks: away and back, full, refused, hung.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use serde_json::{Value as Json, json};
use skerry_mapper_sdk::{DataPlane as _, DataPlaneConfig, DataType, Definition, Value};

use crate::server::{Server, once};
use crate::support::{Fixture, device, port};

fn push(port: u16) -> Json {
    json!({"http": {"hostName": "http://127.0.0.1", "port": port, "requestPath": "/data", "timeout": 10_000}})
}

fn counter(port: u16) -> Arc<Definition> {
    device("counter", DataType::Int, &push(port))
}

#[tokio::test]
async fn values_arrive_as_kubeedges_mappers_send_them() {
    let folder = tempfile::tempdir().unwrap();
    let (server, fixture) = (Server::open().await, Fixture::new(folder.path()));
    let text = device("label", DataType::String, &push(server.port));
    fixture.define(&text);
    fixture.plane.record(&text, 0, &Value::Text("20 °C & more=1".into()), crate::support::BEGIN);
    let got = server.until(1).await.remove(0);
    assert_eq!(got.target, "/data");
    assert_eq!(got.header(header::CONTENT_TYPE), "application/x-www-form-urlencoded");
    let fields = got.fields();
    assert_eq!(fields[0], ("temperature".to_owned(), "20 °C & more=1".to_owned()));
    assert_eq!((fields.len(), fields[1].0.as_str(), fields[1].1.len()), (2, "time", "2023-11-14 22:13:20".len()));
    fixture.until("delivered", 1).await;
    assert_eq!(fixture.count("spooled"), 0, "a sink that answers needs no disk");
}

#[tokio::test]
async fn a_sink_that_is_back_gets_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (port, fixture) = (port(), Fixture::new(folder.path()));
    let counter = counter(port);
    fixture.define(&counter);
    fixture.record(&counter, 0..500);
    fixture.until("spooled", 500).await;
    // And what comes while it is away goes behind.
    fixture.record(&counter, 500..1000);
    let server = Server::on(port, |_| StatusCode::OK).await;
    fixture.record(&counter, 1000..1100);
    fixture.until("delivered", 1100).await;
    assert_eq!(once(server.numbers()), (0..1100).collect::<Vec<_>>());
    assert_eq!((fixture.count("dropped"), fixture.count("refused")), (0, 0));
}

#[tokio::test]
async fn what_was_left_at_the_end_is_sent_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let port = port();
    let counter = counter(port);
    let first = Fixture::new(folder.path());
    first.define(&counter);
    first.record(&counter, 0..300);
    first.plane.close().await;
    let server = Server::on(port, |_| StatusCode::OK).await;
    let second = Fixture::new(folder.path());
    second.define(&counter);
    second.record(&counter, 300..310);
    second.until("delivered", 310).await;
    assert_eq!(once(server.numbers()), (0..310).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_spool_keeps_the_newest_and_counts_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let port = port();
    let config = DataPlaneConfig {
        folder: Some(folder.path().to_owned()),
        // 64 bytes each.
        spool_bytes: Some(64 * 200),
        ..DataPlaneConfig::default()
    };
    let fixture = Fixture::with(config, Default::default());
    let counter = counter(port);
    fixture.define(&counter);
    fixture.record(&counter, 0..1000);
    fixture.until("spooled", 1000).await;
    assert_eq!(fixture.count("dropped"), 800);
    let server = Server::on(port, |_| StatusCode::OK).await;
    fixture.until("delivered", 200).await;
    assert_eq!(once(server.numbers()), (800..1000).collect::<Vec<_>>());
}

/// The control of the tests above: without a spool memory is bounded all the same, and values are lost and counted.
#[tokio::test]
async fn without_a_spool_memory_is_bounded_and_the_oldest_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (port, fixture) = (port(), Fixture::without_spool(folder.path()));
    let counter = counter(port);
    fixture.define(&counter);
    // Four times what the queue holds: 64 bytes each, 4 MiB.
    fixture.record(&counter, 0..4 * 65_536);
    fixture.until("dropped", 2 * 65_536).await;
    assert_eq!(fixture.count("spooled"), 0);
    let server = Server::on(port, |_| StatusCode::OK).await;
    fixture.until("delivered", 1).await;
    // Only what was in hand at first may be older than what the queue had room for.
    assert!(server.numbers()[0] < 1000 || server.numbers()[0] >= 2 * 65_536, "{}", server.numbers()[0]);
    assert!(fixture.count("dropped") >= 3 * 65_536 - 1000, "{}", fixture.count("dropped"));
}

#[tokio::test]
async fn a_value_that_is_refused_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(folder.path());
    let answer = |got: &crate::server::Got| {
        if got.fields()[0].1 == "7" { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }
    };
    let server = Server::on(0, answer).await;
    let counter = counter(server.port);
    fixture.define(&counter);
    fixture.record(&counter, 0..20);
    fixture.until("delivered", 19).await;
    assert_eq!(once(server.numbers()), (0..20).filter(|number| *number != 7).collect::<Vec<_>>());
    assert_eq!((fixture.count("refused"), fixture.count("failures")), (1, 0));
}

#[tokio::test]
async fn credentials_that_are_refused_can_be_mended() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(folder.path());
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let knows = Arc::clone(&mended);
    let answer = move |_: &_| {
        let known = knows.load(std::sync::atomic::Ordering::Relaxed);
        if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    };
    let server = Server::on(0, answer).await;
    let counter = counter(server.port);
    fixture.define(&counter);
    fixture.record(&counter, 0..20);
    fixture.until("failures", 2).await;
    mended.store(true, std::sync::atomic::Ordering::Relaxed);
    fixture.until("delivered", 20).await;
    assert_eq!((server.numbers(), fixture.count("refused")), ((0..20).collect(), 0));
}

#[tokio::test]
async fn a_sink_that_hangs_hurts_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(folder.path());
    // It accepts and never answers.
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::open().await;
    let (slow, good) = (hung.local_addr().unwrap().port(), server.port);
    let mut definition = (*device("both", DataType::Int, &push(slow))).clone();
    definition = definition.property("other", DataType::Int, json!({}));
    Arc::make_mut(&mut definition.properties[1]).push_method = push(good).as_object().unwrap().clone().into();
    let both = Arc::new(definition);
    fixture.define(&both);
    for number in 0..100 {
        for property in 0..2 {
            fixture.plane.record(&both, property, &Value::Int(number), crate::support::BEGIN + number);
        }
    }
    server.until(100).await;
    // The first request to the other one is still open.
    assert_eq!(fixture.count("failures"), 0);
    assert_eq!(server.numbers(), (0..100).collect::<Vec<_>>());
    // What waits for it is on disk soon.
    fixture.until("spooled", 100).await;
}

#[tokio::test]
async fn a_device_that_is_gone_or_changed_sends_nothing_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let (server, fixture) = (Server::open().await, Fixture::new(folder.path()));
    let (old, new) = (counter(server.port), counter(server.port));
    fixture.define(&old);
    fixture.define(&new);
    fixture.record(&old, 0..5);
    fixture.record(&new, 5..6);
    server.until(1).await;
    fixture.plane.remove(&new.key);
    fixture.record(&new, 6..7);
    fixture.define(&new);
    fixture.record(&new, 7..8);
    server.until(2).await;
    assert_eq!(server.numbers(), [5, 7]);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_sinks_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(folder.path());
    let wrong = device("a", DataType::Int, &json!({"http": {"hostName": "http://u:hidden@a"}, "mqtt": {}}));
    let problems = fixture.plane.define(&wrong);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(!format!("{problems:?}").contains("hidden"));
    for number in 0..64 {
        fixture.define(&device(&format!("d{number}"), DataType::Int, &push(20_000 + number)));
    }
    let problems = fixture.plane.define(&device("d64", DataType::Int, &push(30_000)));
    assert!(problems[0].contains("at most 64 sinks"), "{problems:?}");
}
