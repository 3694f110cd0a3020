//! The table against what its objects say: by hand, and by chance against a table built anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName, kinds};

use super::*;

fn builder() -> TableBuilder {
    TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn put(builder: &mut TableBuilder, kind: &str, name: &str, body: &Value) -> Vec<Effect> {
    let namespace = if kind == kinds::NODE { "" } else { "shop" };
    builder.upsert(kind, &Key::new(namespace, name), body.to_string().as_bytes()).unwrap()
}

fn service(ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "type": "NodePort", "ports": [
            {"name": "http", "port": 80, "nodePort": 30080, "appProtocol": "http"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "old", "port": 99, "protocol": "SCTP"},
        ]},
    })
}

fn slice(service: &str, addresses: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|(ip, node, ready)| {
            json!({"addresses": [ip], "nodeName": node, "zone": "z1", "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "shop"}})
        })
        .collect();
    let v6 = addresses.first().is_some_and(|(ip, ..)| ip.contains(':'));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn a_service_is_found_by_each_of_its_addresses_and_names() {
    let mut builder = builder();
    let mut object = service("10.96.0.10");
    object["spec"]["externalIPs"] = json!(["203.0.113.5"]);
    object["spec"]["clusterIPs"] = json!(["10.96.0.10", "fd00::10"]);
    object["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}});
    // Endpoints come before their Service.
    assert_eq!(put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("web", &[("10.1.0.1", "edge-1", true)])), []);
    put(&mut builder, kinds::ENDPOINT_SLICE, "b", &slice("web", &[("fd01::1", "edge-2", true)]));
    let key = Key::new("shop", "web");
    assert_eq!(put(&mut builder, kinds::SERVICE, "web", &object), [Effect::Service(key.clone())]);
    let table = builder.snapshot();
    for (address, port, protocol, via) in [
        ("10.96.0.10", 80, Protocol::Tcp, Some(Via::ClusterIp)),
        ("::ffff:10.96.0.10", 80, Protocol::Tcp, Some(Via::ClusterIp)),
        ("fd00::10", 80, Protocol::Tcp, Some(Via::ClusterIp)),
        ("10.96.0.10", 53, Protocol::Udp, Some(Via::ClusterIp)),
        ("203.0.113.5", 80, Protocol::Tcp, Some(Via::ExternalIp)),
        ("198.51.100.7", 80, Protocol::Tcp, Some(Via::LoadBalancer)),
        ("198.51.100.8", 80, Protocol::Tcp, None),
        ("10.96.0.10", 80, Protocol::Udp, None),
        ("10.96.0.10", 81, Protocol::Tcp, None),
        ("10.96.0.10", 99, Protocol::Tcp, None),
        ("10.96.0.11", 80, Protocol::Tcp, None),
        ("10.1.0.1", 8080, Protocol::Tcp, None),
    ] {
        let found = table.service_by_address(ip(address), port, protocol);
        assert_eq!(found.as_ref().map(|found| found.via), via, "{address} {port} {protocol}");
        if let Some(found) = found {
            let wanted = match (port, found.family) {
                (80, Family::V4) => "10.1.0.1:8080",
                (80, Family::V6) => "[fd01::1]:8080",
                _ => "10.1.0.1:5353",
            };
            assert_eq!(addresses(&found.eligible("edge-1")), [wanted]);
        }
    }
    let by_node = table.service_by_node_port(30080, Protocol::Tcp, Family::V6).unwrap();
    assert_eq!((by_node.via, &*by_node.spec().unwrap().name), (Via::NodePort, "http"));
    assert!(table.service_by_node_port(30080, Protocol::Udp, Family::V4).is_none());
    assert_eq!(table.by_name("shop", "web").unwrap().key(), &key);
    assert!(table.by_name("shop", "we").is_none());
    assert!(table.has_namespace("shop") && !table.has_namespace("sho") && !table.has_namespace("shop2"));
    assert_eq!(table.service_by_cluster_ip(ip("fd00::10")).unwrap().key(), &key);
    let (found, host) = table.hosts_by_ip(ip("fd01::1")).next().unwrap();
    assert_eq!((found.key(), host.node.as_deref(), host.zone.as_deref()), (&key, Some("edge-2"), Some("z1")));
    assert_eq!(host.pod, Some(Key::new("shop", "web-0")));
    assert_eq!(builder.delete(kinds::SERVICE, &key), [Effect::Service(key)]);
    let gone = builder.snapshot();
    assert!(gone.service_by_address(ip("10.96.0.10"), 80, Protocol::Tcp).is_none());
    assert!(gone.hosts_by_ip(ip("fd01::1")).next().is_none() && !gone.has_namespace("shop"));
    // The control: the older snapshot is as it was.
    assert!(table.service_by_address(ip("10.96.0.10"), 80, Protocol::Tcp).is_some());
}

#[test]
fn endpoints_are_eligible_as_kube_proxy_has_it() {
    let conditions =
        |ready, serving, terminating| json!({"ready": ready, "serving": serving, "terminating": terminating});
    let cases = [
        ("ready ones", json!({}), vec![(true, true, false), (false, false, false)], vec!["10.1.0.0:8080"]),
        (
            "ends and serves only without ready ones",
            json!({}),
            vec![(true, true, false), (false, true, true)],
            vec!["10.1.0.0:8080"],
        ),
        ("ends and serves", json!({}), vec![(false, true, true), (false, false, true)], vec!["10.1.0.0:8080"]),
        ("not ready is not served", json!({}), vec![(false, true, false)], vec![]),
        (
            "published before ready",
            json!({"publishNotReadyAddresses": true}),
            vec![(false, false, false)],
            vec!["10.1.0.0:8080"],
        ),
        (
            "local",
            json!({"internalTrafficPolicy": "Local"}),
            vec![(true, true, false), (true, true, false)],
            vec!["10.1.0.1:8080"],
        ),
        ("local, none here", json!({"internalTrafficPolicy": "Local"}), vec![(true, true, false)], vec![]),
    ];
    for (name, extra, endpoints, wanted) in cases {
        let mut builder = builder();
        let mut object = service("10.96.0.10");
        object["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        put(&mut builder, kinds::SERVICE, "web", &object);
        let mut endpoint_slice = slice("web", &[]);
        let list = endpoints.iter().enumerate().map(|(i, (ready, serving, terminating))| {
            // The second one is ours.
            json!({"addresses": [format!("10.1.0.{i}")], "nodeName": format!("edge-{}", 2 - i),
                "conditions": conditions(*ready, *serving, *terminating)})
        });
        endpoint_slice["endpoints"] = list.collect();
        put(&mut builder, kinds::ENDPOINT_SLICE, "a", &endpoint_slice);
        let found = builder.snapshot().service_by_address(ip("10.96.0.10"), 80, Protocol::Tcp).unwrap();
        assert_eq!(addresses(&found.eligible("edge-1")), wanted, "{name}");
        // What comes from outside is for the other policy to say.
        let outside = found.service.eligible(found.port, Family::V4, Origin::Outside, "edge-9");
        assert_eq!(outside.is_empty(), wanted.is_empty() && name != "local, none here", "{name}");
    }
}

#[test]
fn only_endpoints_of_ours_that_the_mesh_carries_are_local() {
    let mut builder = builder();
    put(&mut builder, kinds::SERVICE, "web", &service("10.96.0.10"));
    let both = slice("web", &[("10.1.0.1", "edge-1", false), ("10.1.0.2", "edge-2", true)]);
    put(&mut builder, kinds::ENDPOINT_SLICE, "a", &both);
    let local = |builder: &TableBuilder, address: &str, protocol| {
        builder.snapshot().is_local_endpoint(protocol, address.parse().unwrap())
    };
    assert!(local(&builder, "10.1.0.1:8080", Protocol::Tcp));
    assert!(local(&builder, "[::ffff:10.1.0.1]:8080", Protocol::Tcp));
    assert!(local(&builder, "10.1.0.1:5353", Protocol::Udp));
    for (address, protocol) in [
        ("10.1.0.1:5353", Protocol::Tcp),
        ("10.1.0.1:80", Protocol::Tcp),
        ("10.1.0.1:22", Protocol::Tcp),
        ("10.1.0.2:8080", Protocol::Tcp),
        ("127.0.0.1:8080", Protocol::Tcp),
        ("10.96.0.10:80", Protocol::Tcp),
    ] {
        assert!(!local(&builder, address, protocol), "{address}");
    }
    // A second Service has the same endpoint; when it goes, the first one's stays.
    put(&mut builder, kinds::SERVICE, "twin", &service("10.96.0.11"));
    put(&mut builder, kinds::ENDPOINT_SLICE, "t", &slice("twin", &[("10.1.0.1", "edge-1", true)]));
    builder.delete(kinds::SERVICE, &Key::new("shop", "twin"));
    assert!(local(&builder, "10.1.0.1:8080", Protocol::Tcp));
    // Another proxy takes the Service over.
    let mut others = service("10.96.0.10");
    others["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "cilium"});
    put(&mut builder, kinds::SERVICE, "web", &others);
    assert!(!local(&builder, "10.1.0.1:8080", Protocol::Tcp));
}

#[test]
fn labels_take_services_from_the_mesh_but_not_their_names() {
    for (filter, label, carried) in [
        (Filter::IfLabelExists, None, true),
        (Filter::IfLabelExists, Some(EDGEMESH_PROXY_NAME), false),
        (Filter::IfLabelExists, Some(SERVICE_PROXY_NAME), false),
        (Filter::IfLabelDoesNotExist, None, false),
        (Filter::IfLabelDoesNotExist, Some(EDGEMESH_PROXY_NAME), true),
        (Filter::IfLabelDoesNotExist, Some(SERVICE_PROXY_NAME), false),
    ] {
        let mut builder = TableBuilder::new(NodeName::parse("edge-1").unwrap(), filter);
        let mut object = service("10.96.0.10");
        if let Some(label) = label {
            object["metadata"]["labels"] = json!({label: ""});
        }
        put(&mut builder, kinds::SERVICE, "web", &object);
        let table = builder.snapshot();
        let found = table.service_by_address(ip("10.96.0.10"), 80, Protocol::Tcp);
        assert_eq!(found.is_some(), carried, "{filter:?} {label:?}");
        assert_eq!(table.service_by_node_port(30080, Protocol::Tcp, Family::V4).is_some(), carried);
        assert!(table.by_name("shop", "web").is_some() && table.service_by_cluster_ip(ip("10.96.0.10")).is_some());
    }
}

#[test]
fn nobody_takes_the_cluster_ip_of_another() {
    let mut thief = service("10.96.0.99");
    thief["spec"]["externalIPs"] = json!(["10.96.0.10"]);
    for thief_first in [true, false] {
        let mut builder = builder();
        let mut objects = [("a-thief", &thief), ("web", &service("10.96.0.10"))];
        if !thief_first {
            objects.reverse();
        }
        for (name, object) in objects {
            put(&mut builder, kinds::SERVICE, name, object);
        }
        let found = builder.snapshot().service_by_address(ip("10.96.0.10"), 80, Protocol::Tcp).unwrap();
        assert_eq!(&*found.service.key().name, "web");
    }
}

#[test]
fn a_change_touches_its_own_service_only() {
    let mut builder = builder();
    for i in 0..500 {
        put(&mut builder, kinds::SERVICE, &format!("web-{i}"), &service(&format!("10.96.{}.{}", i / 250, i % 250 + 1)));
    }
    let before = builder.snapshot();
    let wanted = Effect::Service(Key::new("shop", "web-7"));
    assert_eq!(
        put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("web-7", &[("10.1.0.1", "edge-2", true)])),
        [wanted]
    );
    let after = builder.snapshot();
    assert!(after.generation() > before.generation());
    let changed = before.services().zip(after.services()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
    assert_eq!(changed, 1);
    assert!(Arc::ptr_eq(&before.addresses, &after.addresses) && Arc::ptr_eq(&before.locals, &after.locals));
    // The same object again is no change.
    assert_eq!(put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("web-7", &[("10.1.0.1", "edge-2", true)])), []);
    assert_eq!(builder.snapshot().generation(), after.generation());
}

#[test]
fn a_slice_that_moves_changes_both_services() {
    let mut builder = builder();
    put(&mut builder, kinds::SERVICE, "web", &service("10.96.0.10"));
    put(&mut builder, kinds::SERVICE, "api", &service("10.96.0.11"));
    put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("web", &[("10.1.0.1", "edge-1", true)]));
    let effects = put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("api", &[("10.1.0.1", "edge-1", true)]));
    let service = |name: &str| Effect::Service(Key::new("shop", name));
    assert_eq!(effects, [service("web"), service("api")]);
    let effects = builder.delete(kinds::ENDPOINT_SLICE, &Key::new("shop", "a"));
    assert_eq!(effects, [service("api")]);
    assert_eq!(builder.delete(kinds::ENDPOINT_SLICE, &Key::new("shop", "a")), []);
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_ready_if_one_is() {
    let mut builder = builder();
    put(&mut builder, kinds::SERVICE, "web", &service("10.96.0.10"));
    put(&mut builder, kinds::ENDPOINT_SLICE, "a", &slice("web", &[("10.1.0.1", "edge-1", false)]));
    put(&mut builder, kinds::ENDPOINT_SLICE, "b", &slice("web", &[("10.1.0.1", "edge-1", true)]));
    put(&mut builder, kinds::ENDPOINT_SLICE, "c", &slice("web", &[("10.1.0.1", "edge-1", false)]));
    let table = builder.snapshot();
    let web = table.by_name("shop", "web").unwrap();
    assert_eq!((web.hosts.len(), web.endpoints[0].v4.len(), web.hosts[0].ready), (1, 1, true));
}

#[test]
fn nodes_are_found_by_name_and_address() {
    let mut builder = builder();
    let node = |address: &str| {
        json!({"metadata": {"uid": "n1", "labels": {"topology.kubernetes.io/zone": "z1", "mesh.skerry.io/relay": "true"},
            "annotations": {"mesh.skerry.io/record": "abc", "other/x": "y"}},
            "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": "edge-1"}]}})
    };
    assert_eq!(put(&mut builder, kinds::NODE, "edge-1", &node("192.0.2.1")), [Effect::Node("edge-1".into())]);
    assert_eq!(put(&mut builder, kinds::NODE, "edge-1", &node("192.0.2.1")), []);
    let table = builder.snapshot();
    let own = table.own_node().unwrap();
    assert_eq!((own.zone.as_deref(), own.mesh.len()), (Some("z1"), 2));
    assert!(own.pod_cidrs[0].contains(ip("10.1.0.7")));
    assert_eq!(table.node_by_ip(ip("192.0.2.1")).unwrap().name, own.name);
    put(&mut builder, kinds::NODE, "edge-1", &node("192.0.2.9"));
    let table = builder.snapshot();
    assert!(table.node_by_ip(ip("192.0.2.1")).is_none() && table.node_by_ip(ip("192.0.2.9")).is_some());
    builder.delete(kinds::NODE, &Key::new("", "edge-1"));
    assert!(builder.snapshot().own_node().is_none() && builder.snapshot().node_by_ip(ip("192.0.2.9")).is_none());
}

#[test]
fn a_rule_comes_and_goes_with_its_service_in_any_order() {
    let mut builder = builder();
    let rule = |host: &str, policy: &str| json!({"metadata": {"uid": "r"}, "spec": {"host": host, "trafficPolicy": {"loadBalancer": {"simple": policy}}}});
    let balance = |builder: &TableBuilder| {
        let table = builder.snapshot();
        table.by_name("shop", "web").unwrap().rule.as_ref().and_then(|rule| rule.traffic.balance.clone())
    };
    // EdgeMesh waits up to a quarter of an hour for a rule that came before its Service.
    put(&mut builder, kinds::DESTINATION_RULE, "web", &rule("web", "RANDOM"));
    put(&mut builder, kinds::SERVICE, "web", &service("10.96.0.10"));
    assert_eq!(balance(&builder), Some(crate::Policy::Random));
    // A second rule for the same Service waits behind the one with the Service's name.
    put(&mut builder, kinds::DESTINATION_RULE, "other", &rule("web.shop.svc.cluster.local", "LEAST_REQUEST"));
    assert_eq!(balance(&builder), Some(crate::Policy::Random));
    let effects = builder.delete(kinds::DESTINATION_RULE, &Key::new("shop", "web"));
    assert_eq!(effects, [Effect::Service(Key::new("shop", "web"))]);
    assert_eq!(balance(&builder), Some(crate::Policy::LeastRequest));
    // A rule that lost its policy (a crash of EdgeMesh) has none.
    let effects = put(&mut builder, kinds::DESTINATION_RULE, "other", &json!({"spec": {"host": "web"}}));
    assert!(matches!(&effects[..], [Effect::Service(_), Effect::Rule(rule)] if rule.warnings.is_empty()));
    assert_eq!(balance(&builder), None);
    builder.delete(kinds::DESTINATION_RULE, &Key::new("shop", "other"));
    assert!(builder.snapshot().by_name("shop", "web").unwrap().rule.is_none());
}

#[test]
fn there_is_room_for_so_many_services_and_no_more() {
    let mut builder = builder();
    let body = json!({"spec": {"clusterIP": "None"}}).to_string();
    for i in 0..MAX_OBJECTS {
        builder.upsert(kinds::SERVICE, &Key::new("shop", format!("s{i}")), body.as_bytes()).unwrap();
    }
    let one_more = builder.upsert(kinds::SERVICE, &Key::new("shop", "more"), body.as_bytes()).unwrap_err();
    assert!(matches!(one_more.cause, Malformed::TooMany { most: MAX_OBJECTS, .. }));
    // One that is there may change.
    builder.upsert(kinds::SERVICE, &Key::new("shop", "s7"), service("10.96.0.1").to_string().as_bytes()).unwrap();
    assert!(builder.snapshot().service_by_address(ip("10.96.0.1"), 80, Protocol::Tcp).is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Service(u8, u8, bool),
    NoService(u8),
    Slice(u8, u8, Vec<(u8, u8, bool)>),
    NoSlice(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..6u8, 1..4u8, any::<bool>()), 0..4);
    prop_oneof![
        (0..4u8, 0..3u8, any::<bool>()).prop_map(|(name, ip, labelled)| Step::Service(name, ip, labelled)),
        (0..4u8).prop_map(Step::NoService),
        (0..4u8, 0..4u8, endpoints).prop_map(|(name, of, list)| Step::Slice(name, of, list)),
        (0..4u8).prop_map(Step::NoSlice),
    ]
}

proptest! {
    /// The table is a function of the objects: what changes made of it is what it is when built anew, in
    /// every index.
    #[test]
    fn changes_lead_to_what_the_objects_say(steps in prop::collection::vec(step(), 1..40)) {
        let mut changed = builder();
        let mut objects: BTreeMap<(&str, String), Value> = BTreeMap::new();
        for step in steps {
            let snapshot = changed.snapshot();
            let effects = match step {
                Step::Service(name, ip, labelled) => {
                    let mut object = service(&format!("10.96.0.{}", ip + 1));
                    if labelled {
                        object["metadata"]["labels"] = json!({EDGEMESH_PROXY_NAME: ""});
                    }
                    objects.insert((kinds::SERVICE, format!("s{name}")), object.clone());
                    put(&mut changed, kinds::SERVICE, &format!("s{name}"), &object)
                }
                Step::Slice(name, of, list) => {
                    let list: Vec<_> =
                        list.iter().map(|(ip, node, ready)| (format!("10.1.0.{ip}"), format!("edge-{node}"), *ready)).collect();
                    let list: Vec<_> = list.iter().map(|(ip, node, ready)| (ip.as_str(), node.as_str(), *ready)).collect();
                    let object = slice(&format!("s{of}"), &list);
                    objects.insert((kinds::ENDPOINT_SLICE, format!("e{name}")), object.clone());
                    put(&mut changed, kinds::ENDPOINT_SLICE, &format!("e{name}"), &object)
                }
                Step::NoService(name) => {
                    objects.remove(&(kinds::SERVICE, format!("s{name}")));
                    changed.delete(kinds::SERVICE, &Key::new("shop", format!("s{name}")))
                }
                Step::NoSlice(name) => {
                    objects.remove(&(kinds::ENDPOINT_SLICE, format!("e{name}")));
                    changed.delete(kinds::ENDPOINT_SLICE, &Key::new("shop", format!("e{name}")))
                }
            };
            let now = changed.snapshot();
            prop_assert_eq!(effects.is_empty(), snapshot.generation() == now.generation());
            prop_assert_eq!(effects.is_empty(), snapshot.services == now.services);
            let mut anew = builder();
            for ((kind, name), object) in objects.iter().rev() {
                put(&mut anew, kind, name, object);
            }
            let anew = anew.snapshot();
            prop_assert_eq!(&now.services, &anew.services);
            prop_assert_eq!(&now.addresses, &anew.addresses);
            prop_assert_eq!(&now.hosts, &anew.hosts);
            prop_assert_eq!(&now.locals, &anew.locals);
        }
    }
}
