//! What another node may ask for, and how long it may take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_common::drain;
use skerry_mesh_core::{Header, Protocol, REPLY_LEN, Refusal, Reply, Target};
use skerry_mesh_proxy::{Limits, Policy, Proxy};
use skerry_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::common::{Endpoints, NoDial, Table, value};

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

    async fn ask(&self, bytes: &[u8]) -> (DuplexStream, Reply) {
        let mut stream = self.open();
        let _ = stream.write_all(bytes).await;
        let reply = reply(&mut stream).await;
        (stream, reply)
    }

    async fn ask_for(&self, address: SocketAddr) -> (DuplexStream, Reply) {
        self.ask(&Header::new(Protocol::Tcp, Target::Endpoint(address)).encode()).await
    }
}

async fn reply(stream: &mut DuplexStream) -> Reply {
    let mut bytes = [0; REPLY_LEN];
    stream.read_exact(&mut bytes).await.unwrap();
    Reply::decode(&bytes).unwrap().unwrap()
}

#[tokio::test]
async fn only_an_endpoint_of_this_node_is_served() {
    let node = Node::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, gone) = (listener.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap());
    node.endpoints.add(Protocol::Tcp, here, Policy::TCP);
    node.endpoints.add(Protocol::Tcp, gone, Policy::TCP);
    assert_eq!(node.ask_for(here).await.1, Reply::Connected);
    listener.accept().await.unwrap();
    assert_eq!(node.ask_for(stranger.local_addr().unwrap()).await.1, Reply::Refused(Refusal::Forbidden));
    let udp = Header::new(Protocol::Udp, Target::Endpoint(here)).encode();
    assert_eq!(node.ask(&udp).await.1, Reply::Refused(Refusal::Forbidden));
    assert_eq!(node.ask_for(gone).await.1, Reply::Refused(Refusal::ConnectionRefused));
    // Of another version, and one that says less than it must.
    for malformed in [b"\x02\x00".as_slice(), b"\x01\x00", b"GET / HTTP/1.1"] {
        assert_eq!(node.ask(malformed).await.1, Reply::Refused(Refusal::Header), "{malformed:?}");
    }
    assert_eq!(value(&node.registry, "streams_refused_total{reason=\"not_here\"}"), 2);
    assert_eq!(value(&node.registry, "streams_refused_total{reason=\"malformed\"}"), 3);
}

#[tokio::test]
async fn a_stream_over_the_limit_is_told_so() {
    let node = Node::new(Limits { streams: 1, ..Limits::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    node.endpoints.add(Protocol::Tcp, here, Policy::TCP);
    let (first, answer) = node.ask_for(here).await;
    assert_eq!(answer, Reply::Connected);
    assert_eq!(reply(&mut node.open()).await, Reply::Refused(Refusal::Overloaded));
    drop(first);
    let mut served = listener.accept().await.unwrap().0;
    // Its caller was cut off: it is no end of what it sent.
    assert_eq!(served.read(&mut [0; 8]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    crate::common::until("its place is free", || value(&node.registry, "streams") == 0).await;
    assert_eq!(node.ask_for(here).await.1, Reply::Connected);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_given_up() {
    let node = Node::new(Limits::default());
    for sent in [0, 1, 2, 5] {
        let began = Instant::now();
        let mut stream = node.open();
        stream.write_all(&b"\x01\x09\x06\x04\x7f"[..sent]).await.unwrap();
        assert_eq!(reply(&mut stream).await, Reply::Refused(Refusal::Header));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    // And one that does not read its answer.
    let (mut near, end) = tokio::io::duplex(1);
    let peer = NodeName::parse("a").unwrap();
    let receive = node.proxy.receive(&*node.endpoints, &peer, end, node.stop.clone());
    let began = Instant::now();
    let ((), sent) = tokio::join!(receive, near.write_all(b"\x02"));
    sent.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert_eq!(value(&node.registry, "streams"), 0);
}

/// Frames that are cut, or that go on after their end.
#[tokio::test]
async fn what_is_no_frame_is_a_break_for_the_backend() {
    let node = Node::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    node.endpoints.add(Protocol::Tcp, here, Policy::TCP);
    for (bytes, arrives) in
        [(b"\0\x04half".as_slice(), "half"), (b"\0\x04ha", "ha"), (b"\0", ""), (b"\0\x02ok\0\0more", "ok")]
    {
        let (mut stream, answer) = node.ask_for(here).await;
        assert_eq!(answer, Reply::Connected);
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
