//! Connections to Services reach their backends.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use skerry_mesh_netfilter::{At, Change, Config, Family, Frontend, Netfilter, Protocol, Service, Slot, State};

use crate::lab::{Lab, PODS, exchange, pod_address, pod_address6};

/// What every test here has.
pub(crate) fn config() -> Config {
    Config { inside: vec!["10.244.1.0/24".parse().unwrap(), "fd44::/64".parse().unwrap()], ..Config::default() }
}

/// A frontend at an address, or at the node.
pub(crate) fn frontend(at: &str, protocol: Protocol, port: u16) -> Frontend {
    let at = match at {
        "node" => At::Node(Family::V4),
        "node6" => At::Node(Family::V6),
        address => At::Address(address.parse().unwrap()),
    };
    Frontend { at, protocol, port }
}

/// Slots of these addresses; an empty one is the proxy.
pub(crate) fn slots(backends: &[&str]) -> Vec<Slot> {
    let slot = |backend: &&str| if backend.is_empty() { Slot::Proxy } else { Slot::Backend(backend.parse().unwrap()) };
    backends.iter().map(slot).collect()
}

/// A Service of these.
pub(crate) fn service(backends: &[&str]) -> Service {
    Service { slots: slots(backends), ..Service::default() }
}

/// A state of these.
pub(crate) fn state(services: impl IntoIterator<Item = (Frontend, Service)>) -> State {
    let mut state = State::default();
    for (frontend, service) in services {
        state.insert(frontend, service).unwrap();
    }
    state
}

#[tokio::test]
async fn a_cluster_ip_is_served_by_all_backends_from_everywhere() {
    let lab = Lab::new();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for at in 1..=PODS {
        lab.pod(at).serve(&format!("pod{at}"), 8080);
        v4.push(format!("{}:8080", pod_address(at)));
        v6.push(format!("[{}]:8080", pod_address6(at)));
    }
    let of = |addresses: &[String]| service(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let mut want = State::default();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        want.insert(frontend("10.96.0.1", protocol, 80), of(&v4)).unwrap();
        want.insert(frontend("fd96::1", protocol, 80), of(&v6)).unwrap();
    }
    assert_eq!(netfilter.apply(want.clone()).await.unwrap(), Change::Rebuilt);
    assert_eq!(netfilter.apply(want).await.unwrap(), Change::None);

    for client in [lab.node(), lab.lan(), lab.pod(1)] {
        for vip in ["10.96.0.1:80", "[fd96::1]:80"] {
            let mut served = BTreeMap::new();
            for _ in 0..60 {
                *served.entry(client.who(vip)).or_insert(0) += 1;
            }
            // Of 60 each has 20; that one has less than 5 happens once in a million runs.
            assert_eq!(served.len(), PODS, "{vip}: {served:?}");
            assert!(served.values().all(|count| *count >= 5), "{vip}: {served:?}");
        }
    }
    netfilter.remove().await.unwrap();
    assert!(lab.pod(1).ask("10.96.0.1:80").is_err());
}

#[tokio::test]
async fn node_ports_answer_on_the_node_and_hide_clients_unless_local() {
    let lab = Lab::new();
    lab.pod(1).serve("pod1", 8080);
    lab.pod(2).serve("pod2", 8080);
    let (pod1, pod2) = (format!("{}:8080", pod_address(1)), format!("{}:8080", pod_address(2)));
    let local = Service { local: Some(slots(&[&pod1])), ..service(&[&pod1, &pod2]) };
    let nobody = Service { local: Some(Vec::new()), ..service(&[&pod2]) };
    let pod6 = format!("[{}]:8080", pod_address6(1));
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let want = state([
        (frontend("node", Protocol::Tcp, 30_001), service(&[&pod1])),
        (frontend("node6", Protocol::Tcp, 30_001), service(&[&pod6])),
        (frontend("node", Protocol::Tcp, 30_002), local.clone()),
        (frontend("node", Protocol::Tcp, 30_003), nobody),
        (frontend("203.0.113.7", Protocol::Tcp, 443), local),
    ]);
    netfilter.apply(want).await.unwrap();

    let lan = lab.lan();
    assert_eq!(lan.ask("192.168.77.1:30001").unwrap(), "pod1 10.244.1.1");
    assert_eq!(lan.ask("10.244.1.1:30001").unwrap(), "pod1 10.244.1.1");
    assert_eq!(lan.ask("[fd77::1]:30001").unwrap(), "pod1 fd44::1");
    assert_eq!(lab.pod(2).ask("192.168.77.1:30001").unwrap(), "pod1 10.244.1.12");
    assert_eq!(lab.node().who("192.168.77.1:30001"), "pod1");
    for vip in ["192.168.77.1:30002", "203.0.113.7:443"] {
        for _ in 0..10 {
            assert_eq!(lan.ask(vip).unwrap(), "pod1 192.168.77.2", "{vip}");
        }
        let inside: std::collections::BTreeSet<_> = (0..40).map(|_| lab.pod(3).who(vip)).collect();
        assert_eq!(inside.len(), 2, "{vip}: policies for outside do not concern pods");
    }
    assert!(lan.is_silent("192.168.77.1:30003"));
    assert_eq!(lab.pod(3).who("192.168.77.1:30003"), "pod2");
    // `lo` has no node ports.
    assert!(lab.node().ask("127.0.0.1:30001").is_err());
}

#[tokio::test]
async fn node_ports_answer_only_in_the_networks_that_are_named() {
    let lab = Lab::new();
    lab.pod(1).serve("pod1", 8080);
    let networks = vec!["192.168.77.0/24".parse().unwrap()];
    let mut netfilter = Netfilter::open(Config { node_addresses: networks, ..config() }).await.unwrap();
    let to_pod = service(&[&format!("{}:8080", pod_address(1))]);
    netfilter.apply(state([(frontend("node", Protocol::Tcp, 30_001), to_pod)])).await.unwrap();
    assert_eq!(lab.lan().who("192.168.77.1:30001"), "pod1");
    assert!(lab.lan().ask("10.244.1.1:30001").is_err());
}

#[tokio::test]
async fn a_pod_reaches_itself_and_its_neighbour_keeps_its_address() {
    let lab = Lab::new();
    lab.pod(1).serve("pod1", 8080);
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let want = state([
        (frontend("10.96.0.1", Protocol::Tcp, 80), service(&[&format!("{}:8080", pod_address(1))])),
        (frontend("fd96::1", Protocol::Tcp, 80), service(&[&format!("[{}]:8080", pod_address6(1))])),
    ]);
    netfilter.apply(want).await.unwrap();
    assert_eq!(lab.pod(1).ask("10.96.0.1:80").unwrap(), "pod1 10.244.1.1");
    assert_eq!(lab.pod(1).ask("[fd96::1]:80").unwrap(), "pod1 fd44::1");
    assert_eq!(lab.pod(2).ask("10.96.0.1:80").unwrap(), "pod1 10.244.1.12");
    assert_eq!(lab.pod(2).ask("[fd96::1]:80").unwrap(), "pod1 fd44::12");
}

#[tokio::test]
async fn without_br_netfilter_a_named_bridge_does_the_same() {
    let lab = Lab::new();
    // A namespace has its own; where the module is not loaded it is as if it were off.
    for call in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let _ = std::fs::write(format!("/proc/sys/net/bridge/{call}"), "0");
    }
    lab.pod(1).serve("pod1", 8080);
    let bridges = vec!["cni0".parse().unwrap()];
    let mut netfilter = Netfilter::open(Config { bridges, ..config() }).await.unwrap();
    let to_pod = service(&[&format!("{}:8080", pod_address(1))]);
    netfilter.apply(state([(frontend("10.96.0.1", Protocol::Tcp, 80), to_pod)])).await.unwrap();
    assert_eq!(lab.pod(1).ask("10.96.0.1:80").unwrap(), "pod1 10.244.1.1");
    assert_eq!(lab.pod(2).ask("10.96.0.1:80").unwrap(), "pod1 10.244.1.1");
}

#[tokio::test]
async fn who_has_no_backend_refuses_at_once() {
    let lab = Lab::new();
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    let mut want = State::default();
    for at in ["10.96.0.1", "fd96::1", "node", "node6"] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            want.insert(frontend(at, protocol, 30_080), Service::default()).unwrap();
        }
    }
    netfilter.apply(want).await.unwrap();
    for client in [lab.pod(1), lab.lan(), lab.node()] {
        for (to, v6) in [
            ("10.96.0.1:30080", false),
            ("[fd96::1]:30080", true),
            ("192.168.77.1:30080", false),
            ("[fd77::1]:30080", true),
        ] {
            let tcp = client.ask(to).unwrap_err().kind();
            assert_eq!(tcp, ErrorKind::ConnectionRefused, "{to}");
            // The node's own datagrams are refused before they are sent.
            let udp = exchange(&client.udp(v6), to).unwrap_err().kind();
            assert!(matches!(udp, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied), "{to}: {udp}");
        }
    }
}

#[tokio::test]
async fn a_client_stays_with_its_backend_while_that_is_there() {
    let lab = Lab::new();
    let mut v4 = Vec::new();
    for at in 1..=PODS {
        lab.pod(at).serve(&format!("pod{at}"), 8080);
        v4.push(format!("{}:8080", pod_address(at)));
    }
    let sticky = |backends: &[&String]| {
        let backends: Vec<&str> = backends.iter().map(|backend| backend.as_str()).collect();
        let sticky = Service { affinity: Some(Duration::from_secs(60)), ..service(&backends) };
        state([
            (frontend("10.96.0.1", Protocol::Tcp, 80), sticky.clone()),
            (frontend("node", Protocol::Tcp, 30_080), sticky),
        ])
    };
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    netfilter.apply(sticky(&[&v4[0]])).await.unwrap();
    let ways = [(lab.lan(), "10.96.0.1:80"), (lab.lan(), "192.168.77.1:30080"), (lab.node(), "10.96.0.1:80")];
    for (client, vip) in &ways {
        assert_eq!(client.who(vip), "pod1");
    }
    // More backends come: who is known stays, whatever its hash says now.
    netfilter.apply(sticky(&[&v4[0], &v4[1], &v4[2]])).await.unwrap();
    for (client, vip) in &ways {
        for _ in 0..10 {
            assert_eq!(client.who(vip), "pod1");
        }
    }
    // The agent is upgraded.
    drop(netfilter);
    let mut netfilter = Netfilter::open(config()).await.unwrap();
    assert_eq!(netfilter.apply(sticky(&[&v4[0], &v4[1], &v4[2]])).await.unwrap(), Change::None);
    for (client, vip) in &ways {
        assert_eq!(client.who(vip), "pod1");
    }
    // Its backend goes: it gets another one, and stays there.
    netfilter.apply(sticky(&[&v4[1], &v4[2]])).await.unwrap();
    for (client, vip) in &ways {
        let next = client.who(vip);
        assert_ne!(next, "pod1");
        for _ in 0..10 {
            assert_eq!(client.who(vip), next);
        }
    }
}
