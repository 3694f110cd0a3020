//! What goes to the proxy says where it wanted to go.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use skerry_mesh_netfilter::{Config, Flows, Netfilter, Protocol, ProxyPorts};

use crate::lab::{Lab, exchange, pod_address};
use crate::services::{config, frontend, service, state};

const PORTS: ProxyPorts = ProxyPorts { tcp: 20_007, udp: 20_008 };

fn proxied() -> Config {
    Config { proxy: Some(PORTS), ..config() }
}

/// `SO_ORIGINAL_DST` of the next connection.
fn accepted_for(listener: &TcpListener) -> SocketAddr {
    let (stream, _) = listener.accept().unwrap();
    if stream.local_addr().unwrap().ip().to_canonical().is_ipv4() {
        let address = getsockopt(&stream, sockopt::OriginalDst).unwrap();
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        (ip, u16::from_be(address.sin_port)).into()
    } else {
        let address = getsockopt(&stream, sockopt::Ip6tOriginalDst).unwrap();
        (Ipv6Addr::from(address.sin6_addr.s6_addr), u16::from_be(address.sin6_port)).into()
    }
}

#[tokio::test]
async fn a_connection_to_the_proxy_knows_its_destination() {
    let lab = Lab::new();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORTS.tcp)).unwrap();
    let mut netfilter = Netfilter::open(proxied()).await.unwrap();
    let want = state([
        (frontend("10.96.0.1", Protocol::Tcp, 80), service(&[""])),
        (frontend("fd96::1", Protocol::Tcp, 80), service(&[""])),
        (frontend("node", Protocol::Tcp, 30_080), service(&[""])),
    ]);
    netfilter.apply(want).await.unwrap();
    for client in [lab.pod(1), lab.lan(), lab.node()] {
        for vip in ["10.96.0.1:80", "[fd96::1]:80", "192.168.77.1:30080"] {
            let to: SocketAddr = vip.parse().unwrap();
            let _stream = client.run(move || std::net::TcpStream::connect(to).unwrap());
            assert_eq!(accepted_for(&listener), to);
        }
    }
}

#[tokio::test]
async fn a_datagram_to_the_proxy_knows_its_destination_and_its_answer_finds_back() {
    let lab = Lab::new();
    let mut netfilter = Netfilter::open(proxied()).await.unwrap();
    let mut flows = Flows::open().unwrap();
    netfilter.apply(state([(frontend("10.96.0.1", Protocol::Udp, 53), service(&[""]))])).await.unwrap();
    // What a datagram was redirected to: the address of the interface that it came in by.
    for (client, local) in [(lab.pod(1), "10.244.1.1"), (lab.lan(), "192.168.77.1"), (lab.node(), "127.0.0.1")] {
        // Answers come from the address that was arrived at, as `IP_PKTINFO` lets one socket do for all.
        let local = SocketAddr::new(local.parse().unwrap(), PORTS.udp);
        let proxy = UdpSocket::bind(local).unwrap();
        proxy.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let socket = client.udp(false);
        socket.connect("10.96.0.1:53").unwrap();
        for round in 0..3 {
            socket.send(&[round]).unwrap();
            let mut buffer = [9; 8];
            let (size, from) = proxy.recv_from(&mut buffer).unwrap();
            assert_eq!((size, buffer[0]), (1, round));
            let to = flows.original_destination(from, local).unwrap();
            assert_eq!(to, "10.96.0.1:53".parse().unwrap());
            proxy.send_to(&[round + 100], from).unwrap();
            assert_eq!(socket.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], round + 100);
        }
    }
    let stranger = "10.244.1.11:4242".parse().unwrap();
    let error = flows.original_destination(stranger, "10.244.1.1:20008".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_service_may_have_backends_in_the_kernel_and_in_the_proxy() {
    let lab = Lab::new();
    lab.pod(2).serve("pod2", 8080);
    lab.node().serve("proxy", PORTS.tcp);
    lab.node().serve("proxy", PORTS.udp);
    let mut netfilter = Netfilter::open(proxied()).await.unwrap();
    let both = service(&[&format!("{}:8080", pod_address(2)), ""]);
    let want = [Protocol::Tcp, Protocol::Udp].map(|protocol| (frontend("10.96.0.1", protocol, 80), both.clone()));
    netfilter.apply(state(want)).await.unwrap();
    let all = BTreeSet::from(["pod2".to_owned(), "proxy".to_owned()]);
    let tcp: BTreeSet<_> = (0..40).map(|_| lab.pod(1).who("10.96.0.1:80")).collect();
    assert_eq!(tcp, all);
    let udp = (0..40).map(|_| {
        let answer = exchange(&lab.pod(1).udp(false), "10.96.0.1:80").unwrap();
        answer.split(' ').next().unwrap().to_owned()
    });
    assert_eq!(udp.collect::<BTreeSet<_>>(), all);
}

#[tokio::test]
async fn without_a_proxy_nothing_is_sent_there() {
    let _lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let error = netfilter.apply(state([(frontend("10.96.0.1", Protocol::Tcp, 80), service(&[""]))])).await;
    assert!(error.unwrap_err().to_string().contains("no proxy is configured"));
}
