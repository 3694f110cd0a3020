//! Flows that are there: they outlive the agent, and those of UDP do not outlive their backend.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use skerry_mesh_netfilter::{Netfilter, Protocol};

use crate::lab::{Lab, exchange, pod_address, pod_address6};
use crate::services::{config, frontend, service, state};

#[tokio::test]
async fn a_datagram_is_not_sent_to_a_backend_that_has_gone() {
    let lab = Lab::new();
    for at in 1..=2 {
        lab.pod(at).serve(&format!("pod{at}"), 53);
    }
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let served_by = |at: usize| {
        let (v4, v6) = (format!("{}:53", pod_address(at)), format!("[{}]:53", pod_address6(at)));
        state([
            (frontend("10.96.0.1", Protocol::Udp, 53), service(&[&v4])),
            (frontend("fd96::1", Protocol::Udp, 53), service(&[&v6])),
            (frontend("node", Protocol::Udp, 30_053), service(&[&v4])),
        ])
    };
    let ways = [
        (lab.pod(3).udp(false), "10.96.0.1:53"),
        (lab.lan().udp(false), "10.96.0.1:53"),
        (lab.node().udp(false), "10.96.0.1:53"),
        (lab.pod(3).udp(true), "[fd96::1]:53"),
        (lab.lan().udp(false), "192.168.77.1:30053"),
    ];
    for at in [1, 2, 1] {
        netfilter.apply(served_by(at)).await.unwrap();
        for (socket, vip) in &ways {
            // The same socket, so the same flow.
            let answer = exchange(socket, vip).unwrap();
            assert!(answer.starts_with(&format!("pod{at} ")), "{vip}: {answer}");
        }
    }
    // Nobody serves: the client hears of it.
    let nobody = ["10.96.0.1", "fd96::1"].map(|at| (frontend(at, Protocol::Udp, 53), service(&[])));
    netfilter.apply(state(nobody)).await.unwrap();
    for (socket, vip) in &ways[..4] {
        let error = exchange(socket, vip).unwrap_err().kind();
        assert!(matches!(error, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied), "{vip}: {error}");
    }
}

#[tokio::test]
async fn a_flow_from_before_its_service_is_dispatched_when_the_service_comes() {
    let lab = Lab::new();
    lab.pod(1).serve("pod1", 53);
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(state([])).await.unwrap();
    let socket = lab.pod(3).udp(false);
    socket.connect("10.96.0.1:53").unwrap();
    socket.send(b"?").unwrap();
    let to_pod = service(&[&format!("{}:53", pod_address(1))]);
    netfilter.apply(state([(frontend("10.96.0.1", Protocol::Udp, 53), to_pod)])).await.unwrap();
    // The first datagram may have been answered by a router that knows no such address.
    let _ = socket.take_error();
    let answer = exchange(&socket, "10.96.0.1:53").or_else(|_| exchange(&socket, "10.96.0.1:53")).unwrap();
    assert!(answer.starts_with("pod1 "), "{answer}");
}

fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    let mut byte = [0];
    for stream in [&*client, &*server] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    client.write_all(b"a").unwrap();
    server.read_exact(&mut byte).unwrap();
    server.write_all(b"b").unwrap();
    client.read_exact(&mut byte).unwrap();
}

#[tokio::test]
async fn connections_go_on_without_the_agent_and_across_its_upgrade() {
    let lab = Lab::new();
    let any: SocketAddr = "0.0.0.0:8080".parse().unwrap();
    let listener = lab.pod(1).run(move || TcpListener::bind(any).unwrap());
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let want = || {
        let to_pod = service(&[&format!("{}:8080", pod_address(1))]);
        state([(frontend("10.96.0.1", Protocol::Tcp, 80), to_pod)])
    };
    netfilter.apply(want()).await.unwrap();
    let vip: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let mut client = lab.lan().run(move || TcpStream::connect(vip).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    talk(&mut client, &mut server);
    drop(netfilter);
    talk(&mut client, &mut server);
    // A dead agent takes no new connections away either.
    let mut late = lab.lan().run(move || TcpStream::connect(vip).unwrap());
    let (mut late_server, _) = listener.accept().unwrap();
    talk(&mut late, &mut late_server);
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(want()).await.unwrap();
    talk(&mut client, &mut server);
    netfilter.apply(state([])).await.unwrap();
    talk(&mut client, &mut server);
    talk(&mut late, &mut late_server);
}
