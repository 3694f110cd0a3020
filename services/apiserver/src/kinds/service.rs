//! Services and EndpointSlices: defaults and validation. Addresses are given out by `services`.
//!
//! Invariant: a cluster IP does not change while the type keeps one. Limits: none. Stateless.

use serde_json::{Value, json};
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{as_map, default_to, int_at, list_at, map_mut, str_at};
use std::collections::HashSet;

pub(super) fn defaults(service: &mut Value) {
    let spec = map_mut(service, &["spec"]);
    default_to(spec, "type", "ClusterIP");
    default_to(spec, "sessionAffinity", "None");
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
    if kind != "ExternalName" {
        default_to(spec, "ipFamilies", json!(["IPv4"]));
        default_to(spec, "ipFamilyPolicy", "SingleStack");
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = as_map(port);
        default_to(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            if port.get("targetPort").is_some_and(|t| t == 0 || t == "") {
                port.remove("targetPort");
            }
            default_to(port, "targetPort", number);
        }
        if kind == "ClusterIP" {
            port.remove("nodePort");
        }
    }
}

pub(super) fn validate(service: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let kind = str_at(service, "/spec/type");
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", kind, &kinds));
    }
    let ports = list_at(service, "/spec/ports");
    let headless = str_at(service, "/spec/clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName" && str_at(service, "/spec/externalName").is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let number = int_at(port, "/port").unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            errors.push(FieldError::invalid(format!("{at}.port"), number, "must be between 1 and 65535, inclusive"));
        }
        let name = str_at(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        let protocol = str_at(port, "/protocol");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            errors.push(FieldError::not_supported(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
        if !numbers.insert((number, protocol)) {
            errors.push(FieldError::duplicate(at, format!("{number}/{protocol}")));
        }
    }
    if let Some(old) = old {
        let (before, after) = (str_at(old, "/spec/clusterIP"), str_at(service, "/spec/clusterIP"));
        if !before.is_empty()
            && before != after
            && !after.is_empty()
            && str_at(old, "/spec/type") != "ExternalName"
            && kind != "ExternalName"
        {
            errors.push(FieldError::invalid("spec.clusterIPs[0]", after, "may not change once set"));
        }
    }
}

/// A replacement without a cluster IP keeps the one it has.
pub(crate) fn keep_address(new: &mut Value, old: &Value) {
    if str_at(new, "/spec/type") == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs"] {
        if let Some(value) = old.pointer(&format!("/spec/{field}")) {
            let spec = map_mut(new, &["spec"]);
            let empty =
                spec.get(field).is_none_or(|v| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty));
            if empty {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    let old_ports: Vec<Value> = list_at(old, "/spec/ports").to_vec();
    for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |p: &&Value| p.get("port") == port.get("port") && p.get("protocol") == port.get("protocol");
        if let Some(number) = old_ports.iter().find(same).and_then(|p| p.get("nodePort")).cloned() {
            default_to(as_map(port), "nodePort", number);
        }
    }
}

pub(super) fn slice_defaults(slice: &mut Value) {
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = as_map(port);
        default_to(port, "name", "");
        default_to(port, "protocol", "TCP");
    }
}
