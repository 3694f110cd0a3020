//! What gateways let out, families, multicast, and the size of packets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::IpMtu;
use skerry_lab::{Cable, Egress, Families, Host, Lab, Nat, Network, Place, Site, Topology, Uplink, lan, pair};
use socket2::SockRef;

use crate::probe::{LONG, listen, one_processor, receive, seen, tcp, udp, until_last};

const ANY4: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 0);
/// As mDNS.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Of IPv4 and UDP. The kernel sets DF on what fits its own cable.
const HEADERS: usize = 20 + 8;

#[test]
fn egress_is_limited_as_said() {
    one_processor();
    let home = |name, egress| Network::behind(name, Nat::PORT_RESTRICTED).egress(egress);
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(home("open-home", Egress::Any).families(Families::Dual))
        .network(home("no-udp-home", Egress::NoUdp).families(Families::Dual))
        .network(home("https-home", Egress::Https).families(Families::Dual))
        .host(Host::inside("open", "open-home"))
        .host(Host::inside("no-udp", "no-udp-home"))
        .host(Host::inside("https", "https-home"));
    let lab = Lab::build(&topology).unwrap();
    for address in lab.addresses("server").unwrap() {
        let server = udp(&lab, "server", (address, 443));
        let (https, other) = (listen(&lab, "server", (address, 443)), listen(&lab, "server", (address, 444)));
        let any: SocketAddr = if address.is_ipv4() { ANY4.into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        for (host, datagrams, any_port) in [("open", true, true), ("no-udp", false, true), ("https", false, false)] {
            udp(&lab, host, any).send_to(host.as_bytes(), (address, 443)).unwrap();
            udp(&lab, "open", any).send_to(b"last", (address, 443)).unwrap();
            assert_eq!(until_last(&server).len(), usize::from(datagrams), "{host} at {address}");
            tcp(&lab, host, https.local_addr().unwrap(), true);
            tcp(&lab, host, other.local_addr().unwrap(), any_port);
        }
    }
}

#[test]
fn families_are_those_of_the_network() {
    one_processor();
    let lab = Lab::build(&pair(Site::V6Only, Site::DualStack)).unwrap();
    let addresses = lab.addresses("relay-1").unwrap();
    let (v4, v6) = (addresses[0], addresses[2]);
    assert!(v4.is_ipv4() && v6.is_ipv6());
    let unreachable = lab.in_host("left", || std::net::UdpSocket::bind(ANY4).unwrap().connect((v4, 1))).unwrap();
    assert_eq!(unreachable.unwrap_err().kind(), std::io::ErrorKind::NetworkUnreachable);
    let server = udp(&lab, "relay-1", (v6, 3478));
    for host in ["left", "right"] {
        let client = udp(&lab, host, (Ipv6Addr::UNSPECIFIED, 4001));
        // No translation.
        let own = lab.addresses(host).unwrap().into_iter().find(std::net::IpAddr::is_ipv6).unwrap();
        assert_eq!(seen(&client, &server), SocketAddr::new(own, 4001), "{host}");
        // And a firewall.
        tcp(&lab, "relay-1", SocketAddr::new(own, 22), false);
    }
    assert!(lab.address("right").unwrap().is_ipv4());
}

#[test]
fn multicast_reaches_neighbours_or_nobody() {
    for multicast in [true, false] {
        one_processor();
        let lab = Lab::build(&lan(multicast)).unwrap();
        let (left, right) = (lab.addresses("left").unwrap(), lab.addresses("right").unwrap());
        let listener = udp(&lab, "right", (Ipv4Addr::UNSPECIFIED, 5353));
        let std::net::IpAddr::V4(own) = right[0] else { panic!("{right:?}") };
        lab.in_host("right", || listener.join_multicast_v4(&GROUP, &own)).unwrap().unwrap();
        let speaker = udp(&lab, "left", (left[0], 0));
        speaker.send_to(b"who is there", (GROUP, 5353)).unwrap();
        // Neighbours reach each other all the same.
        speaker.send_to(b"last", (own, 5353)).unwrap();
        assert_eq!(until_last(&listener).len(), usize::from(multicast));

        let listener = udp(&lab, "right", (Ipv6Addr::UNSPECIFIED, 5354));
        let index = |host: &str| {
            let index = lab.in_host(host, || std::fs::read_to_string("/proc/thread-self/net/igmp6")).unwrap().unwrap();
            let line = index.lines().find(|line| line.contains("eth0")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u32>().unwrap()
        };
        let interface = index("right");
        lab.in_host("right", || listener.join_multicast_v6(&GROUP6, interface)).unwrap().unwrap();
        let speaker = udp(&lab, "left", (left[1], 0));
        let group = std::net::SocketAddrV6::new(GROUP6, 5354, 0, index("left"));
        speaker.send_to(b"who is there", group).unwrap();
        speaker.send_to(b"last", (right[1], 5354)).unwrap();
        assert_eq!(until_last(&listener).len(), usize::from(multicast));
    }
}

#[test]
fn packets_above_the_mtu_do_not_pass() {
    one_processor();
    let small = Cable { mtu: 1280, ..Cable::default() };
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(Network::behind("home", Nat::PORT_RESTRICTED).cable(small))
        .host(Host::inside("a", "home"));
    let lab = Lab::build(&topology).unwrap();
    let server = udp(&lab, "server", (lab.address("server").unwrap(), 3478));
    let client = udp(&lab, "a", ANY4);
    let to = server.local_addr().unwrap();
    let mapped = seen(&client, &server);
    client.connect(to).unwrap();
    let datagram = |size: usize| vec![b'x'; size - HEADERS];
    // Outwards the gateway's cable is too small, inwards the internet's: the router before it drops and says so.
    server.connect(mapped).unwrap();
    for (from, at) in [(&client, &server), (&server, &client)] {
        from.send(&datagram(1280)).unwrap();
        assert_eq!(receive(at).0.len(), 1280 - HEADERS);
        from.send(&datagram(1281)).unwrap();
        assert_eq!(from.send(b"refused").unwrap_err().raw_os_error(), Some(nix::libc::EMSGSIZE));
        assert_eq!(getsockopt(from, IpMtu).unwrap(), 1280);
        from.send(b"last").unwrap();
        assert!(until_last(at).is_empty());
    }
}

#[test]
fn tcp_finds_the_mtu_of_the_path() {
    let small = Cable { mtu: 1280, ..Cable::default() };
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(Network::behind("home", Nat::SYMMETRIC).cable(small))
        .host(Host::inside("a", "home"));
    let lab = Lab::build(&topology).unwrap();
    let listener: TcpListener = listen(&lab, "server", (lab.address("server").unwrap(), 443));
    let to = listener.local_addr().unwrap();
    let mut stream = lab.in_host("a", || TcpStream::connect_timeout(&to, LONG)).unwrap().unwrap();
    let sink =
        std::thread::spawn(move || std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap());
    std::io::Write::write_all(&mut stream, &vec![7; 1 << 20]).unwrap();
    let segment = SockRef::from(&stream).tcp_mss().unwrap();
    drop(stream);
    assert_eq!(sink.join().unwrap(), 1 << 20);
    assert!(segment <= 1280 - 40, "{segment}");
}

#[test]
fn private_addresses_are_not_routed_and_may_be_the_same() {
    one_processor();
    let home = |name| Network {
        uplink: Some(Uplink { to: Place::Internet, cable: Cable::default(), nat: Nat::FULL_CONE, egress: Egress::Any }),
        ..Network::isolated(name).subnet([192, 168, 1])
    };
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(home("left-home"))
        .network(home("right-home"))
        .host(Host::inside("left", "left-home"))
        .host(Host::inside("right", "right-home"));
    let lab = Lab::build(&topology).unwrap();
    assert_eq!(lab.address("left").unwrap(), lab.address("right").unwrap());
    let server = udp(&lab, "server", (lab.address("server").unwrap(), 3478));
    let mapped = ["left", "right"].map(|host| seen(&udp(&lab, host, ANY4), &server));
    assert_ne!(mapped[0].ip(), mapped[1].ip());
    // A private address of elsewhere leads nowhere.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 168, 77, 10), 22));
    tcp(&lab, "left", elsewhere, false);
}

#[test]
fn an_isolated_network_has_no_way_out() {
    let topology = Topology::new()
        .host(Host::public("server"))
        .network(Network::isolated("island"))
        .host(Host::inside("a", "island"))
        .host(Host::inside("b", "island"));
    let lab = Lab::build(&topology).unwrap();
    tcp(&lab, "a", SocketAddr::new(lab.address("server").unwrap(), 443), false);
    let listener = listen(&lab, "b", (lab.address("b").unwrap(), 443));
    tcp(&lab, "a", listener.local_addr().unwrap(), true);
}
