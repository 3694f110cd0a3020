//! From the JSON of a DestinationRule to what the mesh does. Pure; see the module above.
//!
//! `host` decides which Service a rule is for, in the forms that Istio has (`web`, `web.shop`,
//! `web.shop.svc`, `web.shop.svc.cluster.local`); without one, the Service of the rule's own name, which is how
//! EdgeMesh's rules are written. A rule never reaches into another namespace: whoever may write rules in one
//! must not steer the traffic of another.

use serde_json::Value;
use skerry_common::Key;

use super::fields::{Fields, Warnings};
use super::{
    ConnectionPool, DestinationRule, HashKey, Keepalive, MAX_HEADER_NAME, MAX_PORT_SETTINGS, OutlierDetection, Policy,
    Reason, Traffic,
};
use crate::table::ProxyProtocol;

/// Reads a rule.
///
/// # Errors
/// When the body is no JSON.
pub(crate) fn parse(key: &Key, body: &[u8]) -> Result<DestinationRule, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(body)?;
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().into();
    let spec = object.get_mut("spec").map(Value::take).unwrap_or_default();
    let mut warnings = Warnings::default();
    let mut rule = DestinationRule {
        key: key.clone(),
        uid,
        service: Some(key.clone()),
        traffic: Traffic::default(),
        ports: std::collections::BTreeMap::new(),
        warnings: Vec::new(),
    };
    if let Some(mut spec) = Fields::of("spec".into(), spec, &mut warnings) {
        if let Some(host) = spec.text("host", &mut warnings) {
            rule.service = target(key, &host).map_err(|reason| spec.warn("host", reason, &mut warnings)).ok();
        }
        if let Some(mut policy) = spec.object("trafficPolicy", &mut warnings) {
            let list = policy.list("portLevelSettings", MAX_PORT_SETTINGS, &mut warnings);
            for (index, value) in list.into_iter().enumerate() {
                let path = policy.at(&format!("portLevelSettings[{index}]"));
                let Some(mut settings) = Fields::of(path, value, &mut warnings) else { continue };
                let port = settings.object("port", &mut warnings);
                let number = port.and_then(|mut port| port.number("number", &mut warnings));
                match number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0) {
                    Some(number) => {
                        let own = traffic(settings, &mut warnings);
                        rule.ports.insert(number, own);
                    }
                    None => settings.warn("port", Reason::Invalid, &mut warnings),
                }
            }
            rule.traffic = traffic(policy, &mut warnings);
        }
        // Who may see the rule: it is for its own namespace in any case.
        spec.accept(&["exportTo"]);
        spec.end(&mut warnings);
    }
    rule.warnings = warnings.0;
    Ok(rule)
}

fn target(key: &Key, host: &str) -> Result<Key, Reason> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut labels = host.splitn(4, '.');
    let name = labels.next().unwrap_or_default();
    let namespace = labels.next();
    if name == "*" || labels.next().is_some_and(|label| label != "svc") {
        return Err(Reason::Unsupported);
    }
    if namespace.is_some_and(|namespace| *namespace != *key.namespace) {
        return Err(Reason::Foreign);
    }
    Key::checked(&key.namespace, name).map_err(|_| Reason::Invalid)
}

fn traffic(mut policy: Fields, warnings: &mut Warnings) -> Traffic {
    let mut traffic = Traffic::default();
    if let Some(balancer) = policy.object("loadBalancer", warnings) {
        load_balancer(balancer, &mut traffic, warnings);
    }
    traffic.outliers = policy.object("outlierDetection", warnings).map(|fields| outliers(fields, warnings));
    if let Some(fields) = policy.object("connectionPool", warnings) {
        traffic.pool = pool(fields, warnings);
    }
    if let Some(mut tls) = policy.object("tls", warnings) {
        // The mesh carries what the application sends, and encrypts between nodes itself.
        if tls.text("mode", warnings).is_none_or(|mode| mode == "DISABLE") {
            tls.end(warnings);
        } else {
            policy.warn("tls", Reason::Unsupported, warnings);
        }
    }
    if let Some(mut proxy) = policy.object("proxyProtocol", warnings) {
        match proxy.text("version", warnings).as_deref() {
            None | Some("V1") => traffic.proxy_protocol = Some(ProxyProtocol::V1),
            Some("V2") => traffic.proxy_protocol = Some(ProxyProtocol::V2),
            Some(_) => proxy.warn("version", Reason::Invalid, warnings),
        }
        proxy.end(warnings);
    }
    policy.end(warnings);
    traffic
}

fn load_balancer(mut fields: Fields, traffic: &mut Traffic, warnings: &mut Warnings) {
    traffic.balance = match fields.text("simple", warnings).as_deref() {
        None | Some("UNSPECIFIED") => None,
        Some("ROUND_ROBIN") => Some(Policy::RoundRobin),
        Some("RANDOM") => Some(Policy::Random),
        Some("LEAST_REQUEST" | "LEAST_CONN") => Some(Policy::LeastRequest),
        Some("PASSTHROUGH") => {
            fields.warn("simple", Reason::Unsupported, warnings);
            None
        }
        Some(_) => {
            fields.warn("simple", Reason::Invalid, warnings);
            None
        }
    };
    if let Some(mut hash) = fields.object("consistentHash", warnings) {
        let header = hash.text("httpHeaderName", warnings);
        let source = hash.boolean("useSourceIp", warnings).unwrap_or_default();
        match header {
            Some(name) if header_name(&name) => {
                let name = name.to_ascii_lowercase().as_str().into();
                traffic.balance = Some(Policy::ConsistentHash(HashKey::Header(name)));
            }
            Some(_) => hash.warn("httpHeaderName", Reason::Invalid, warnings),
            None if source => traffic.balance = Some(Policy::ConsistentHash(HashKey::SourceIp)),
            None => {}
        }
        // How the hash is spread; the mesh's own way needs no table.
        hash.accept(&["minimumRingSize", "ringHash", "maglev"]);
        hash.end(warnings);
    }
    if let Some(mut locality) = fields.object("localityLbSetting", warnings) {
        traffic.nearest_first = Some(locality.boolean("enabled", warnings).unwrap_or(true));
        locality.end(warnings);
    }
    fields.end(warnings);
}

/// RFC 9110: a token.
fn header_name(name: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn outliers(mut fields: Fields, warnings: &mut Warnings) -> OutlierDetection {
    // To a proxy of connections all of these are the same: the endpoint could not be reached. The strictest
    // counts; 0 switches one of them off.
    let names =
        ["consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures", "consecutiveErrors"];
    let counts: Vec<_> = names.iter().filter_map(|name| fields.number(name, warnings)).collect();
    let smallest = counts.iter().copied().filter(|count| *count > 0).min();
    let default = OutlierDetection::default();
    let base_ejection = fields.duration("baseEjectionTime", warnings).filter(|time| !time.is_zero());
    let base_ejection = base_ejection.unwrap_or(default.base_ejection);
    let detection = OutlierDetection {
        consecutive_failures: if counts.is_empty() { default.consecutive_failures } else { smallest.unwrap_or(0) },
        base_ejection,
        max_ejection: default.max_ejection.max(base_ejection),
        max_ejection_percent: fields.percent("maxEjectionPercent", warnings).unwrap_or(default.max_ejection_percent),
        min_health_percent: fields.percent("minHealthPercent", warnings).unwrap_or(default.min_health_percent),
    };
    // Envoy looks at intervals; the mesh ejects at once.
    fields.accept(&["interval", "splitExternalLocalOriginErrors"]);
    fields.end(warnings);
    detection
}

fn pool(mut fields: Fields, warnings: &mut Warnings) -> ConnectionPool {
    let mut pool = ConnectionPool::default();
    if let Some(mut tcp) = fields.object("tcp", warnings) {
        pool.max_connections = tcp.number("maxConnections", warnings).filter(|most| *most > 0);
        pool.connect_timeout = tcp.duration("connectTimeout", warnings).filter(|time| !time.is_zero());
        pool.idle_timeout = tcp.duration("idleTimeout", warnings).filter(|time| !time.is_zero());
        if let Some(mut keepalive) = tcp.object("tcpKeepalive", warnings) {
            pool.keepalive = Some(Keepalive {
                probes: keepalive.number("probes", warnings),
                time: keepalive.duration("time", warnings),
                interval: keepalive.duration("interval", warnings),
            });
            keepalive.end(warnings);
        }
        tcp.end(warnings);
    }
    fields.end(warnings);
    pool
}
