//! Redirected connections on real sockets: to a backend of this node, and through a tunnel to one of another.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{SOON, System, at, at_b, redirected, service, service6, until};
use futures::FutureExt as _;
use skerry_mesh_core::{Header, Protocol, Target as TunnelTarget};
use skerry_mesh_proxy::{DialError, Feedback, Policy, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A backend, the Service 1 that has it on this node, and the Service 2 that has it behind the tunnel.
pub(crate) async fn backend(system: &System) -> TcpListener {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    system.table.serve(service(1), Policy::TCP, &[Target::Local(address)]);
    system.table.serve(service6(1), Policy::TCP, &[Target::Local(address)]);
    system.endpoints.add(Protocol::Tcp, address, Policy::TCP);
    system.table.serve(service(2), Policy::TCP, &[at_b(address)]);
    listener
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap()
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    timeout(SOON, TcpStream::connect(address)).await.expect("in time").unwrap()
}

pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(SOON, listener.accept()).await.expect("in time").unwrap().0
}

pub(crate) async fn all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("in time")?;
    Ok(bytes)
}

pub(crate) async fn is_reset(stream: &mut TcpStream) {
    assert_eq!(all(stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Whoever connects here is reset, perhaps before the connection is seen.
pub(crate) async fn is_refused(address: SocketAddr) {
    match timeout(SOON, TcpStream::connect(address)).await.expect("in time") {
        Ok(mut stream) => is_reset(&mut stream).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn an_end_is_passed_on_and_the_other_direction_stays_open() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        for address in [service(1), service6(1), service(2)] {
            let mut client = connect(address).await;
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut served = accept(&backend).await;
            assert_eq!(all(&mut served).await.unwrap(), b"question");
            served.write_all(b"answer").await.unwrap();
            drop(served);
            assert_eq!(all(&mut client).await.unwrap(), b"answer");

            // The other way round: the server speaks first and has ended when the client begins.
            let mut client = connect(address).await;
            let mut served = accept(&backend).await;
            served.write_all(b"banner").await.unwrap();
            served.shutdown().await.unwrap();
            assert_eq!(all(&mut client).await.unwrap(), b"banner");
            client.write_all(b"late").await.unwrap();
            drop(client);
            assert_eq!(all(&mut served).await.unwrap(), b"late");
        }
        until("all have ended", || system.metric("connections") == 0).await;
        assert_eq!(system.metric("connections_ended_total{reason=\"closed\"}"), 6);
        assert_eq!(system.table.in_flight(0), 0);
    });
}

#[test]
fn a_break_is_passed_on_as_a_break() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        for address in [service(1), service(2)] {
            let client = connect(address).await;
            let mut served = accept(&backend).await;
            client.set_zero_linger().unwrap();
            drop(client);
            is_reset(&mut served).await;

            let mut client = connect(address).await;
            let mut served = accept(&backend).await;
            // Before the first byte it would be an endpoint that refuses.
            served.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            served.set_zero_linger().unwrap();
            drop(served);
            is_reset(&mut client).await;
        }
        until("all have ended", || system.metric("connections") == 0).await;
        assert_eq!(system.metric("connections_ended_total{reason=\"client\"}"), 2);
        assert_eq!(system.metric("connections_ended_total{reason=\"backend\"}"), 2);
        let broken = |f: &&Feedback| matches!(f, Feedback::Closed { broken: true, .. });
        assert_eq!(system.table.feedback_of(0).iter().filter(broken).count(), 2);
    });
}

#[test]
fn every_byte_arrives_once_and_in_order() {
    const BYTES: usize = 8 << 20;
    fn pattern(seed: u64) -> Vec<u8> {
        let mut state = seed;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..BYTES).map(step).collect()
    }
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        let (up, down) = (pattern(1), pattern(2));
        for address in [service(1), service(2)] {
            let client = connect(address).await;
            let served = accept(&backend).await;
            let ((mut cr, mut cw), (mut sr, mut sw)) = (client.into_split(), served.into_split());
            let send = async {
                cw.write_all(&up).await.unwrap();
                cw.shutdown().await.unwrap();
            };
            let answer = async {
                sw.write_all(&down).await.unwrap();
                sw.shutdown().await.unwrap();
            };
            let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
            let both = async { tokio::join!(send, answer, sr.read_to_end(&mut got_up), cr.read_to_end(&mut got_down)) };
            let (_, _, up_read, down_read) = timeout(3 * SOON, both).await.expect("in time");
            assert_eq!((up_read.unwrap(), down_read.unwrap()), (BYTES, BYTES));
            assert!(got_up == up && got_down == down, "bytes differ");
        }
        until("all have ended", || system.metric("connections") == 0).await;
        assert_eq!(system.metric("bytes_total{way=\"up\"}"), 2 * BYTES as u64);
        assert_eq!(system.metric("bytes_total{way=\"down\"}"), 2 * BYTES as u64);
    });
}

#[test]
fn the_next_endpoint_serves_when_one_cannot() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        let good = Target::Local(backend.local_addr().unwrap());
        let (gone, stranger) = (nobody().await, nobody().await);
        system.endpoints.add(Protocol::Tcp, gone, Policy::TCP);
        let c = at("c", Header::new(Protocol::Tcp, TunnelTarget::Endpoint(gone)));
        let bad = [
            (Target::Local(nobody().await), DialError::Refused),
            (Target::Local(SocketAddr::from(([203, 0, 113, 1], 80))), DialError::Unreachable),
            (at_b(stranger), DialError::NotHere),
            (at_b(gone), DialError::Refused),
            (c, DialError::NoPath),
        ];
        let targets: Vec<_> = bad.iter().map(|(target, _)| target.clone()).chain([good]).collect();
        system.table.serve(service(3), Policy::TCP, &targets);
        let mut client = connect(service(3)).await;
        accept(&backend).await.write_all(b"here").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap(), b"here");
        for (number, (_, expected)) in bad.iter().enumerate() {
            let feedback = system.table.feedback_of(u32::try_from(number).unwrap());
            assert!(matches!(feedback[..], [Feedback::Failed { error, .. }] if error == *expected), "{feedback:?}");
        }

        // Without a good one the client is told by a reset, as it is when there is no such Service.
        system.table.serve(service(4), Policy::TCP, &targets[..5]);
        is_refused(service(4)).await;
        is_refused(service(99)).await;
        until("it is counted", || system.metric("refused_total{reason=\"no_service\"}") == 1).await;
    });
}

#[test]
fn eight_endpoints_are_tried_and_no_more() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        let (bad, good) = (Target::Local(nobody().await), Target::Local(backend.local_addr().unwrap()));
        let all_but_one = vec![bad.clone(); 7];
        system.table.serve(service(3), Policy::TCP, &[&all_but_one[..], std::slice::from_ref(&good)].concat());
        let mut client = connect(service(3)).await;
        accept(&backend).await.write_all(b"here").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap(), b"here");
        system.table.serve(service(4), Policy::TCP, &[&all_but_one[..], &[bad, good]].concat());
        is_refused(service(4)).await;
        assert!(system.table.feedback_of(8).is_empty());
        assert!(backend.accept().now_or_never().is_none());
    });
}

#[test]
fn an_endpoint_that_breaks_off_before_the_first_byte_is_passed_over() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        let breaks = TcpListener::bind(LOOPBACK).await.unwrap();
        let bad = breaks.local_addr().unwrap();
        let breaking = tokio::spawn(async move {
            loop {
                let (mut stream, _) = breaks.accept().await.unwrap();
                // Long enough for the proxy to see a connection, then it is gone. One that was asked answers first.
                let asked = timeout(Duration::from_millis(50), stream.read(&mut [0])).await.is_ok();
                if asked {
                    stream.write_all(b"?").await.unwrap();
                }
                stream.set_zero_linger().unwrap();
            }
        });
        let good = Target::Local(backend.local_addr().unwrap());
        system.table.serve(service(3), Policy::TCP, &[Target::Local(bad), good]);
        let mut client = connect(service(3)).await;
        let mut served = accept(&backend).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut served).await.unwrap(), b"question");
        drop(served);
        assert_eq!(all(&mut client).await.unwrap(), b"");

        // A request that one may have seen is not sent to another.
        let mut client = connect(service(3)).await;
        client.write_all(b"!").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(backend.accept().now_or_never().is_none());
        breaking.abort();
    });
}

#[test]
fn an_endpoint_that_says_nothing_costs_its_head_start() {
    redirected(|| async {
        let system = System::start();
        let backend = backend(&system).await;
        // Its backlog is full: a connection to it is neither accepted nor refused.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&LOOPBACK.into()).unwrap();
        full.listen(0).unwrap();
        let hole = full.local_addr().unwrap().as_socket().unwrap();
        let _fills = connect(hole).await;
        let policy = Policy { connect: Duration::from_secs(2), ..Policy::TCP };
        let good = Target::Local(backend.local_addr().unwrap());
        system.table.serve(service(3), policy.clone(), &[Target::Local(hole), good]);
        let mut client = connect(service(3)).await;
        accept(&backend).await.write_all(b"here").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap(), b"here");
        let overtaken = system.table.feedback_of(0);
        assert!(matches!(overtaken[..], [Feedback::Failed { error: DialError::Overtaken, .. }]), "{overtaken:?}");

        // Alone, it costs the deadline.
        system.table.serve(service(4), policy, &[Target::Local(hole)]);
        is_refused(service(4)).await;
        let timed_out = system.table.feedback_of(0).pop();
        assert!(matches!(timed_out, Some(Feedback::Failed { error: DialError::TimedOut, .. })), "{timed_out:?}");
    });
}
