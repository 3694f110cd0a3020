//! Stopping: in time, with a reason for each stream, and with nothing lost that was accepted.

use std::time::{Duration, Instant};

use skerry_rpc::limits::Rate;
use skerry_rpc::{CloseReason, Listen, Metrics, Served, Server, ServerConfig, ServerLimits};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::raw::{self, Raw};
use crate::support::*;

fn quick() -> ServerLimits {
    ServerLimits { stream_grace: Duration::from_millis(200), ..ServerLimits::hub() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_are_told_and_running_calls_finish() {
    let pki = Pki::new();
    let mut server = serve_tls(&pki, quick()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut open = Open::new(node.channel()).await.unwrap();
        open.next().await.unwrap();
        streams.push(open);
    }
    let admin = connect(server.address, pki.service("admin")).await;
    let calls: Vec<_> = (0..10).map(|_| tokio::spawn(list(admin.channel(), "sleep-3000"))).collect();
    until("the calls", Duration::from_secs(5), || server.echo.calls() == 20).await;

    let started = Instant::now();
    server.begin_drain();
    for stream in &mut streams {
        let status = stream.end().await;
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is stopping"));
    }
    assert_eq!(node.closed().await, CloseReason::Peer);
    assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
    for call in calls {
        call.await.unwrap().expect("a call that was accepted is answered");
    }
    assert_eq!(admin.closed().await, CloseReason::Peer);
    assert_eq!(server.drain().await, Served::Clean);
    assert!(started.elapsed() < Duration::from_secs(6));
    // Nobody listens any more.
    let again = skerry_rpc::connect_once(&target(server.address, pki.node("edge-1")), &Default::default()).await;
    assert_eq!(again.unwrap_err().code(), "io");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_those_in_a_handshake_do_not_hold_the_drain() {
    let pki = Pki::new();
    let mut server = serve_tls(&pki, quick()).await;
    let _idle = connect(server.address, pki.node("edge-1")).await;
    let _handshake = Raw::tcp(server.address).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    assert_eq!(server.drain().await, Served::Clean);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_not_serving_before_anything_ends() {
    let pki = Pki::new();
    let mut server = serve_tls(&pki, quick()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    let request = HealthCheckRequest { service: "skerry.sync.v1.Source".to_owned() };
    let mut watch = HealthClient::new(node.channel()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    server.begin_drain();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_is_cut_at_the_deadline() {
    let metrics = Metrics::default();
    let config = ServerConfig::new("test", localhost(), open_policy()).limits(quick()).metrics(metrics.clone());
    let mut server = Running::start(Server::bind(config).await.unwrap(), metrics, Duration::from_millis(1500));
    let to = skerry_rpc::Target::loopback(server.address).unwrap();
    let channel = skerry_rpc::Channel::lazy(&to, Default::default());
    let slow = tokio::spawn(list(channel, "sleep-60000"));
    until("the call", Duration::from_secs(5), || server.echo.calls() == 1).await;
    let started = Instant::now();
    assert_eq!(server.drain().await, Served::Forced);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(slow.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_and_a_client_that_never_reads() {
    let mut server =
        serve_open(ServerLimits { max_streams: 100, node_rate: Rate { per_second: 10_000, burst: 10_000 }, ..quick() })
            .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::http2(server.address).await;
        for _ in 0..100 {
            raw.open(raw::SUBSCRIBE).await;
        }
        clients.push(raw);
    }
    until("the streams", Duration::from_secs(20), || server.echo.calls() == 1000).await;
    // This one never reads: neither the answers nor the goodbye.
    let mut silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut bytes = raw::PREFACE.to_vec();
    bytes.extend(raw::frame(raw::SETTINGS, 0, 0, &[]));
    bytes.extend(raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &raw::grpc_headers(raw::SUBSCRIBE)));
    tokio::io::AsyncWriteExt::write_all(&mut silent, &bytes).await.unwrap();
    until("the last stream", Duration::from_secs(5), || server.echo.calls() == 1001).await;
    let started = Instant::now();
    assert_eq!(server.drain().await, Served::Clean);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for client in clients {
        client.closed(Duration::from_secs(5)).await;
        // Trailers for each stream.
        assert!(client.seen().count(raw::HEADERS) >= 200, "{:?}", client.seen().frames);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_an_open_stream_holds_the_default_server() {
    let Control { address, echo, stop, task } = serve_default().await;
    let mut raw = Raw::http2(address).await;
    raw.open(raw::SUBSCRIBE).await;
    until("the stream", Duration::from_secs(5), || echo.calls() == 1).await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!task.is_finished(), "the control stopped");
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_server_cuts_everything() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    let mut open = Open::new(node.channel()).await.unwrap();
    open.next().await.unwrap();
    drop(server);
    tokio::time::timeout(Duration::from_secs(2), node.closed()).await.unwrap();
    assert!(open.end().await.code() != Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_server_can_be_bound_again_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    for _ in 0..3 {
        let listen = Listen::Unix { path: path.clone(), mode: 0o600 };
        let config = ServerConfig::new("test", listen, policy()).limits(quick());
        let mut server =
            Running::start(Server::bind(config).await.unwrap(), Metrics::default(), Duration::from_secs(5));
        let channel = skerry_rpc::Channel::unix(&path);
        list(channel, "").await.unwrap();
        assert_eq!(server.drain().await, Served::Clean);
    }
}
