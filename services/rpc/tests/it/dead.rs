//! Peers and links that die without a word, through a proxy that stops forwarding.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skerry_rpc::{ClientLimits, CloseReason, ServerLimits, connect_once};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// Forwards bytes until it is cut: then it keeps the connections open and swallows everything.
struct Link {
    address: SocketAddr,
    to_server: Arc<AtomicBool>,
    to_client: Arc<AtomicBool>,
}

impl Link {
    async fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to_server, to_client) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (up, down) = (to_server.clone(), to_client.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(server).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(forward(client_read, server_write, up.clone()));
                tokio::spawn(forward(server_read, client_write, down.clone()));
            }
        });
        Self { address, to_server, to_client }
    }

    fn cut(&self) {
        self.to_server.store(false, Ordering::SeqCst);
        self.to_client.store(false, Ordering::SeqCst);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    open: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(bytes) = from.read(&mut buffer).await else { return };
        if bytes == 0 {
            // A cut link carries no FIN either.
            if !open.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            return;
        }
        if open.load(Ordering::SeqCst) && to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

/// A tenth of the real times is 1.4 s; a loaded machine may take a second more.
const SLACK: Duration = Duration::from_millis(2400);

/// A tenth of the real times.
fn fast_server() -> ServerLimits {
    ServerLimits {
        dead_after: Duration::from_millis(1400),
        sweep_interval: Duration::from_millis(50),
        ..ServerLimits::hub()
    }
}

fn fast_client() -> ClientLimits {
    ClientLimits { keepalive: Some((Duration::from_millis(900), Duration::from_millis(500))), ..ClientLimits::node() }
}

#[test]
fn the_real_times_add_up_to_fifteen_seconds() {
    let server = ServerLimits::hub();
    assert!(server.dead_after + server.sweep_interval <= Duration::from_secs(15));
    let (interval, timeout) = ClientLimits::node().keepalive.unwrap();
    assert!(interval + timeout <= Duration::from_secs(15));
    // A client that is alive is heard well within the time.
    assert!(interval + Duration::from_secs(4) < server.dead_after);
}

#[tokio::test]
async fn both_ends_notice_a_silent_cut() {
    let pki = Pki::new();
    let server = serve_tls(&pki, fast_server()).await;
    let link = Link::new(server.address).await;
    let node = connect_once(&target(link.address, pki.node("edge-1")), &fast_client()).await.unwrap();
    let mut open = Open::new(node.channel()).await.unwrap();
    open.next().await.unwrap();
    // Idle, but alive: pings keep both ends convinced.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!node.is_closed());
    assert_eq!(open.ask().await.unwrap(), "node edge-1");

    link.cut();
    let cut = Instant::now();
    assert_eq!(node.closed().await, CloseReason::Silent);
    let client_noticed = cut.elapsed();
    until("the sweeper", Duration::from_secs(3), || server.metrics.ended("test", "silent") == 1).await;
    let server_noticed = cut.elapsed();
    assert!(client_noticed < SLACK, "{client_noticed:?}");
    assert!(server_noticed < SLACK, "{server_noticed:?}");
}

#[tokio::test]
async fn each_end_notices_when_only_its_own_direction_is_cut() {
    let pki = Pki::new();
    let server = serve_tls(&pki, fast_server()).await;
    // Nothing reaches the server; what it sends still arrives.
    let link = Link::new(server.address).await;
    let node = connect_once(&target(link.address, pki.node("edge-1")), &fast_client()).await.unwrap();
    Open::new(node.channel()).await.unwrap().next().await.unwrap();
    link.to_server.store(false, Ordering::SeqCst);
    until("the sweeper", Duration::from_secs(3), || server.metrics.ended("test", "silent") == 1).await;
    node.closed().await;

    // Nothing reaches the client; the server hears its pings.
    let link = Link::new(server.address).await;
    let node = connect_once(&target(link.address, pki.node("edge-1")), &fast_client()).await.unwrap();
    Open::new(node.channel()).await.unwrap().next().await.unwrap();
    link.to_client.store(false, Ordering::SeqCst);
    let cut = Instant::now();
    assert_eq!(node.closed().await, CloseReason::Silent);
    assert!(cut.elapsed() < SLACK, "{:?}", cut.elapsed());
}

/// HTTP/2's ping is not sent while something comes in, so a node that only listens would look dead.
#[tokio::test]
async fn a_client_that_only_listens_is_still_heard() {
    use skerry_proto::sync::v1::source_client::SourceClient;
    let pki = Pki::new();
    let server = serve_tls(&pki, fast_server()).await;
    let node = connect_once(&target(server.address, pki.node("edge-1")), &fast_client()).await.unwrap();
    // The server's health is set to and fro, and each change comes down the watch.
    let request = tonic_health::pb::HealthCheckRequest { service: "skerry.sync.v1.Source".to_owned() };
    let mut watch =
        tonic_health::pb::health_client::HealthClient::new(node.channel()).watch(request).await.unwrap().into_inner();
    let started = Instant::now();
    let mut serving = true;
    while started.elapsed() < Duration::from_secs(5) {
        serving = !serving;
        server.health.set("skerry.sync.v1.Source", serving).await;
        tokio::time::timeout(Duration::from_secs(1), watch.message()).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!node.is_closed());
    assert_eq!(server.metrics.ended("test", "silent"), 0);
    drop(SourceClient::new(node.channel()));
}

#[tokio::test]
async fn the_owner_can_cut_a_connection_from_both_sides() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    let mut open = Open::new(node.channel()).await.unwrap();
    open.next().await.unwrap();
    let (received, sent) = node.bytes();
    assert!(received > 0 && sent > 0);
    node.close("a newer address was found");
    assert_eq!(node.closed().await, CloseReason::Local("a newer address was found".into()));
    assert_eq!(open.end().await.code(), tonic::Code::Unavailable);
    assert_eq!(Open::new(node.channel()).await.err().unwrap().code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_connection_ends_when_nobody_uses_it() {
    let pki = Pki::new();
    let server = serve_tls(&pki, ServerLimits::hub()).await;
    let node = connect(server.address, pki.node("edge-1")).await;
    Open::new(node.channel()).await.unwrap().next().await.unwrap();
    drop(node);
    until("the end", Duration::from_secs(5), || server.metrics.ended("test", "closed") == 1).await;
}
