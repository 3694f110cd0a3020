//! What another node may ask for, and how long it may take.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_common::drain;
use skerry_mesh_proxy::{Limits, Policy, Protocol, Proxy};
use skerry_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::common::{Endpoints, NoDial, Table, value};

const OK: u8 = 0;
const REFUSED: u8 = 1;
const NOT_HERE: u8 = 4;
const BUSY: u8 = 5;
const MALFORMED: u8 = 6;

struct Node {
    proxy: Proxy<Table, NoDial>,
    endpoints: Arc<Endpoints>,
    registry: Registry,
    _trigger: drain::Trigger,
    stop: drain::Watch,
}

impl Node {
    fn new(limits: Limits) -> Self {
        let (trigger, stop) = drain::channel(Duration::from_secs(1));
        let registry = Registry::new();
        let proxy = Proxy::new(Arc::new(Table::default()), Arc::new(NoDial), limits, &registry);
        Self { proxy, endpoints: Arc::default(), registry, _trigger: trigger, stop }
    }

    /// A stream of node `a`.
    fn open(&self) -> DuplexStream {
        let (near, end) = tokio::io::duplex(4096);
        let (proxy, endpoints, stop) = (self.proxy.clone(), self.endpoints.clone(), self.stop.clone());
        tokio::spawn(async move { proxy.receive(&*endpoints, &NodeName::parse("a").unwrap(), end, stop).await });
        near
    }

    async fn ask(&self, header: &[u8]) -> (DuplexStream, u8) {
        let mut stream = self.open();
        stream.write_u16(header.len().try_into().unwrap()).await.unwrap();
        let _ = stream.write_all(header).await;
        let answer = stream.read_u8().await.unwrap();
        (stream, answer)
    }
}

#[tokio::test]
async fn only_an_endpoint_of_this_node_is_served() {
    let node = Node::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.endpoints.add("web", listener.local_addr().unwrap(), Protocol::Tcp, Policy::TCP);
    node.endpoints.add("gone", "127.0.0.1:1".parse().unwrap(), Protocol::Tcp, Policy::TCP);
    assert_eq!(node.ask(b"web").await.1, OK);
    listener.accept().await.unwrap();
    assert_eq!(node.ask(stranger.local_addr().unwrap().to_string().as_bytes()).await.1, NOT_HERE);
    assert_eq!(node.ask(b"").await.1, NOT_HERE);
    assert_eq!(node.ask(b"gone").await.1, REFUSED);
    assert_eq!(node.ask(&[0; 1025]).await.1, MALFORMED);
    assert_eq!(value(&node.registry, "streams_refused_total{reason=\"not_here\"}"), 2);
    assert_eq!(value(&node.registry, "streams_refused_total{reason=\"malformed\"}"), 1);
}

#[tokio::test]
async fn a_stream_over_the_limit_is_told_so() {
    let node = Node::new(Limits { streams: 1, ..Limits::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.endpoints.add("web", listener.local_addr().unwrap(), Protocol::Tcp, Policy::TCP);
    let (first, answer) = node.ask(b"web").await;
    assert_eq!(answer, OK);
    assert_eq!(node.open().read_u8().await.unwrap(), BUSY);
    drop(first);
    let mut served = listener.accept().await.unwrap().0;
    // Its caller was cut off: it is no end of what it sent.
    assert_eq!(served.read(&mut [0; 8]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    crate::common::until("its place is free", || value(&node.registry, "streams") == 0).await;
    assert_eq!(node.ask(b"web").await.1, OK);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_given_up() {
    let node = Node::new(Limits::default());
    for sent in [0, 1, 2, 5] {
        let began = Instant::now();
        let mut stream = node.open();
        stream.write_all(&b"\0\x10stra"[..sent]).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!((said, began.elapsed().as_secs()), (vec![MALFORMED], 5));
    }
    // And one that does not read its answer.
    let (mut near, end) = tokio::io::duplex(1);
    let peer = NodeName::parse("a").unwrap();
    let receive = node.proxy.receive(&*node.endpoints, &peer, end, node.stop.clone());
    let ask = async {
        near.write_all(b"\0\x01x").await.unwrap();
    };
    let began = Instant::now();
    tokio::join!(receive, ask);
    assert!(began.elapsed() <= Duration::from_secs(10));
    assert_eq!(value(&node.registry, "streams"), 0);
}

/// Frames that are cut, or that go on after their end.
#[tokio::test]
async fn what_is_no_frame_is_a_break_for_the_backend() {
    let node = Node::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.endpoints.add("web", listener.local_addr().unwrap(), Protocol::Tcp, Policy::TCP);
    for (bytes, arrives) in
        [(b"\0\x04half".as_slice(), "half"), (b"\0\x04ha", "ha"), (b"\0", ""), (b"\0\x02ok\0\0more", "ok")]
    {
        let (mut stream, answer) = node.ask(b"web").await;
        assert_eq!(answer, OK);
        let mut served = listener.accept().await.unwrap().0;
        stream.write_all(bytes).await.unwrap();
        let mut got = vec![0; arrives.len()];
        served.read_exact(&mut got).await.unwrap();
        assert_eq!(got, arrives.as_bytes());
        drop(stream);
        assert_eq!(
            served.read(&mut [0; 8]).await.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset,
            "{bytes:?}"
        );
    }
}
