//! HTTP/2 attacks with frames written by hand, against our server and, as controls, against tonic's
//! own with default settings.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use skerry_rpc::ServerLimits;

use crate::raw::*;
use crate::support::*;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Attacks are over when the server says so or takes no more.
async fn until_goaway(raw: &mut Raw, most: usize, mut attack: impl FnMut(&mut Raw) -> Vec<u8>) -> usize {
    for number in 1..=most {
        let bytes = attack(raw);
        if !raw.send(&bytes).await || !raw.seen().goaway.is_empty() || raw.seen().closed {
            return number;
        }
        // The server reads meanwhile, so that what is counted was taken by it and not by buffers.
        if number.is_multiple_of(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    most
}

/// The server still serves others.
async fn serves(address: SocketAddr) {
    let mut raw = Raw::http2(address).await;
    let stream = raw.stream();
    raw.send(&frame(HEADERS, END_HEADERS, stream, &grpc_headers(LIST))).await;
    raw.send(&frame(DATA, END_STREAM, stream, &[0, 0, 0, 0, 0])).await;
    raw.wait("an answer", |seen| seen.count(DATA) == 1 && seen.count(HEADERS) == 2).await;
}

#[tokio::test]
async fn the_settings_state_the_limits() {
    let server = serve_open(ServerLimits::default()).await;
    let settings = Raw::http2(server.address).await.seen().settings;
    assert_eq!(settings.get(&MAX_CONCURRENT_STREAMS), Some(&100));
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE), Some(&(256 << 10)));
    assert_eq!(settings.get(&MAX_FRAME_SIZE).copied().unwrap_or(16 << 10), 16 << 10);
    assert_eq!(settings.get(&MAX_HEADER_LIST_SIZE), Some(&(8 << 10)));
    let hub = serve_open(ServerLimits::hub()).await;
    let settings = Raw::http2(hub.address).await.seen().settings;
    assert_eq!(settings.get(&MAX_CONCURRENT_STREAMS), Some(&16));

    let control = serve_default().await;
    let settings = Raw::http2(control.address).await.seen().settings;
    assert_ne!(settings.get(&MAX_CONCURRENT_STREAMS), Some(&100), "{settings:?}");
}

#[tokio::test]
async fn half_open_streams_are_refused_above_the_limit() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    for _ in 0..150 {
        raw.open(SUBSCRIBE).await;
    }
    // REFUSED_STREAM.
    raw.wait("the refusals", |seen| seen.resets.get(&7) == Some(&50)).await;
    assert_eq!(server.echo.calls(), 100);
    // Who does not stop is cut.
    let opened = until_goaway(&mut raw, 5000, |raw| {
        let stream = raw.stream();
        frame(HEADERS, END_HEADERS, stream, &grpc_headers(SUBSCRIBE))
    })
    .await;
    assert!(opened <= 2000, "{opened} streams were opened before the end");
    raw.wait("GOAWAY", |seen| seen.goaway.contains(&ENHANCE_YOUR_CALM) || seen.closed).await;
    assert!(server.echo.calls() <= 101);
    serves(server.address).await;
}

#[tokio::test]
async fn control_half_open_streams() {
    let control = serve_default().await;
    let mut raw = Raw::http2(control.address).await;
    for _ in 0..2000 {
        raw.open(SUBSCRIBE).await;
    }
    until("the streams", Duration::from_secs(10), || control.echo.calls() == 2000).await;
    assert_eq!(raw.seen().resets.len() + raw.seen().goaway.len(), 0);
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    let pairs = until_goaway(&mut raw, 20_000, |raw| {
        let stream = raw.stream();
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &grpc_headers(SUBSCRIBE));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        bytes
    })
    .await;
    assert!(pairs <= 2000, "{pairs} pairs were taken");
    raw.wait("the end", |seen| seen.goaway.contains(&ENHANCE_YOUR_CALM) || seen.closed).await;
    serves(server.address).await;
}

/// The server is made to reset streams: MadeYouReset.
#[tokio::test]
async fn malformed_headers_end_the_connection() {
    let attack = |raw: &mut Raw| {
        let stream = raw.stream();
        let mut block = grpc_headers(SUBSCRIBE);
        // Connection headers are malformed in HTTP/2.
        block.extend(literal("connection", "keep-alive"));
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    };
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    let sent = until_goaway(&mut raw, 20_000, attack).await;
    assert!(sent <= 2000, "{sent} malformed requests were answered");
    assert_eq!(server.echo.calls(), 0);
    serves(server.address).await;

    let control = serve_default().await;
    let mut raw = Raw::http2(control.address).await;
    assert_eq!(until_goaway(&mut raw, 5000, attack).await, 5000, "the control ended the connection");
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_floods_of_continuations_end_the_connection() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    let mut block = grpc_headers(LIST);
    block.extend(literal("x", &"y".repeat(9000)));
    let stream = raw.stream();
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
    raw.wait("a refusal", |seen| seen.count(HEADERS) == 1 || !seen.resets.is_empty() || !seen.goaway.is_empty()).await;

    let mut raw = Raw::http2(server.address).await;
    let stream = raw.stream();
    raw.send(&frame(HEADERS, 0, stream, &grpc_headers(LIST))).await;
    let piece = literal("x", &"y".repeat(4000));
    let frames = until_goaway(&mut raw, 1000, |_| frame(CONTINUATION, 0, stream, &piece)).await;
    assert!(frames * piece.len() <= 200_000, "{frames} continuations were taken");

    // Empty ones, which carry no byte to count.
    let mut raw = Raw::http2(server.address).await;
    let stream = raw.stream();
    raw.send(&frame(HEADERS, 0, stream, &grpc_headers(LIST))).await;
    let frames = until_goaway(&mut raw, 5000, |_| frame(CONTINUATION, 0, stream, &[])).await;
    assert!(frames < 5000, "{frames} empty continuations were taken");
    assert_eq!(server.echo.calls(), 0);
    serves(server.address).await;
}

#[tokio::test]
async fn control_headers_over_our_limit_reach_the_default_server() {
    let control = serve_default().await;
    let mut raw = Raw::http2(control.address).await;
    let mut block = grpc_headers(LIST);
    block.extend(literal("x", &"y".repeat(9000)));
    let stream = raw.stream();
    raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await;
    raw.send(&frame(DATA, END_STREAM, stream, &[0, 0, 0, 0, 0])).await;
    until("the call", Duration::from_secs(5), || control.echo.calls() == 1).await;
}

#[tokio::test]
async fn floods_of_empty_data_end_the_connection_or_cost_nothing() {
    let server = serve_open(ServerLimits::default()).await;
    let mut raw = Raw::http2(server.address).await;
    let stream = raw.stream();
    raw.send(&frame(HEADERS, END_HEADERS, stream, &grpc_headers(SUBSCRIBE))).await;
    let batch = frame(DATA, 0, stream, &[]).repeat(100);
    let batches = until_goaway(&mut raw, 2000, |_| batch.clone()).await;
    assert!(batches < 2000, "200,000 empty frames were taken");
    serves(server.address).await;
}

#[tokio::test]
async fn floods_of_pings_and_settings_leave_the_server_serving() {
    for bytes in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        let server = serve_open(ServerLimits::default()).await;
        let mut raw = Raw::http2(server.address).await;
        let batch = bytes.repeat(100);
        until_goaway(&mut raw, 500, |_| batch.clone()).await;
        serves(server.address).await;
    }
}

/// Shortened times; the defaults are five and ten seconds.
fn hasty() -> ServerLimits {
    ServerLimits {
        handshake_timeout: Duration::from_millis(300),
        preface_timeout: Duration::from_millis(300),
        first_request_timeout: Duration::from_millis(600),
        sweep_interval: Duration::from_millis(50),
        ..ServerLimits::default()
    }
}

#[tokio::test]
async fn the_times_before_the_first_request_are_short() {
    let limits = ServerLimits::default();
    assert_eq!(limits.handshake_timeout, Duration::from_secs(5));
    assert_eq!(limits.preface_timeout, Duration::from_secs(5));
    assert_eq!(limits.first_request_timeout, Duration::from_secs(10));
}

#[tokio::test]
async fn a_connection_without_preface_is_closed() {
    let server = serve_open(hasty()).await;
    Raw::tcp(server.address).await.closed(Duration::from_secs(5)).await;
    // One byte at a time is no better.
    let mut slow = Raw::tcp(server.address).await;
    let started = Instant::now();
    for byte in PREFACE {
        if !slow.send(&[*byte]).await || slow.seen().closed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    slow.closed(Duration::from_secs(5)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(server.metrics.ended("test", "no_preface"), 2);

    let control = serve_default().await;
    let raw = Raw::tcp(control.address).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!raw.seen().closed, "the control closed the connection");
}

#[tokio::test]
async fn a_connection_without_request_is_closed() {
    let server = serve_open(hasty()).await;
    let started = Instant::now();
    Raw::http2(server.address).await.closed(Duration::from_secs(5)).await;
    assert!(started.elapsed() >= Duration::from_millis(500));
    // Pings do not count as a request, nor does a header that never ends.
    let mut slow = Raw::http2(server.address).await;
    let headers = frame(HEADERS, END_HEADERS, 1, &grpc_headers(LIST));
    for byte in headers {
        if !slow.send(&[byte]).await || slow.seen().closed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    slow.closed(Duration::from_secs(5)).await;
    assert_eq!(server.metrics.ended("test", "no_request"), 2);
    assert_eq!(server.echo.calls(), 0);
}

#[tokio::test]
async fn a_connection_that_is_used_stays() {
    let server = serve_open(hasty()).await;
    let mut raw = Raw::http2(server.address).await;
    raw.open(SUBSCRIBE).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!raw.seen().closed);
}

#[tokio::test]
async fn a_stalled_tls_handshake_is_closed() {
    let pki = Pki::new();
    let server = serve(policy(), Some(pki.service("cloudhub")), hasty()).await;
    Raw::tcp(server.address).await.closed(Duration::from_secs(5)).await;
    // The beginning of a client hello, and then nothing.
    let mut raw = Raw::tcp(server.address).await;
    raw.send(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await;
    raw.closed(Duration::from_secs(5)).await;
    assert_eq!(server.metrics.refusals("test", "handshake_timeout"), 2);
    // HTTP/2 without TLS, and TLS 1.2, are no handshake.
    let mut raw = Raw::tcp(server.address).await;
    raw.send(PREFACE).await;
    raw.closed(Duration::from_secs(5)).await;
    assert_eq!(server.metrics.refusals("test", "tls"), 1);
    let connection = connect(server.address, pki.node("edge-1")).await;
    assert!(Open::new(connection.channel()).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_cut() {
    let limits = ServerLimits {
        write_stall_timeout: Duration::from_millis(500),
        sweep_interval: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let server = serve_open(limits).await;
    // No reader at all: a socket whose buffers fill. Pings are answered without flow control.
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &grpc_headers(SUBSCRIBE)));
    use tokio::io::AsyncWriteExt as _;
    stream.write_all(&bytes).await.unwrap();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        let write = tokio::time::timeout(Duration::from_secs(3), stream.write_all(&pings)).await;
        if matches!(write, Ok(Err(_))) {
            break;
        }
        if server.metrics.ended("test", "write_stalled") > 0 {
            break;
        }
    }
    assert_eq!(server.metrics.ended("test", "write_stalled"), 1);
    serves(server.address).await;
}

#[tokio::test]
async fn control_a_peer_that_reads_nothing_holds_the_default_server() {
    use tokio::io::AsyncWriteExt as _;
    let control = serve_default().await;
    let mut stream = tokio::net::TcpStream::connect(control.address).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &grpc_headers(SUBSCRIBE)));
    stream.write_all(&bytes).await.unwrap();
    until("the stream", Duration::from_secs(5), || control.echo.calls() == 1).await;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = written.clone();
    let flood = tokio::spawn(async move {
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
        while stream.write_all(&pings).await.is_ok() {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    // Nothing can be written any more, for six times as long as our server is told to wait in the test above.
    let (mut before, mut since, started) = (0, Instant::now(), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        assert!(!flood.is_finished(), "the control cut the connection");
        assert!(started.elapsed() < Duration::from_secs(60), "the control takes everything");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        if std::mem::replace(&mut before, now) != now {
            since = Instant::now();
        }
    }
    flood.abort();
}

#[tokio::test]
async fn an_idle_connection_is_ended_politely() {
    let limits = ServerLimits {
        idle_timeout: Duration::from_millis(300),
        sweep_interval: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let server = serve_open(limits).await;
    let mut raw = Raw::http2(server.address).await;
    let stream = raw.stream();
    raw.send(&frame(HEADERS, END_HEADERS, stream, &grpc_headers(LIST))).await;
    raw.send(&frame(DATA, END_STREAM, stream, &[0, 0, 0, 0, 0])).await;
    raw.wait("GOAWAY", |seen| seen.goaway == [0]).await;
    // A lazy client notices nothing.
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, skerry_rpc::ClientLimits::default());
    for _ in 0..3 {
        list(channel.clone(), "").await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}
