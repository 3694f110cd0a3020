//! NATs: mapping, filtering, ports and hair-pinning.

use std::net::{Ipv4Addr, SocketAddr};

use skerry_lab::{Behaviour, Host, Lab, Nat, Network, Topology, shared_carrier};

use crate::probe::{LONG, Servers, connect, listen, one_processor, receive, seen, tcp, udp, until_last};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 0);
/// A port that two neighbours use at once.
const COMMON: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 4001);
const BEHAVIOURS: [Behaviour; 3] =
    [Behaviour::EndpointIndependent, Behaviour::AddressDependent, Behaviour::AddressAndPortDependent];

/// Two neighbours behind a NAT, and a server with two addresses.
fn neighbours(nat: Nat) -> Lab {
    one_processor();
    let topology = Topology::new()
        .host(Host::public("server").addresses(2))
        .network(Network::behind("home", nat))
        .host(Host::inside("a", "home"))
        .host(Host::inside("b", "home"));
    Lab::build(&topology).unwrap()
}

#[test]
fn every_mapping_and_filter_is_what_it_is_called() {
    for mapping in BEHAVIOURS {
        for filtering in BEHAVIOURS {
            let lab = neighbours(Nat { mapping, filtering, ..Nat::FULL_CONE });
            let servers = Servers::new(&lab, "server", false);
            let measured = (servers.mapping(&udp(&lab, "a", ANY)), servers.filtering(&udp(&lab, "a", ANY)));
            assert_eq!(measured, (mapping, filtering));
            // The source is the gateway's.
            assert_eq!(seen(&udp(&lab, "a", ANY), &servers.first).ip(), lab.address("home").unwrap());
        }
    }
}

#[test]
fn names_are_those_of_rfc_3489() {
    use Behaviour::{AddressAndPortDependent as Both, AddressDependent as Address, EndpointIndependent as None};
    let cones = [(Nat::FULL_CONE, None), (Nat::RESTRICTED, Address), (Nat::PORT_RESTRICTED, Both)];
    for (nat, filtering) in cones {
        assert_eq!((nat.mapping, nat.filtering), (None, filtering));
    }
    assert_eq!((Nat::SYMMETRIC.mapping, Nat::SYMMETRIC.filtering), (Both, Both));
}

#[test]
fn without_a_nat_nothing_is_measured_that_is_not_there() {
    one_processor();
    let topology = Topology::new().host(Host::public("server").addresses(2)).host(Host::public("a"));
    let lab = Lab::build(&topology).unwrap();
    for v6 in [false, true] {
        let address = lab.addresses("a").unwrap().into_iter().find(|a| a.is_ipv6() == v6).unwrap();
        let servers = Servers::new(&lab, "server", v6);
        assert_eq!(servers.mapping(&udp(&lab, "a", (address, 0))), Behaviour::EndpointIndependent);
        assert_eq!(servers.filtering(&udp(&lab, "a", (address, 0))), Behaviour::EndpointIndependent);
        let client = udp(&lab, "a", (address, 4001));
        assert_eq!(seen(&client, &servers.first), SocketAddr::new(address, 4001));
    }
}

#[test]
fn neighbours_with_the_same_port_are_told_apart() {
    for nat in [Nat::FULL_CONE, Nat::RESTRICTED, Nat::PORT_RESTRICTED] {
        let lab = neighbours(nat);
        let servers = Servers::new(&lab, "server", false);
        let (a, b) = (udp(&lab, "a", COMMON), udp(&lab, "b", COMMON));
        let mapped = [&a, &b].map(|client| seen(client, &servers.first));
        assert_eq!(mapped[0].port(), COMMON.1, "kept for the first");
        assert_ne!(mapped[0], mapped[1]);
        // Also where the kernel could use one port for both, because the destinations differ.
        assert_eq!(seen(&b, &servers.address), mapped[1]);
        assert_eq!(seen(&a, &servers.port), mapped[0]);
        for (client, mapped, text) in [(&a, mapped[0], "for a"), (&b, mapped[1], "for b")] {
            servers.first.send_to(text.as_bytes(), mapped).unwrap();
            assert_eq!(receive(client).0, text);
        }
    }
}

#[test]
fn ports_are_random_where_they_should_be() {
    for nat in [Nat::PORT_RESTRICTED.random_ports(), Nat::SYMMETRIC] {
        let lab = neighbours(nat);
        let servers = Servers::new(&lab, "server", false);
        let clients: Vec<_> = (0..8).map(|n| udp(&lab, "a", (Ipv4Addr::UNSPECIFIED, 5000 + n))).collect();
        let kept = clients.iter().filter(|c| seen(c, &servers.first).port() == c.local_addr().unwrap().port()).count();
        assert!(kept <= 1, "{kept} of 8 kept");
        assert_eq!(servers.mapping(&clients[0]), nat.mapping);
    }
}

#[test]
fn hair_pinning_shows_the_outside_address_to_the_neighbour() {
    for filtering in BEHAVIOURS {
        for hairpin in [true, false] {
            let lab = neighbours(Nat { filtering, hairpin, ..Nat::FULL_CONE });
            let servers = Servers::new(&lab, "server", false);
            let (a, b) = (udp(&lab, "a", COMMON), udp(&lab, "b", COMMON));
            let mapped = [&a, &b].map(|client| seen(client, &servers.first));
            // The first one opens the way for the second where the filter asks for that.
            a.send_to(b"a", mapped[1]).unwrap();
            b.send_to(b"b", mapped[0]).unwrap();
            a.send_to(b"a again", mapped[1]).unwrap();
            for (client, mapped) in [(&a, mapped[0]), (&b, mapped[1])] {
                servers.first.send_to(b"last", mapped).unwrap();
                client.set_read_timeout(Some(LONG)).unwrap();
            }
            let at_a: Vec<_> =
                std::iter::from_fn(|| Some(receive(&a))).take_while(|(text, _)| text != "last").collect();
            let at_b = until_last(&b);
            if hairpin {
                assert_eq!(at_a, [("b".to_owned(), mapped[1])], "{filtering:?}: from outside, RFC 4787 REQ-9");
                let open = filtering == Behaviour::EndpointIndependent;
                assert_eq!(at_b, if open { vec!["a", "a again"] } else { vec!["a again"] }, "{filtering:?}");
            } else {
                assert!(at_a.is_empty() && at_b.is_empty(), "{filtering:?} {at_a:?} {at_b:?}");
            }
        }
    }
}

#[test]
fn homes_behind_one_carrier_meet_by_its_hair_pin_alone() {
    for hairpin in [true, false] {
        one_processor();
        let lab = Lab::build(&shared_carrier(hairpin)).unwrap();
        let servers = Servers::new(&lab, "relay-1", false);
        let (left, right) = (udp(&lab, "left", COMMON), udp(&lab, "right", COMMON));
        assert_eq!(servers.mapping(&left), Behaviour::EndpointIndependent);
        assert_eq!(servers.filtering(&udp(&lab, "left", ANY)), Behaviour::AddressAndPortDependent);
        let mapped = [&left, &right].map(|client| seen(client, &servers.first));
        assert_eq!(mapped[0].ip(), lab.address("carrier").unwrap());
        assert_ne!(mapped[0], mapped[1]);
        for _ in 0..2 {
            left.send_to(b"left", mapped[1]).unwrap();
            right.send_to(b"right", mapped[0]).unwrap();
        }
        servers.first.send_to(b"last", mapped[0]).unwrap();
        let arrived = until_last(&left);
        assert_eq!(!arrived.is_empty(), hairpin, "{arrived:?}");
    }
}

#[test]
fn tcp_is_translated_by_the_same_rules() {
    for (nat, strangers) in [(Nat::FULL_CONE, true), (Nat::PORT_RESTRICTED, false), (Nat::SYMMETRIC, false)] {
        let lab = neighbours(nat);
        let addresses = lab.addresses("server").unwrap();
        let at = |address: usize, port: u16| listen(&lab, "server", (addresses[address], port));
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4001));
        let listeners = [at(0, 443), at(0, 444), at(1, 443)];
        let (streams, sources): (Vec<_>, Vec<_>) = listeners.iter().map(|to| connect(&lab, "a", local, to)).unzip();
        let same = sources.iter().all(|source| *source == sources[0]);
        assert_eq!(same, nat.mapping == Behaviour::EndpointIndependent, "{sources:?}");
        let inside = lab.in_host("a", || crate::probe::shared(local)).unwrap();
        inside.listen(8).unwrap();
        tcp(&lab, "server", sources[0], strangers);
        drop(streams);
    }
}

#[test]
fn a_new_address_outside_ends_mappings_and_begins_others() {
    for nat in [Nat::FULL_CONE, Nat::PORT_RESTRICTED, Nat::SYMMETRIC] {
        let mut lab = neighbours(nat.hairpin());
        let server = Servers::new(&lab, "server", false);
        let client = udp(&lab, "a", COMMON);
        let before = seen(&client, &server.first);
        let address = lab.renumber("home").unwrap()[0];
        let after = seen(&client, &server.first);
        assert_ne!(before.ip(), after.ip());
        assert_eq!(after.ip(), address);
        server.first.send_to(b"old", before).unwrap();
        server.first.send_to(b"last", after).unwrap();
        assert!(until_last(&client).is_empty());
        assert_eq!(server.filtering(&udp(&lab, "a", ANY)), nat.filtering);
        // And back.
        lab.renumber("home").unwrap();
        assert_eq!(seen(&client, &server.first).ip(), before.ip());
    }
}
