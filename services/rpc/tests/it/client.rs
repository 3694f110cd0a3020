//! Channels that connect by themselves.

use std::time::{Duration, Instant};

use skerry_rpc::{
    Channel, CheckError, ClientLimits, Listen, Metrics, Server, ServerConfig, ServerLimits, Target, check_health,
    connect_once,
};
use tonic::Code;

use crate::support::*;

#[tokio::test]
async fn a_channel_connects_again_after_the_server_was_away() {
    let pki = Pki::new();
    let mut server = serve_tls(&pki, ServerLimits::default()).await;
    let address = server.address;
    let limits = ClientLimits {
        reconnect_backoff: (Duration::from_millis(20), Duration::from_millis(200)),
        ..Default::default()
    };
    let channel = Channel::tcp([address.to_string()], "cloudhub", pki.service("admin"), limits).unwrap();
    assert!(list(channel.clone(), "").await.is_ok());
    server.drain().await;
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(list(channel.clone(), "").await.unwrap_err().code(), Code::Unavailable);
    }
    // Most of these failed at once, in the backoff.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let metrics = Metrics::default();
    let config = ServerConfig::new("test", Listen::Tcp(address), policy()).tls(pki.service("cloudhub"));
    let _server = Running::start(Server::bind(config).await.unwrap(), metrics, Duration::from_secs(5));
    let started = Instant::now();
    while list(channel.clone(), "").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn calls_that_come_together_share_one_connection() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits { max_connections_per_identity: 1, ..Default::default() }).await;
    let channel =
        Channel::tcp([server.address.to_string()], "cloudhub", pki.service("admin"), Default::default()).unwrap();
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(list(channel.clone(), ""))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.metrics.ended("test", "closed_by_service"), 0);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_dead_or_silent() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::default()).await;
    // Refuses; accepts and says nothing; is another service.
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = serve(policy(), Some(pki.service("edgecontroller")), ServerLimits::default()).await;
    let addresses = [
        refused.to_string(),
        silent.local_addr().unwrap().to_string(),
        other.address.to_string(),
        server.address.to_string(),
    ];
    let to = Target::tcp(addresses, "cloudhub", pki.node("edge-1")).unwrap();
    let started = Instant::now();
    let connection = connect_once(&to, &ClientLimits::default()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(connection.address(), server.address.to_string());
    // In random order as well.
    for _ in 0..5 {
        assert!(connect_once(&to, &ClientLimits::node()).await.is_ok());
    }
}

#[tokio::test]
async fn connecting_gives_up_in_time_and_says_why() {
    let pki = Pki::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = ClientLimits { connect_timeout: Duration::from_millis(300), ..ClientLimits::node() };
    let to = target(silent.local_addr().unwrap(), pki.node("edge-1"));
    let error = connect_once(&to, &limits).await.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("within 0.3 s"), "{error}");
    let none: [String; 0] = [];
    assert_eq!(Target::tcp(none, "cloudhub", pki.node("edge-1")).unwrap_err().code(), "no_address");
    let bad = Target::tcp(["a:1"], "../etc", pki.node("edge-1")).unwrap_err();
    assert_eq!(bad.code(), "server_name");
    let unresolved = Target::tcp(["no.such.host.invalid:1"], "cloudhub", pki.node("edge-1")).unwrap();
    let error = connect_once(&unresolved, &ClientLimits::node()).await.unwrap_err();
    assert!(["resolve", "timeout"].contains(&error.code()), "{error}");
    let missing = connect_once(&Target::unix("/nonexistent/socket"), &ClientLimits::local()).await.unwrap_err();
    assert_eq!(missing.code(), "io");
}

#[tokio::test]
async fn open_calls_are_bounded() {
    let server = serve_open(ServerLimits::default()).await;
    let to = Target::loopback(server.address).unwrap();
    let channel = Channel::lazy(&to, ClientLimits { max_in_flight: 2, ..Default::default() });
    let mut first = Open::new(channel.clone()).await.unwrap();
    let _second = Open::new(channel.clone()).await.unwrap();
    assert_eq!(Open::new(channel.clone()).await.err().unwrap().code(), Code::ResourceExhausted);
    assert!(first.next().await.is_ok());
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(Open::new(channel).await.is_ok());
}

#[tokio::test]
async fn the_health_of_somebody_else_is_asked_without_tls() {
    let server = serve_open(ServerLimits::default()).await;
    let ask = |service: &'static str| {
        let address = server.address.to_string();
        async move { check_health(&address, service, Duration::from_secs(5)).await }
    };
    assert_eq!(ask("").await.unwrap(), "SERVING");
    let unknown = ask("no.such.Service").await.unwrap_err();
    assert!(matches!(unknown, CheckError::Call(status) if status.code() == Code::NotFound));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let late = check_health(&address, "", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(late, CheckError::Call(status) if status.code() == Code::DeadlineExceeded));
    drop(silent);
    let refused = check_health(&address, "", Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(refused, CheckError::Connect(error) if error.code() == "io"));
}
