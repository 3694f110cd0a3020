//! What the proxy bounds: silence, numbers, and its own end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::drain::Drained;
use skerry_mesh_core::{Header, Protocol, ProxyInfo, ProxyProtocol, Target as TunnelTarget};
use skerry_mesh_proxy::{Choice, Limits, Policy, Target, Unserved};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{SOON, System, Table, at, at_b, plan, redirected, service, service6, until, value};
use crate::tcp::{accept, all, backend, connect, is_refused, is_reset};

/// So short that a test can wait for it, and long enough for a busy machine to answer sooner.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(600);

/// Silent and idle connections of a test that is about something else last for long.
fn policy() -> Policy {
    Policy { silent: LONG, idle: LONG, half_open: LONG, ..Policy::TCP }
}

#[test]
fn silence_has_a_deadline_of_its_own_in_each_state() {
    redirected(|| async {
        let system = System::start();
        let listener = backend(&system).await;
        let target = Target::Local(listener.local_addr().unwrap());
        let serve = |n, policy| system.table.serve(service(n), policy, std::slice::from_ref(&target));
        serve(3, Policy { silent: SHORT, ..policy() });
        serve(4, Policy { idle: SHORT, ..policy() });
        serve(5, Policy { half_open: SHORT, ..policy() });

        // A client that sends nothing, and a backend that says nothing.
        let mut client = connect(service(3)).await;
        let mut served = accept(&listener).await;
        is_reset(&mut client).await;
        is_reset(&mut served).await;
        let mut client = connect(service(3)).await;
        client.write_all(b"question").await.unwrap();
        is_reset(&mut client).await;
        drop(accept(&listener).await);

        // Both have spoken: the other deadline.
        let mut client = connect(service(4)).await;
        let mut served = accept(&listener).await;
        client.write_all(b"question").await.unwrap();
        served.write_all(b"answer").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

        let mut client = connect(service(5)).await;
        let mut served = accept(&listener).await;
        client.shutdown().await.unwrap();
        assert_eq!(served.read(&mut [0; 8]).await.unwrap(), 0);
        is_reset(&mut client).await;

        until("all have ended", || system.metric("connections") == 0).await;
        for (reason, count) in [("silent", 2), ("idle", 1), ("half_open", 1)] {
            assert_eq!(system.metric(&format!("connections_ended_total{{reason=\"{reason}\"}}")), count, "{reason}");
        }
    });
}

#[test]
fn a_deadline_of_silence_is_put_off_by_every_byte() {
    redirected(|| async {
        let system = System::start();
        let listener = backend(&system).await;
        let target = Target::Local(listener.local_addr().unwrap());
        system.table.serve(service(3), Policy { silent: 2 * SHORT, idle: 2 * SHORT, ..policy() }, &[target]);
        let mut client = connect(service(3)).await;
        let mut served = accept(&listener).await;
        // Ten times half the deadline, in one direction only.
        for _ in 0..10 {
            served.write_all(b".").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            tokio::time::sleep(SHORT).await;
        }
        assert_eq!(system.metric("connections"), 1);
    });
}

#[test]
fn a_connection_over_the_limit_is_reset_and_its_place_comes_back() {
    redirected(|| async {
        let limits = Limits { connections: 2, ..Limits::default() };
        let system = System::with(Table::default(), limits, SOON);
        let listener = backend(&system).await;
        let (first, served) = (connect(service(1)).await, accept(&listener).await);
        let (_second, _other) = (connect(service(1)).await, accept(&listener).await);
        is_refused(service(1)).await;
        assert_eq!(system.metric("connections_shed_total"), 1);
        drop((first, served));
        until("its place is free", || system.metric("connections") < 2).await;
        let mut third = connect(service(1)).await;
        accept(&listener).await.write_all(b"here").await.unwrap();
        assert_eq!(all(&mut third).await.unwrap(), b"here");
    });
}

/// A thousand clients that send nothing and a thousand backends that say nothing keep nobody waiting. The
/// control: they are there, each in its place, and with as few places as they are the next one gets none.
#[test]
fn a_thousand_silent_clients_and_backends_keep_nobody_waiting() {
    const EACH: usize = 1_000;
    redirected(|| async {
        let limits = Limits { connections: 2 * EACH + 50, ..Limits::default() };
        let system = System::with(Table::default(), limits, SOON);
        let busy = backend(&system).await;
        // A backend that accepts and says nothing: the kernel accepts for it.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Local(silent.local_addr().unwrap());
        system.table.serve(service(3), policy(), std::slice::from_ref(&target));
        let hold = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = silent.accept().await {
                held.push(stream);
            }
        });
        let mut clients = Vec::new();
        for number in 0..2 * EACH {
            let mut client = connect(service(3)).await;
            if number % 2 == 0 {
                client.write_all(b"question").await.unwrap();
            }
            clients.push(client);
        }
        until("all are there", || system.metric("connections") == 2 * EACH as u64).await;
        until("all are connected", || system.table.in_flight(0) == 2 * EACH as i64).await;

        // The others work.
        let serve = tokio::spawn(async move {
            loop {
                let mut served = accept(&busy).await;
                let mut question = [0; 8];
                served.read_exact(&mut question).await.unwrap();
                served.write_all(&question).await.unwrap();
            }
        });
        for _ in 0..50 {
            let mut client = connect(service(1)).await;
            client.write_all(b"question").await.unwrap();
            assert_eq!(all(&mut client).await.unwrap(), b"question");
        }
        // The control: the places are bounded, and they have them.
        for _ in 0..50 {
            clients.push(connect(service(3)).await);
        }
        until("all places are taken", || system.metric("connections") == 2 * EACH as u64 + 50).await;
        is_refused(service(1)).await;
        hold.abort();
        serve.abort();
    });
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// All of them with a full buffer: the client sends as long as anybody takes it, and the backend reads nothing.
/// The test's own ends are in what is measured.
#[test]
fn a_thousand_streams_that_are_stuck_hold_twenty_megabytes_at_most() {
    const STREAMS: usize = 1_000;
    redirected(|| async {
        // Of this namespace: the kernel's own buffers are not the subject.
        for of in ["tcp_rmem", "tcp_wmem"] {
            std::fs::write(format!("/proc/sys/net/ipv4/{of}"), "4096 32768 32768").unwrap();
        }
        let system = System::start();
        let listener = backend(&system).await;
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        let bytes = vec![7; 256 * 1024];
        let before = resident();
        for _ in 0..STREAMS {
            clients.push(connect(service(1)).await);
            served.push(accept(&listener).await);
        }
        let idle = resident();
        // Until none of them takes a byte more.
        let mut stuck = 0;
        while stuck < 2 {
            stuck += 1;
            for client in &clients {
                while client.try_write(&bytes).is_ok_and(|wrote| wrote > 0) {
                    stuck = 0;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let full = resident();
        println!("{STREAMS} streams: {} KB idle, {} KB stuck", (idle - before) / 1024, (full - before) / 1024);
        assert!(full - before <= 20 << 20, "{} bytes", full - before);
        drop((clients, served));
        until("all have ended", || system.metric("connections") == 0).await;
    });
}

#[test]
fn a_drain_lets_connections_end_and_resets_what_is_left() {
    redirected(|| async {
        let System { table, endpoints, proxy, registry, far_registry, trigger, stop } =
            System::with(Table::default(), Limits::default(), 2 * SHORT);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Local(listener.local_addr().unwrap());
        table.serve(service(1), policy(), &[target]);
        let address = listener.local_addr().unwrap();
        endpoints.add(Protocol::Tcp, address, policy());
        table.serve(service(2), policy(), &[at_b(address)]);
        let (mut ends, mut e) = (connect(service(1)).await, accept(&listener).await);
        let (mut stays, mut s) = (connect(service(1)).await, accept(&listener).await);
        let (mut far, mut f) = (connect(service(2)).await, accept(&listener).await);
        let drained = tokio::spawn(trigger.drain());
        until("no new ones", || stop.is_stopping()).await;
        e.write_all(b"last words").await.unwrap();
        drop(e);
        assert_eq!(all(&mut ends).await.unwrap(), b"last words");
        drop(ends);
        for stream in [&mut stays, &mut far, &mut s, &mut f] {
            is_reset(stream).await;
        }
        assert_eq!(drained.await.unwrap(), Drained::Forced);
        assert_eq!(TcpStream::connect(service(1)).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        until("all have ended", || value(&registry, "connections") + value(&far_registry, "streams") == 0).await;
        drop(proxy);
    });
}

#[test]
fn a_backend_is_told_who_its_client_is_on_request() {
    redirected(|| async {
        let system = System::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Local(listener.local_addr().unwrap());
        for address in [service(1), service6(1)] {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let policy = Policy { proxy_protocol: Some(version), ..policy() };
                system.table.serve(address, policy, std::slice::from_ref(&target));
                let mut client = connect(address).await;
                let own = client.local_addr().unwrap();
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let said = all(&mut accept(&listener).await).await.unwrap();
                assert!(said.ends_with(b"question"));
                let (source, destination) = match ppp::HeaderResult::parse(&said) {
                    ppp::HeaderResult::V1(Ok(header)) => v1(header.addresses),
                    ppp::HeaderResult::V2(Ok(header)) => v2(header.addresses),
                    other => panic!("{other:?}"),
                };
                assert_eq!((source, destination), (own, address), "{version:?}");
            }
        }
    });
}

fn v1(addresses: ppp::v1::Addresses) -> (SocketAddr, SocketAddr) {
    use ppp::v1::Addresses;
    match addresses {
        Addresses::Tcp4(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        Addresses::Tcp6(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        Addresses::Unknown => panic!("unknown"),
    }
}

fn v2(addresses: ppp::v2::Addresses) -> (SocketAddr, SocketAddr) {
    use ppp::v2::Addresses;
    match addresses {
        Addresses::IPv4(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        Addresses::IPv6(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_choice_can_wait_for_the_first_bytes_and_they_are_not_lost() {
    redirected(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Local(listener.local_addr().unwrap());
        let to = plan(policy(), &[target]);
        let table = Table::deciding(Box::new(move |_, seen| {
            Some(if seen.bytes.ends_with(b"\r\n\r\n") || seen.bytes.is_empty() && !seen.more {
                Choice::Serve(to.clone())
            } else if seen.more {
                Choice::Peek
            } else {
                Choice::Refuse(Unserved::Denied)
            })
        }));
        let system = System::with(table, Limits::default(), SOON);
        let mut client = connect(service(1)).await;
        for part in [b"GET / HTTP/1.1\r\n".as_slice(), b"host: a\r\n", b"\r\n"] {
            client.write_all(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut served = accept(&listener).await;
        client.write_all(b"body").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut served).await.unwrap(), b"GET / HTTP/1.1\r\nhost: a\r\n\r\nbody");

        // A client that waits for the server to speak first gets it, after the deadline.
        let mut client = connect(service(1)).await;
        accept(&listener).await.write_all(b"banner").await.unwrap();
        assert_eq!(all(&mut client).await.unwrap(), b"banner");

        // One that never says what decides is refused, when the buffer is full.
        let mut client = connect(service(1)).await;
        let _ = client.write_all(&[b'x'; 64 * 1024]).await;
        is_reset(&mut client).await;
        until("it is counted", || system.metric("refused_total{reason=\"denied\"}") == 1).await;
    });
}

/// Through the tunnel it is in the header, and the other node says it.
#[test]
fn a_backend_behind_the_tunnel_is_told_who_its_client_is() {
    redirected(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let table = Table::deciding(Box::new(move |flow, _| {
            let info = ProxyInfo { version: ProxyProtocol::V1, source: flow.client, destination: service(1) };
            let header = Header { proxy: Some(info), ..Header::new(Protocol::Tcp, TunnelTarget::Endpoint(address)) };
            Some(Choice::Serve(plan(policy(), &[at("b", header)])))
        }));
        let system = System::with(table, Limits::default(), SOON);
        system.endpoints.add(Protocol::Tcp, address, policy());
        let mut client = connect(service(1)).await;
        client.shutdown().await.unwrap();
        let said = all(&mut accept(&listener).await).await.unwrap();
        let own = client.local_addr().unwrap();
        let expected = format!("PROXY TCP4 {} 10.96.0.1 {} 80\r\n", own.ip(), own.port());
        assert_eq!(String::from_utf8(said).unwrap(), expected);
    });
}
