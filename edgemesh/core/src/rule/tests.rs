//! DestinationRules: what holds, and what is said of the rest.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn read(spec: &Value) -> DestinationRule {
    let body = json!({"metadata": {"uid": "r1"}, "spec": spec}).to_string();
    parse(&Key::new("shop", "web"), body.as_bytes()).unwrap()
}

fn balancer(value: Value) -> (Option<Policy>, Vec<String>) {
    let rule = read(&json!({"host": "web", "trafficPolicy": {"loadBalancer": value}}));
    (rule.traffic.balance, rule.warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn policies_are_those_of_edgemesh_and_more() {
    let header = |name: &str| Some(Policy::ConsistentHash(HashKey::Header(name.into())));
    let source = Some(Policy::ConsistentHash(HashKey::SourceIp));
    for (value, wanted, warned) in [
        (json!({"simple": "RANDOM"}), Some(Policy::Random), None),
        (json!({"simple": "ROUND_ROBIN"}), Some(Policy::RoundRobin), None),
        (json!({"simple": "LEAST_REQUEST"}), Some(Policy::LeastRequest), None),
        (json!({"simple": "LEAST_CONN"}), Some(Policy::LeastRequest), None),
        (json!({"simple": "UNSPECIFIED"}), None, None),
        (json!({}), None, None),
        (json!(null), None, None),
        (json!({"simple": "PASSTHROUGH"}), None, Some("simple is not supported")),
        (json!({"simple": "NONSENSE"}), None, Some("simple has a value")),
        (json!({"simple": 7}), None, Some("simple has a value")),
        (json!("RANDOM"), None, Some("loadBalancer has a value")),
        (json!({"consistentHash": {"useSourceIp": true}}), source.clone(), None),
        (json!({"consistentHash": {"useSourceIp": true, "maglev": {"tableSize": 65_537}}}), source.clone(), None),
        (json!({"consistentHash": {"useSourceIp": false}}), None, None),
        (json!({"consistentHash": {"httpHeaderName": "User-Agent"}}), header("user-agent"), None),
        (json!({"consistentHash": {"httpHeaderName": "a b"}}), None, Some("httpHeaderName has a value")),
        (json!({"consistentHash": {"httpHeaderName": "a".repeat(129)}}), None, Some("httpHeaderName has a value")),
        (json!({"consistentHash": {"httpCookie": {"name": "c"}}}), None, Some("consistentHash.httpCookie is not")),
        (json!({"warmupDurationSecs": "10s"}), None, Some("loadBalancer.warmupDurationSecs is not supported")),
    ] {
        let (policy, warnings) = balancer(value.clone());
        assert_eq!(policy, wanted, "{value}");
        match warned {
            Some(text) => assert!(warnings.iter().any(|warning| warning.contains(text)), "{value}: {warnings:?}"),
            None => assert!(warnings.is_empty(), "{value}: {warnings:?}"),
        }
    }
}

#[test]
fn a_rule_is_for_a_service_of_its_own_namespace() {
    let own = Some(Key::new("shop", "api"));
    for (host, wanted, reason) in [
        ("api", own.clone(), None),
        ("api.shop", own.clone(), None),
        ("api.shop.svc", own.clone(), None),
        ("api.shop.svc.example.org.", own.clone(), None),
        ("api.bank.svc.cluster.local", None, Some(Reason::Foreign)),
        ("*", None, Some(Reason::Unsupported)),
        ("*.shop.svc.cluster.local", None, Some(Reason::Unsupported)),
        ("www.shop.example.org", None, Some(Reason::Unsupported)),
        ("", None, Some(Reason::Invalid)),
        ("A", None, Some(Reason::Invalid)),
    ] {
        let rule = read(&json!({"host": host}));
        assert_eq!(rule.service, wanted, "{host}");
        assert_eq!(rule.warnings.first().map(|warning| warning.reason), reason, "{host}");
    }
    // As EdgeMesh has it: the rule's own name.
    assert_eq!(read(&json!({})).service, Some(Key::new("shop", "web")));
}

#[test]
fn limits_and_ejection_are_read_for_each_port() {
    let rule = read(&json!({"host": "web", "exportTo": ["."], "trafficPolicy": {
        "connectionPool": {"tcp": {"maxConnections": 10, "connectTimeout": "1.5s", "idleTimeout": "1h",
            "tcpKeepalive": {"probes": 3, "time": "30s", "interval": "5s"}}},
        "outlierDetection": {"consecutive5xxErrors": 3, "consecutiveGatewayErrors": 0, "interval": "1s",
            "baseEjectionTime": "10s", "maxEjectionPercent": 100, "minHealthPercent": 20},
        "loadBalancer": {"localityLbSetting": {"enabled": false}},
        "proxyProtocol": {"version": "V2"},
        "tls": {"mode": "DISABLE"},
        "portLevelSettings": [{"port": {"number": 9090}, "loadBalancer": {"simple": "RANDOM"}}, {"port": {"number": 0}}],
    }}));
    let warnings: Vec<_> = rule.warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(warnings, ["spec.trafficPolicy.portLevelSettings[1].port"]);
    let all = rule.for_port(80);
    assert_eq!(all.pool.max_connections, Some(10));
    assert_eq!(all.pool.connect_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(all.pool.keepalive.unwrap().probes, Some(3));
    let outliers = all.outliers.unwrap();
    assert_eq!((outliers.consecutive_failures, outliers.base_ejection.as_secs()), (3, 10));
    assert_eq!((outliers.max_ejection_percent, outliers.min_health_percent), (100, 20));
    assert_eq!((all.nearest_first, all.proxy_protocol), (Some(false), Some(ProxyProtocol::V2)));
    // As Istio has it: what a port does not say is not taken from the rule.
    let port = rule.for_port(9090);
    assert_eq!((port.balance.clone(), port.pool.max_connections), (Some(Policy::Random), None));
    // All failures switched off.
    let off = read(&json!({"trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 0}}}));
    assert_eq!(off.traffic.outliers.unwrap().consecutive_failures, 0);
}

#[test]
fn warnings_name_each_field_and_are_bounded() {
    let rule = read(&json!({"host": "web", "subsets": [{"name": "v1"}], "workloadSelector": {}, "trafficPolicy": {
        "tls": {"mode": "MUTUAL"}, "tunnel": {}, "connectionPool": {"http": {"http1MaxPendingRequests": 1}},
        "loadBalancer": {"localityLbSetting": {"distribute": []}}}}));
    let fields: Vec<_> = rule.warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute",
            "spec.trafficPolicy.connectionPool.http",
            "spec.trafficPolicy.tls",
            "spec.trafficPolicy.tunnel",
            "spec.subsets",
            "spec.workloadSelector",
        ]
    );
    let many: serde_json::Map<_, _> = (0..100).map(|i| (format!("{}{i}", "x".repeat(500)), json!(1))).collect();
    let rule = read(&Value::Object(many));
    assert_eq!(rule.warnings.len(), MAX_WARNINGS);
    assert!(rule.warnings.iter().all(|warning| warning.field.len() <= 128));
    let ports: Vec<_> = (1..=MAX_PORT_SETTINGS + 1).map(|port| json!({"port": {"number": port}})).collect();
    let rule = read(&json!({"trafficPolicy": {"portLevelSettings": ports}}));
    assert_eq!(rule.ports.len(), MAX_PORT_SETTINGS);
    assert_eq!(rule.warnings.first().map(|warning| warning.reason), Some(Reason::TooMany));
}

#[test]
fn what_crashed_edgemesh_has_no_effect() {
    for spec in
        [json!(null), json!({}), json!([]), json!("x"), json!({"trafficPolicy": null}), json!({"trafficPolicy": []})]
    {
        let rule = read(&spec);
        assert_eq!(rule.traffic, super::Traffic::default(), "{spec}");
    }
    assert!(parse(&Key::new("shop", "web"), b"{").is_err());
}
