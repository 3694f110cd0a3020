//! Objects with faults: what was there stays, nothing panics, the report names the field.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use serde_json::{Value, json};
use skerry_common::{Key, NodeName, kinds};

use super::*;

const KINDS: [&str; 5] = [kinds::SERVICE, kinds::ENDPOINT_SLICE, kinds::NODE, kinds::DESTINATION_RULE, "Pod"];

fn builder() -> TableBuilder {
    TableBuilder::new(NodeName::parse("edge-1").unwrap(), Filter::default())
}

fn good(kind: &str) -> Value {
    match kind {
        kinds::SERVICE => json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}),
        kinds::ENDPOINT_SLICE => json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "a"}]}),
        _ => json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
    }
}

#[test]
fn an_object_with_a_fault_is_refused_and_the_old_one_stays() {
    let many = |value: Value, count| Value::Array(vec![value; count]);
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        (kinds::SERVICE, "/spec/ports/0/port", json!(0), "port is not a port"),
        (kinds::SERVICE, "/spec/ports/0/port", json!(65_536), "port is not a port"),
        (kinds::SERVICE, "/spec/ports/0/port", json!("http"), "it cannot be read"),
        (kinds::SERVICE, "/spec/clusterIP", json!("10.96.0.256"), "spec.clusterIPs has an address"),
        (kinds::SERVICE, "/spec/clusterIP", json!("127.0.0.1"), "spec.clusterIPs has an address"),
        (kinds::SERVICE, "/spec/clusterIP", json!("169.254.96.16"), "spec.clusterIPs has an address"),
        (kinds::SERVICE, "/spec/clusterIP", json!("::ffff:127.0.0.1"), "spec.clusterIPs has an address"),
        (kinds::SERVICE, "/spec/ports", json!([{"port": 1}, {"port": 2}]), "spec.ports has a name twice"),
        (kinds::SERVICE, "/spec/ports", many(json!({"port": 1}), MAX_PORTS + 1), "spec.ports has more than 100"),
        (kinds::SERVICE, "/spec", json!({"type": "ExternalName", "externalName": "a b"}), "spec.externalName is not"),
        (kinds::SERVICE, "/spec", json!({"externalIPs": many(json!("10.0.0.1"), MAX_ADDRESSES + 1)}), "more than 64"),
        (kinds::SERVICE, "/spec", json!({"loadBalancerSourceRanges": ["10.0.0.0/40"]}), "loadBalancerSourceRanges has"),
        (kinds::ENDPOINT_SLICE, "/endpoints/0/addresses/0", json!("nobody"), "endpoints[].addresses has"),
        (kinds::ENDPOINT_SLICE, "/endpoints/0/addresses/0", json!("fd00::1"), "endpoints[].addresses has"),
        (kinds::ENDPOINT_SLICE, "/endpoints/0/addresses/0", json!("127.0.0.1"), "endpoints[].addresses has"),
        (kinds::ENDPOINT_SLICE, "/endpoints/0/addresses/0", json!("224.0.0.1"), "endpoints[].addresses has"),
        (kinds::ENDPOINT_SLICE, "/endpoints/0/hostname", json!("a.b"), "endpoints[].hostname is not"),
        (kinds::ENDPOINT_SLICE, "/ports/0/port", json!(-1), "ports[].port is not"),
        (kinds::ENDPOINT_SLICE, "/metadata/labels/kubernetes.io~1service-name", json!("../x"), "service-name is not"),
        (
            kinds::ENDPOINT_SLICE,
            "/endpoints",
            many(json!({"addresses": ["10.1.0.1"]}), MAX_SLICE_ENDPOINTS + 1),
            "endpoints has more than 1000",
        ),
        (kinds::NODE, "/status/addresses/0/address", json!("300.0.0.1"), "status.addresses has"),
    ];
    for (kind, at, value, wanted) in cases {
        let mut builder = builder();
        let key = Key::new(if kind == kinds::NODE { "" } else { "shop" }, "web");
        let mut object = good(kind);
        builder.upsert(kind, &key, object.to_string().as_bytes()).unwrap();
        builder.upsert(kinds::SERVICE, &Key::new("shop", "web"), good(kinds::SERVICE).to_string().as_bytes()).unwrap();
        let before = builder.snapshot();
        *object.pointer_mut(at).unwrap() = value.clone();
        let refused = builder.upsert(kind, &key, object.to_string().as_bytes()).unwrap_err();
        let said = refused.cause.to_string();
        assert!(said.contains(wanted), "{kind} {at} {value}: {said}");
        assert_eq!(builder.snapshot().generation(), before.generation());
        assert_eq!(refused.to_string(), format!("{kind} {key} is not used"));
    }
}

#[test]
fn what_the_mesh_does_not_carry_is_no_fault() {
    let mut builder = builder();
    let key = Key::new("shop", "web");
    let mut put = |kind: &str, value: Value| {
        builder.upsert(kind, &key, value.to_string().as_bytes()).unwrap();
        builder.snapshot()
    };
    let table = put(kinds::SERVICE, json!({"spec": {"clusterIP": "", "ports": [{"port": 9, "protocol": "SCTP"}]}}));
    assert!(table.by_name("shop", "web").unwrap().spec.ports.is_empty());
    put(kinds::ENDPOINT_SLICE, json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}));
    put(kinds::ENDPOINT_SLICE, json!({"addressType": "IPv4", "endpoints": []}));
    let name = json!({"spec": {"type": "ExternalName", "externalName": "DB.Example.com."}});
    let table = put(kinds::SERVICE, name);
    let kind = &table.by_name("shop", "web").unwrap().spec.kind;
    assert_eq!(kind, &ServiceKind::ExternalName("db.example.com".into()));
}

#[test]
fn affinity_policies_and_preferences_are_read() {
    let mut builder = builder();
    let key = Key::new("shop", "web");
    let object = json!({
        "metadata": {"annotations": {PROXY_PROTOCOL_ANNOTATION: "v2", "service.kubernetes.io/topology-mode": "Auto"}},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["198.51.100.0/24"]}});
    builder.upsert(kinds::SERVICE, &key, object.to_string().as_bytes()).unwrap();
    let spec = builder.snapshot().by_name("shop", "web").unwrap().spec.clone();
    assert_eq!(spec.affinity.unwrap().as_secs(), 10_800);
    assert_eq!((spec.internal_policy, spec.external_policy), (TrafficPolicy::Cluster, TrafficPolicy::Local));
    assert_eq!((spec.distribution, spec.proxy_protocol), (Distribution::PreferSameZone, Some(ProxyProtocol::V2)));
    assert!(spec.source_ranges[0].contains("198.51.100.9".parse().unwrap()));
}

#[test]
fn a_body_that_is_too_large_is_not_read() {
    let mut body = good(kinds::SERVICE).to_string().into_bytes();
    body.resize(MAX_BODY + 1, b' ');
    let key = Key::new("shop", "web");
    let refused = builder().upsert(kinds::SERVICE, &key, &body).unwrap_err();
    assert!(matches!(refused.cause, Malformed::TooMany { most: MAX_BODY, .. }));
    // The control: one byte less is.
    body.truncate(MAX_BODY);
    assert!(builder().upsert(kinds::SERVICE, &key, &body).is_ok());
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "spec",
        "metadata",
        "labels",
        "ports",
        "port",
        "endpoints",
        "addresses",
        "addressType",
        "IPv4",
        "10.1.0.1",
        "trafficPolicy",
        "loadBalancer",
        "simple",
        "consistentHash",
        "outlierDetection",
        "connectionPool",
        "tcp",
        "host",
        "portLevelSettings",
        "number",
        "1s",
        "kubernetes.io/service-name",
        "clusterIP",
        "None",
        "conditions",
        "status",
    ];
    let word = prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(kind in prop::sample::select(KINDS.to_vec()), body in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = builder().upsert(kind, &Key::new("shop", "web"), &body);
    }

    #[test]
    fn no_json_panics(kind in prop::sample::select(KINDS.to_vec()), object in any_json()) {
        let _ = builder().upsert(kind, &Key::new("shop", "web"), object.to_string().as_bytes());
    }
}
