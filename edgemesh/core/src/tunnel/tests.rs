//! Headers as bytes: round trips, limits, bytes of anybody; and who may go where.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use serde_json::json;
use skerry_common::{Key, NodeName, kinds};

use super::*;
use crate::table::{Filter, Protocol, ProxyProtocol, TableBuilder};

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (ip, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn header() -> impl Strategy<Value = Header> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let target = prop_oneof![address().prop_map(Target::Endpoint), (1..=u16::MAX).prop_map(Target::Node)];
    let version = prop_oneof![Just(ProxyProtocol::V1), Just(ProxyProtocol::V2)];
    let proxy = (version, address(), address()).prop_map(|(version, source, destination)| ProxyInfo {
        version,
        source,
        destination,
    });
    let trace = (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<bool>()).prop_map(|(trace_id, span_id, sampled)| Trace {
        trace_id,
        span_id,
        sampled,
    });
    (protocol, target, prop::option::of(proxy), prop::option::of(trace))
        .prop_map(|(protocol, target, proxy, trace)| Header { protocol, target, proxy, trace })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_and_nothing_behind_it(header in header(), behind in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = header.encode();
        let length = bytes.len();
        prop_assert!(length <= MAX_HEADER);
        bytes.extend(behind);
        prop_assert_eq!(Header::decode(&bytes), Ok(Some((header, length))));
    }

    #[test]
    fn a_header_in_parts_waits_for_the_rest(header in header()) {
        let bytes = header.encode();
        for end in 0..bytes.len() {
            prop_assert_eq!(Header::decode(&bytes[..end]), Ok(None));
        }
    }

    #[test]
    fn no_bytes_panic_or_wait_for_more_than_a_header(bytes in prop::collection::vec(any::<u8>(), 0..400), ours in any::<bool>()) {
        let mut bytes = bytes;
        if ours && !bytes.is_empty() {
            bytes[0] = VERSION;
        }
        match Header::decode(&bytes) {
            Ok(Some((header, length))) => {
                prop_assert!(length <= bytes.len() && length <= MAX_HEADER);
                prop_assert!(Header::decode(&header.encode()).is_ok());
            }
            Ok(None) => prop_assert!(bytes.len() < MAX_HEADER),
            Err(_) => {}
        }
        let _ = Reply::decode(&bytes);
    }

    #[test]
    fn one_changed_byte_is_another_header_or_none(header in header(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = header.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // The reserved bits of a trace's flags mean nothing.
        let flags = header.trace.is_some() && at + 1 == bytes.len() && bit > 0;
        if let Ok(Some((other, _))) = Header::decode(&bytes) {
            prop_assert_eq!(other == header, flags);
        }
    }
}

#[test]
fn the_bytes_never_change() {
    let header = Header::new(Protocol::Tcp, Target::Endpoint("10.1.0.7:8080".parse().unwrap()));
    assert_eq!(header.encode(), [1, 8, 6, 4, 10, 1, 0, 7, 0x1f, 0x90]);
    assert_eq!(Header::new(Protocol::Udp, Target::Node(22)).encode(), [1, 4, 17, 1, 0, 22]);
    let full = Header {
        proxy: Some(ProxyInfo {
            version: ProxyProtocol::V2,
            source: "[2001:db8::1]:1".parse().unwrap(),
            destination: "[2001:db8::2]:2".parse().unwrap(),
        }),
        trace: Some(Trace { trace_id: [7; 16], span_id: [8; 8], sampled: true }),
        ..header
    };
    assert_eq!(full.encode().len(), 2 + 1 + 7 + 2 + 39 + 2 + 25);
}

#[test]
fn what_is_no_header_is_refused() {
    for (bytes, wanted) in [
        (&[2, 0][..], HeaderError::Version(2)),
        (b"GET / HTTP/1.1\r\n", HeaderError::Version(b'G')),
        (&[1, 0], HeaderError::Truncated),
        (&[1, 3, 6, 1, 0], HeaderError::Truncated),
        (&[1, 4, 1, 1, 0, 22], HeaderError::Unknown),
        (&[1, 4, 6, 9, 0, 22], HeaderError::Unknown),
        (&[1, 4, 6, 1, 0, 0], HeaderError::Port),
        // An option that is longer than what is left, of the wrong length, unknown and critical, twice.
        (&[1, 6, 6, 1, 0, 22, 9, 1], HeaderError::Truncated),
        (&[1, 7, 6, 1, 0, 22, 2, 1, 0], HeaderError::Truncated),
        (&[1, 6, 6, 1, 0, 22, 0x90, 0], HeaderError::Option),
    ] {
        assert_eq!(Header::decode(bytes), Err(wanted), "{bytes:?}");
    }
    // An option that may be skipped is.
    let header = Header::new(Protocol::Tcp, Target::Node(22));
    assert_eq!(Header::decode(&[1, 7, 6, 1, 0, 22, 9, 1, 0]), Ok(Some((header, 9))));
    let trace = Trace { trace_id: [7; 16], span_id: [8; 8], sampled: true };
    let mut twice = Header { trace: Some(trace), ..header }.encode();
    let option = twice[6..].to_vec();
    twice.extend(option);
    twice[1] = u8::try_from(twice.len() - 2).unwrap();
    assert_eq!(Header::decode(&twice), Err(HeaderError::Option));
}

#[test]
fn replies_are_two_bytes() {
    use Refusal::{ConnectionRefused, Failed, Forbidden, Header as Unread, Overloaded, TimedOut, Unreachable};
    let refusals = [Forbidden, Unread, ConnectionRefused, TimedOut, Unreachable, Overloaded, Failed];
    for reply in refusals.map(Reply::Refused).into_iter().chain([Reply::Connected]) {
        assert_eq!(Reply::decode(&reply.encode()), Ok(Some(reply)));
        assert_eq!(Reply::decode(&reply.encode()[..1]), Ok(None));
    }
    assert_eq!(Reply::decode(&[1, 77]), Ok(Some(Reply::Refused(Failed))));
    assert_eq!(Reply::decode(&[3, 0]), Err(HeaderError::Version(3)));
}

#[test]
fn a_stream_leads_to_endpoints_of_this_node_only() {
    let mut builder = TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default());
    let service = json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}).to_string();
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "edge-1"},
        {"addresses": ["10.1.0.2"], "nodeName": "edge-2"}, {"addresses": ["192.0.2.9"]}]});
    builder.upsert(kinds::SERVICE, &Key::new("shop", "web"), service.as_bytes()).unwrap();
    builder.upsert(kinds::ENDPOINT_SLICE, &Key::new("shop", "web-1"), slice.to_string().as_bytes()).unwrap();
    let table = builder.snapshot();
    let ports = NodePorts([(Protocol::Tcp, 22)].into());
    let node = IpAddr::from(Ipv4Addr::LOCALHOST);
    let endpoint = |text: &str| Target::Endpoint(text.parse().unwrap());
    for (protocol, target, wanted) in [
        (Protocol::Tcp, endpoint("10.1.0.1:8080"), Some("10.1.0.1:8080")),
        (Protocol::Udp, endpoint("10.1.0.1:8080"), None),
        (Protocol::Tcp, endpoint("10.1.0.1:22"), None),
        (Protocol::Tcp, endpoint("10.1.0.2:8080"), None),
        (Protocol::Tcp, endpoint("192.0.2.9:8080"), None),
        (Protocol::Tcp, endpoint("10.96.0.1:80"), None),
        (Protocol::Tcp, endpoint("127.0.0.1:22"), None),
        (Protocol::Tcp, endpoint("169.254.169.254:80"), None),
        (Protocol::Tcp, Target::Node(22), Some("127.0.0.1:22")),
        (Protocol::Udp, Target::Node(22), None),
        (Protocol::Tcp, Target::Node(10250), None),
    ] {
        let led = authorise(&Header::new(protocol, target), &table, &ports, node);
        assert_eq!(led.ok(), wanted.map(|text| text.parse().unwrap()), "{protocol} {target:?}");
    }
    // The control: no port of the node is open at first.
    let closed = authorise(&Header::new(Protocol::Tcp, Target::Node(22)), &table, &NodePorts::default(), node);
    assert_eq!(closed, Err(Refusal::Forbidden));
}
