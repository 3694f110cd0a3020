//! Redirected datagrams: boundaries, sources of answers, and what bounds the flows.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_mesh_core::{Header, Protocol, Target as TunnelTarget};
use skerry_mesh_proxy::{Feedback, Limits, Policy, Target};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::common::{SOON, System, Table, at, redirected, service, service6, until};

const SHORT: Duration = Duration::from_millis(300);

async fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address).await.unwrap()
}

/// A backend that sends back what it gets, with Services that have it here and behind the tunnel.
async fn echo(system: &System) -> SocketAddr {
    let backend = bind("127.0.0.1:0").await;
    let address = backend.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (read, from) = backend.recv_from(&mut buffer).await.unwrap();
            let _ = backend.send_to(&buffer[..read], from).await;
        }
    });
    system.endpoints.add(Protocol::Udp, address, Policy::UDP);
    system.table.serve(service(1), Policy::UDP, &[Target::Local(address)]);
    system.table.serve(service6(1), Policy::UDP, &[Target::Local(address)]);
    system.table.serve(service(2), Policy::UDP, &[far(address)]);
    system.table.serve(service6(2), Policy::UDP, &[far(address)]);
    address
}

fn far(address: SocketAddr) -> Target {
    at("b", Header::new(Protocol::Udp, TunnelTarget::Endpoint(address)))
}

async fn ask(client: &UdpSocket, service: SocketAddr, bytes: &[u8]) {
    client.send_to(bytes, service).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let (read, from) = timeout(SOON, client.recv_from(&mut buffer)).await.expect("in time").unwrap();
    assert!(buffer[..read] == *bytes, "{} bytes came back as {read}", bytes.len());
    assert_eq!(from, service);
}

#[test]
fn a_datagram_stays_one_and_its_answer_comes_from_the_service() {
    redirected(|| async {
        let system = System::start();
        echo(&system).await;
        for service in [service(1), service6(1), service(2), service6(2)] {
            let client = bind(if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await;
            for length in [0, 1, 2, 512, 1_472, 4_097, 20_000, 65_000] {
                let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
                ask(&client, service, &bytes).await;
            }
        }
        until("all are counted", || system.metric("datagrams_down_total") == 32).await;
        assert_eq!(system.metric("datagrams_up_total"), 32);
        assert_eq!(system.metric("flows"), 4);
    });
}

/// In order, none lost and none twice, with as many under way as the queues take.
#[test]
fn a_hundred_thousand_datagrams_keep_their_boundaries() {
    const ALL: u32 = 100_000;
    const WINDOW: u32 = 32;
    fn datagram(number: u32) -> Vec<u8> {
        let length = 4 + (number.wrapping_mul(2_654_435_761) >> 16) as usize % 1_400;
        let mut bytes = vec![number as u8; length];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        bytes
    }
    redirected(|| async {
        let system = System::start();
        echo(&system).await;
        for service in [service(1), service(2)] {
            let client = bind("0.0.0.0:0").await;
            client.connect(service).await.unwrap();
            let (mut sent, mut got) = (0, 0);
            let mut buffer = vec![0; 65_536];
            while got < ALL {
                while sent < ALL && sent - got < WINDOW {
                    client.send(&datagram(sent)).await.unwrap();
                    sent += 1;
                }
                let read = timeout(SOON, client.recv(&mut buffer)).await.expect("none is lost").unwrap();
                assert!(buffer[..read] == datagram(got), "datagram {got}");
                got += 1;
            }
        }
        assert_eq!(system.metric("flows"), 2);
    });
}

#[test]
fn a_client_may_use_one_port_for_several_services() {
    redirected(|| async {
        let system = System::start();
        echo(&system).await;
        let client = bind("0.0.0.0:0").await;
        for round in 0..10 {
            for service in [service(1), service(2)] {
                ask(&client, service, format!("{service} {round}").as_bytes()).await;
            }
        }
    });
}

#[test]
fn the_flow_that_was_idle_longest_makes_room() {
    redirected(|| async {
        let limits = Limits { flows: 3, ..Limits::default() };
        let system = System::with(Table::default(), limits, SOON);
        echo(&system).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(bind("0.0.0.0:0").await);
            ask(clients.last().unwrap(), service(1), b"x").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ask(&clients[0], service(1), b"again").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let fourth = bind("0.0.0.0:0").await;
        ask(&fourth, service(1), b"x").await;
        until("the second has gone", || system.metric("flows_ended_total{reason=\"evicted\"}") == 1).await;
        assert_eq!(system.metric("flows"), 3);
        // The others are still there: no new flow begins.
        for client in [&clients[0], &clients[2], &fourth] {
            ask(client, service(1), b"y").await;
        }
        let begun = |f: &&Feedback| matches!(f, Feedback::Connected { .. });
        assert_eq!(system.table.feedback_of(0).iter().filter(begun).count(), 4);
        ask(&clients[1], service(1), b"z").await;
        assert_eq!(system.table.feedback_of(0).iter().filter(begun).count(), 5);
    });
}

#[test]
fn a_silent_flow_ends_at_both_ends_of_the_tunnel() {
    redirected(|| async {
        let system = System::start();
        let address = echo(&system).await;
        let policy = Policy { idle: SHORT, ..Policy::UDP };
        system.table.serve(service(3), policy.clone(), &[Target::Local(address)]);
        system.table.serve(service(4), policy, &[far(address)]);
        for (n, ended) in [(3, 1), (4, 3)] {
            let client = bind("0.0.0.0:0").await;
            ask(&client, service(n), b"x").await;
            until("it has ended", || system.metric("flows_ended_total{reason=\"idle\"}") == ended).await;
            until("it has no place", || system.metric("flows") == 0).await;
            ask(&client, service(n), b"y").await;
            until("this one too", || system.metric("flows") == 0).await;
            until("and at the other end", || crate::common::value(&system.far_registry, "streams") == 0).await;
            assert_eq!(system.metric("flows_ended_total{reason=\"idle\"}"), ended + 1);
            assert_eq!(system.table.in_flight(0), 0);
        }
    });
}

#[test]
fn a_backend_that_is_gone_ends_the_flow_and_the_next_datagram_chooses_anew() {
    redirected(|| async {
        let system = System::start();
        let address = echo(&system).await;
        let gone = bind("127.0.0.1:0").await.local_addr().unwrap();
        system.endpoints.add(Protocol::Udp, gone, Policy::UDP);
        for (n, dead, alive) in [(3, Target::Local(gone), Target::Local(address)), (4, far(gone), far(address))] {
            system.table.serve(service(n), Policy::UDP, &[dead]);
            let client = bind("0.0.0.0:0").await;
            client.send_to(b"lost", service(n)).await.unwrap();
            let before = u64::from(n) - 3;
            until("it has ended", || system.metric("flows_ended_total{reason=\"backend\"}") == before + 1).await;
            until("it has no place", || system.metric("flows") == before).await;
            let broken = |f: &&Feedback| matches!(f, Feedback::Closed { broken: true, .. });
            assert_eq!(system.table.feedback_of(0).iter().filter(broken).count() as u64, before + 1);
            system.table.serve(service(n), Policy::UDP, &[alive]);
            ask(&client, service(n), b"here").await;
        }
    });
}

#[test]
fn a_flow_whose_backend_is_slow_drops_and_holds_up_nobody() {
    redirected(|| async {
        let system = System::start();
        let address = echo(&system).await;
        // A node to which no stream opens.
        let stuck = at("stuck", Header::new(Protocol::Udp, TunnelTarget::Endpoint(address)));
        system.table.serve(service(3), Policy::UDP, &[stuck]);
        let client = bind("0.0.0.0:0").await;
        for _ in 0..1_000 {
            client.send_to(&[7; 1_000], service(3)).await.unwrap();
        }
        // The first is with the flow, 128 wait.
        until("the rest is dropped", || system.metric("datagrams_dropped_total{reason=\"queue\"}") == 1_000 - 129)
            .await;
        ask(&bind("0.0.0.0:0").await, service(1), b"others").await;
    });
}

#[test]
fn what_nobody_serves_is_dropped_and_asked_about_once() {
    redirected(|| async {
        let system = System::start();
        let address = echo(&system).await;
        let client = bind("0.0.0.0:0").await;
        for _ in 0..50 {
            client.send_to(b"x", service(99)).await.unwrap();
        }
        until("all are dropped", || system.metric("datagrams_dropped_total{reason=\"unserved\"}") == 50).await;
        assert_eq!(system.metric("refused_total{reason=\"no_service\"}"), 1);
        until("it is forgotten", || system.metric("flows") == 0).await;
        system.table.serve(service(99), Policy::UDP, &[Target::Local(address)]);
        ask(&client, service(99), b"here").await;

        // To the listener itself: there is nobody to pass it on to.
        client.send_to(b"x", SocketAddr::from(([127, 0, 0, 1], crate::common::PORT))).await.unwrap();
        until("it is dropped", || system.metric("datagrams_dropped_total{reason=\"no_destination\"}") == 1).await;
    });
}
