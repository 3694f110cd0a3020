//! One test for each limit.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use skerry_mesh_dns::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::dig::dig;
use crate::hardening::{client, question, receive};
use crate::server::{start, start_with, table};
use crate::upstream::{Reply, address, upstream};

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "orders.shop.svc.cluster.local.";

async fn connect(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

/// Whether the connection is served; one beyond the limit is closed before it says anything.
async fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(&framed(&question(NAME))).await.is_ok() && stream.read_u16().await.is_ok()
}

async fn read(stream: &mut TcpStream) -> Message {
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_one_source_are_limited() {
    let server = start_with(Config { queries_per_second: 100, ..Config::default() }, Some(table()));
    let greedy = client(Ipv4Addr::new(127, 0, 0, 2), server.address).await;
    for _ in 0..400 {
        greedy.send(&question(NAME).to_vec().unwrap()).await.unwrap();
    }
    server.until("limited", |count| count > 100).await;
    let modest = client(Ipv4Addr::new(127, 0, 0, 3), server.address).await;
    modest.send(&question(NAME).to_vec().unwrap()).await.unwrap();
    assert!(receive(&modest, SOON).await.is_some(), "another source is not its victim");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_for_upstream_of_one_source_are_limited_sooner() {
    let upstream = upstream(|question, _| Reply::Send(vec![address(question, 60, 1)])).await;
    let config = Config { queries_per_second: 1000, upstream: vec![upstream.address], ..Config::default() };
    let server = start_with(config, Some(table()));
    let greedy = client(Ipv4Addr::new(127, 0, 0, 2), server.address).await;
    for number in 0..100 {
        greedy.send(&question(&format!("n{number}.example.")).to_vec().unwrap()).await.unwrap();
    }
    server.until("limited", |count| count > 30).await;
    assert!(upstream.asked() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_on_their_way_to_upstream_are_limited() {
    let upstream = upstream(|_, _| Reply::Silence).await;
    let server = start(&[upstream.address]);
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    for number in 0..300 {
        let mut question = question(&format!("n{number}.example."));
        question.set_edns(Edns::new());
        socket.send(&question.to_vec().unwrap()).await.unwrap();
    }
    // 256 wait; the others hear at once that it is too much.
    server.until("busy", |count| count == 44).await;
    let first = receive(&socket, SOON).await.unwrap();
    assert_eq!(first.metadata.response_code, ResponseCode::ServFail);
    let why = first.edns.unwrap().options().get(EdnsCode::Unknown(15)).cloned();
    assert_eq!(why, Some(EdnsOption::Unknown(15, b"\0\0too many questions at once".to_vec())));
    assert_eq!(dig(server.address, NAME).await.status, "NOERROR", "the cluster is not concerned");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_wait_are_limited() {
    let upstream = upstream(|_, _| Reply::Silence).await;
    let server = start(&[upstream.address]);
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    // All join one flight; each is a client that waits.
    for sent in 1..=1100 {
        socket.send(&question("www.example.").to_vec().unwrap()).await.unwrap();
        if sent % 100 == 0 {
            server.until("coalesced", |count| count + 1 >= sent.min(1024)).await;
        }
    }
    server.until("busy", |count| count == 76).await;
    assert_eq!(server.count("coalesced"), 1023);
    assert_eq!(dig(server.address, NAME).await.status, "NOERROR", "the cluster is not concerned");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_source_are_limited() {
    let server = start(&[]);
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(greedy, server.address).await;
        assert!(is_served(&mut stream).await);
        open.push(stream);
    }
    assert!(!is_served(&mut connect(greedy, server.address).await).await);
    assert!(is_served(&mut connect(Ipv4Addr::new(127, 0, 0, 3), server.address).await).await);
    drop(open);
    server.until("tcp_connections", |open| open == 0).await;
    assert!(is_served(&mut connect(greedy, server.address).await).await, "places come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let server = start(&[]);
    let mut open = Vec::new();
    for source in 0..4 {
        for _ in 0..64 {
            let mut stream = connect(Ipv4Addr::new(127, 0, 1, source), server.address).await;
            assert!(is_served(&mut stream).await);
            open.push(stream);
        }
    }
    assert!(!is_served(&mut connect(Ipv4Addr::new(127, 0, 1, 9), server.address).await).await);
    assert_eq!(server.count("tcp_refused"), 1);
    assert_eq!(dig(server.address, "+notcp orders.shop.svc.cluster.local").await.status, "NOERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_limited_in_size() {
    let server = start(&[]);
    let socket = client(Ipv4Addr::LOCALHOST, server.address).await;
    let mut bytes = question(NAME).to_vec().unwrap();
    bytes.resize(1500, 0);
    socket.send(&bytes).await.unwrap();
    assert!(receive(&socket, SOON).await.is_some(), "what is behind a question does not matter");
    bytes.push(0);
    socket.send(&bytes).await.unwrap();
    server.until("malformed", |count| count == 1).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
    assert!(stream.read_u16().await.is_err(), "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_one_connection_do_not_wait_for_each_other() {
    let upstream = upstream(|question, _| match question.queries[0].name().to_ascii().as_str() {
        "slow.example." => Reply::Silence,
        _ => Reply::Send(vec![address(question, 60, 1)]),
    })
    .await;
    let server = start(&[upstream.address]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // As many as may be on their way at once, then one more, which is read when the first is done.
    for _ in 0..15 {
        stream.write_all(&framed(&question("slow.example."))).await.unwrap();
    }
    let fast = question("fast.example.");
    stream.write_all(&framed(&fast)).await.unwrap();
    assert_eq!(read(&mut stream).await.metadata.id, fast.metadata.id, "out of order");
    for _ in 0..2 {
        stream.write_all(&framed(&question("slow.example."))).await.unwrap();
    }
    for _ in 0..17 {
        assert_eq!(read(&mut stream).await.metadata.response_code, ResponseCode::ServFail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_answers_is_let_go() {
    let server = start(&[]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Answers of two kilobytes each, until nothing goes any more in either direction.
    let many = framed(&question("many.shop.svc.cluster.local."));
    let stuck = async { while stream.write_all(&many).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), stuck).await.expect("the server closes it");
    server.until("tcp_connections", |open| open == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_taken_once() {
    let server = start(&[]);
    let config = Config { listen: vec![server.address], ..Config::default() };
    let zone = server.zone.clone();
    let again = skerry_mesh_dns::Dns::build(&config, zone, &skerry_telemetry::Registry::new());
    assert!(again.is_err_and(|error| error.to_string().contains("tcp")), "a second one says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_need_not_be_there_yet() {
    let config = Config { listen: vec!["169.254.96.16:5300".parse().unwrap()], ..Config::default() };
    let server = start_with(config, Some(table()));
    assert_eq!(server.address, "169.254.96.16:5300".parse().unwrap());
}
