//! Limits that a well-formed caller meets.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::sync::v1 as sync;
use skerry_rpc::limits::{Rate, SYNC_MESSAGE_BYTES};
use skerry_rpc::{ClientLimits, ServerLimits};
use tonic::Code;

use crate::raw::{self, Raw};
use crate::support::*;

#[tokio::test]
async fn one_address_cannot_hold_all_connections_without_a_certificate() {
    let pki = Pki::new();
    let limits = ServerLimits { max_unauthenticated_per_ip: 8, ..ServerLimits::hub() };
    let server = serve_tls(&pki, limits).await;
    // They connect and do not even begin TLS.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    until("the refusals", Duration::from_secs(5), || server.metrics.refusals("test", "too_many_per_address") == 32)
        .await;
    // The place is given back as soon as the identity is known: many nodes behind one address work.
    drop(silent);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut open = Vec::new();
    for number in 0..20 {
        let connection = connect(server.address, pki.node(&format!("edge-{number}"))).await;
        let mut stream = Open::new(connection.channel()).await.unwrap();
        stream.next().await.unwrap();
        open.push(stream);
    }
}

#[tokio::test]
async fn a_node_has_a_rate_that_reconnecting_does_not_renew() {
    let pki = Pki::new();
    let limits = ServerLimits { node_rate: Rate { per_second: 1, burst: 5 }, ..ServerLimits::hub() };
    let server = serve_tls(&pki, limits).await;
    let mut refused = 0;
    for _ in 0..3 {
        let connection = connect(server.address, pki.node("edge-1")).await;
        for _ in 0..5 {
            match Open::new(connection.channel()).await {
                Ok(_) => {}
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
    }
    assert!((8..=10).contains(&refused), "{refused}");
    // Another node is not concerned.
    let other = connect(server.address, pki.node("edge-2")).await;
    assert!(Open::new(other.channel()).await.is_ok());
}

#[tokio::test]
async fn too_many_running_handlers_are_refused_and_recover() {
    let limits = ServerLimits { max_in_flight: 4, ..ServerLimits::default() };
    let server = serve_open(limits).await;
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, ClientLimits::default());
    let calls: Vec<_> = (0..12).map(|_| tokio::spawn(list(channel.clone(), "sleep-500"))).collect();
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap().map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 4, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Code::ResourceExhausted).count(), 8, "{codes:?}");
    assert!(list(channel, "").await.is_ok());
}

#[tokio::test]
async fn a_unary_call_ends_at_its_deadline_at_both_ends() {
    let server = serve_open(ServerLimits::default()).await;
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    // A deadline that was given, and the channel's own.
    let short = ClientLimits { unary_deadline: Duration::from_millis(200), ..ClientLimits::default() };
    let default = skerry_rpc::Channel::lazy(&to, short);
    let started = std::time::Instant::now();
    assert_eq!(list(default, "sleep-5000").await.unwrap_err().code(), Code::DeadlineExceeded);
    let channel = skerry_rpc::Channel::lazy(&to, ClientLimits::default());
    let request = skerry_rpc::deadline(sessions("sleep-5000"), Duration::from_millis(200));
    let mut hub = skerry_proto::hub::v1::hub_client::HubClient::new(channel);
    assert_eq!(hub.list_sessions(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(4));

    // The server's own limit, when the caller asks for more.
    let limits = ServerLimits { unary_deadline: Duration::from_millis(200), ..ServerLimits::default() };
    let server = serve_open(limits).await;
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, ClientLimits::default());
    let started = std::time::Instant::now();
    assert_eq!(list(channel, "sleep-5000").await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(server.echo.finished.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn malformed_timeouts_are_refused_and_huge_ones_are_cut() {
    let server = serve_open(ServerLimits::default()).await;
    for (timeout, status) in [("0S", "4"), ("x", "3"), ("123456789S", "3"), ("99999999H", "0"), ("-1S", "3")] {
        let mut raw = Raw::http2(server.address).await;
        let mut block = raw::grpc_headers(raw::LIST);
        block.extend(raw::literal("grpc-timeout", timeout));
        let stream = raw.stream();
        raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, stream, &block)).await;
        raw.send(&raw::frame(raw::DATA, raw::END_STREAM, stream, &[0, 0, 0, 0, 0])).await;
        raw.wait("an answer", |seen| seen.count(raw::HEADERS) > 0).await;
        // The status is in the headers when there is no message, else in the trailers.
        if status == "0" {
            raw.wait("trailers", |seen| seen.count(raw::HEADERS) == 2).await;
        } else {
            assert_eq!(raw.seen().count(raw::DATA), 0, "{timeout}");
        }
    }
    assert_eq!(server.metrics.refusals("test", "deadline"), 3);
}

fn large_request(bytes: usize) -> sync::SubscribeRequest {
    let nack = sync::Nack {
        failures: vec![sync::Failure { reason: "x".repeat(bytes), ..Default::default() }],
        ..Default::default()
    };
    sync::SubscribeRequest { message: Some(sync::subscribe_request::Message::Nack(nack)) }
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_in_both_directions() {
    let server = serve_open(ServerLimits::default()).await;
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, ClientLimits::default());

    let mut open = Open::new(channel.clone()).await.unwrap();
    open.next().await.unwrap();
    open.requests.send(large_request(SYNC_MESSAGE_BYTES - 100)).await.unwrap();
    open.next().await.unwrap();
    open.requests.send(large_request(SYNC_MESSAGE_BYTES + 1)).await.unwrap();
    assert_eq!(open.end().await.code(), Code::ResourceExhausted);

    // Replies too: the server of this test answers with what was asked for.
    let mut open = Open::new(channel.clone()).await.unwrap();
    open.next().await.unwrap();
    let mut large = crate::echo::hello("large");
    if let Some(sync::subscribe_request::Message::Hello(hello)) = &mut large.message {
        hello.session = (SYNC_MESSAGE_BYTES + 1) as u64;
    }
    open.requests.send(large).await.unwrap();
    assert_eq!(open.end().await.code(), Code::ResourceExhausted);
    assert!(list(channel, "").await.is_ok());
}

#[tokio::test]
async fn control_messages_over_our_limit_reach_the_default_server() {
    let control = serve_default().await;
    let to = skerry_rpc::Target::loopback(control.address).unwrap();
    let mut open = Open::new(skerry_rpc::Channel::lazy(&to, ClientLimits::default())).await.unwrap();
    open.next().await.unwrap();
    open.requests.send(large_request(SYNC_MESSAGE_BYTES + 1)).await.unwrap();
    open.next().await.unwrap();
    assert_eq!(control.echo.messages.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_length_that_lies_is_refused_before_anything_is_reserved() {
    let server = serve_open(ServerLimits::default()).await;
    for prefix in [[0, 255, 255, 255, 255], [0, 0, 64, 0, 1], [1, 255, 255, 255, 255]] {
        let mut raw = Raw::http2(server.address).await;
        let stream = raw.stream();
        raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, stream, &raw::grpc_headers(raw::SUBSCRIBE))).await;
        raw.send(&raw::frame(raw::DATA, 0, stream, &prefix)).await;
        // Response headers, then trailers with the status.
        raw.wait("the refusal", |seen| seen.count(raw::HEADERS) == 2).await;
        assert_eq!(raw.seen().count(raw::DATA), 0);
    }
    assert_eq!(server.echo.messages.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn requests_that_are_not_grpc_reach_no_handler() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    // GET /, indexed.
    let stream = raw.stream();
    raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &[0x82, 0x86, 0x84])).await;
    raw.wait("an answer", |seen| seen.count(raw::HEADERS) == 1).await;
    assert_eq!(server.metrics.refusals("test", "not_grpc"), 1);
    assert_eq!(server.echo.calls(), 0);
}

#[tokio::test]
async fn compressed_messages_are_refused_when_nobody_agreed_to_them() {
    let server = serve_open(ServerLimits::default()).await;
    for encoding in [None, Some("gzip"), Some("zstd"), Some("nonsense")] {
        let mut raw = Raw::http2(server.address).await;
        let mut block = raw::grpc_headers(raw::LIST);
        if let Some(encoding) = encoding {
            block.extend(raw::literal("grpc-encoding", encoding));
        }
        let stream = raw.stream();
        raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, stream, &block)).await;
        // A compressed message of three bytes.
        raw.send(&raw::frame(raw::DATA, raw::END_STREAM, stream, &[1, 0, 0, 0, 3, 1, 2, 3])).await;
        raw.wait("a refusal", |seen| seen.count(raw::HEADERS) >= 1 || seen.count(raw::RST_STREAM) > 0).await;
    }
    assert_eq!(server.echo.calls(), 0);
}

#[tokio::test]
async fn a_hundred_thousand_tiny_messages_pass_with_backpressure() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    let stream = raw.stream();
    raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, stream, &raw::grpc_headers(raw::SUBSCRIBE))).await;
    // Nobody opens our window for the answers, so the server must stop reading at some point.
    let message = Bytes::from_static(&[0, 0, 0, 0, 0]).repeat(1000);
    let mut sent = 0;
    while sent < 100 && raw.send(&raw::frame(raw::DATA, 0, stream, &message)).await {
        sent += 1;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answered = server.echo.messages.load(std::sync::atomic::Ordering::SeqCst);
    // 64 KiB of window in answers of a dozen bytes, and the send buffer beside it.
    assert!(answered < 60_000, "{answered} messages were answered into the void");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let server = serve_open(ServerLimits { max_connections: 2, ..ServerLimits::default() }).await;
    let first = Raw::http2(server.address).await;
    let _second = Raw::http2(server.address).await;
    let third = Raw::tcp(server.address).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(third.seen().count(raw::SETTINGS), 0);
    assert_eq!(server.metrics.refusals("test", "too_many_connections"), 1);
    drop(first);
    let mut third = third;
    third.send(raw::PREFACE).await;
    third.wait("a place", |seen| seen.count(raw::SETTINGS) > 0).await;
}

/// Out of descriptors: the accept loop waits instead of spinning, and serves again afterwards.
/// The limit is the process's, so the test runs itself again as a process of its own.
#[test]
fn out_of_descriptors_costs_no_cpu_and_heals() {
    const INNER: &str = "SKERRY_TEST_OUT_OF_DESCRIPTORS";
    if std::env::var_os(INNER).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(out_of_descriptors());
    }
    let status = std::process::Command::new("prlimit")
        .arg("--nofile=64:64")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "limits::out_of_descriptors_costs_no_cpu_and_heals", "--nocapture"])
        .env(INNER, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Processor time of this process so far, in ticks of 10 ms.
fn cpu_ticks(stat: &std::fs::File) -> u64 {
    let mut bytes = [0; 1024];
    let length = std::os::unix::fs::FileExt::read_at(stat, &mut bytes, 0).unwrap();
    let stat = String::from_utf8_lossy(&bytes[..length]);
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

async fn out_of_descriptors() {
    let limits = ServerLimits { max_unauthenticated_per_ip: 10_000, ..ServerLimits::default() };
    let server = serve_open(limits).await;
    let stat = std::fs::File::open("/proc/self/stat").unwrap();
    // Both ends are in this process, so the descriptors are soon used up.
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(server.address) {
        held.push(stream);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One in the backlog that cannot be accepted.
    drop(held.pop());
    let waiting = std::net::TcpStream::connect(server.address);
    let before = cpu_ticks(&stat);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = cpu_ticks(&stat) - before;
    assert!(used <= 15, "{used} ticks of cpu in 3 s without descriptors");
    drop((held, waiting));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut raw = Raw::http2(server.address).await;
    assert!(raw.open(raw::LIST).await);
    raw.wait("service", |seen| seen.count(raw::SETTINGS) > 0).await;
}
