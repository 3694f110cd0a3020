//! Which endpoints a Service should have.
//!
//! Pure: the Service, the pods that it selects and the zones of nodes go in; endpoints grouped by address
//! family and ports come out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::{is_finished, is_ready, name, node_name};

/// Endpoints of one slice family: same address type and ports.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) address_type: &'static str,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The selector of a Service whose endpoints are ours to make.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// What of a pod matters to endpoints; a change of anything else is ignored.
pub(super) fn relevant(pod: &Pod) -> impl PartialEq {
    let spec = pod.spec.as_ref();
    (
        pod.metadata.uid.clone(),
        pod.metadata.labels.clone(),
        pod.metadata.deletion_timestamp.is_some(),
        addresses(pod),
        is_ready(pod),
        is_finished(pod),
        spec.and_then(|s| s.node_name.clone()),
        spec.map(|s| (s.hostname.clone(), s.subdomain.clone())),
    )
}

fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if all.is_empty() { status.pod_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect() } else { all }
}

/// The address families of a Service, as EndpointSlice address types.
fn address_types(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let mut out: Vec<&'static str> = Vec::new();
    for family in families {
        match family.as_str() {
            "IPv4" => out.push("IPv4"),
            "IPv6" => out.push("IPv6"),
            _ => {}
        }
    }
    if out.is_empty() {
        let cluster_ip = spec.and_then(|s| s.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
        out.push(if cluster_ip.is_some_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" });
    }
    out
}

fn family_of(address: &str) -> Option<&'static str> {
    address.parse::<IpAddr>().ok().map(|ip| if ip.is_ipv6() { "IPv6" } else { "IPv4" })
}

/// The ports of `service` on `pod`; a named target port that the pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let service_ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let resolve = |port: &k8s_openapi::api::core::v1::ServicePort| -> Option<EndpointPort> {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(n)) => *n,
            Some(IntOrString::String(wanted)) => {
                let spec = pod.spec.as_ref()?;
                let sidecars =
                    spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
                let mut all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
                all.find(|p| p.name.as_deref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol)?
                    .container_port
            }
        };
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol.to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    service_ports.iter().filter_map(resolve).collect()
}

fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let spec = pod.spec.as_ref();
    let hostname = spec
        .and_then(|s| s.hostname.clone())
        .filter(|h| !h.is_empty() && spec.and_then(|s| s.subdomain.as_deref()) == Some(name(service)));
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: node_name(pod).map(str::to_owned),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// All endpoints of `service`. Each address family has at least one group, so that consumers can tell
/// "no endpoints" from "not known yet".
pub(super) fn groups(service: &Service, selected: &[Arc<Pod>], zone: impl Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut out = Vec::new();
    for address_type in address_types(service) {
        let mut groups: Vec<Group> = Vec::new();
        for pod in selected.iter().filter(|p| !is_finished(p)) {
            let Some(address) = addresses(pod).into_iter().find(|a| family_of(a) == Some(address_type)) else {
                continue;
            };
            let ports = ports(service, pod);
            let endpoint = endpoint(service, pod, address, node_name(pod).and_then(&zone));
            match groups.iter_mut().find(|g| g.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type, ports, endpoints: vec![endpoint] }),
            }
        }
        if groups.is_empty() {
            groups.push(Group { address_type, ports: Vec::new(), endpoints: Vec::new() });
        }
        out.extend(groups);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let mut base = json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]});
        json_patch::merge(&mut base, &spec);
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": base})).unwrap()
    }

    fn pod(patch: Value) -> Arc<Pod> {
        let mut base = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8000}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}
        });
        json_patch::merge(&mut base, &patch);
        Arc::new(serde_json::from_value(base).unwrap())
    }

    fn flags(service: &Service, pod: Arc<Pod>) -> Option<(bool, bool, bool)> {
        let groups = groups(service, &[pod], |_| None);
        let c = groups[0].endpoints.first()?.conditions.clone().unwrap();
        Some((c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()))
    }

    #[test]
    fn conditions() {
        let plain = service(json!({}));
        let publishing = service(json!({"publishNotReadyAddresses": true}));
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        for (service, patch, expected) in [
            (&plain, json!({}), Some((true, true, false))),
            (&plain, not_ready.clone(), Some((false, false, false))),
            (&publishing, not_ready, Some((true, false, false))),
            (&plain, going.clone(), Some((false, true, true))),
            (&publishing, going, Some((true, true, true))),
            (&plain, json!({"status": {"phase": "Succeeded"}}), None),
            (&plain, json!({"status": {"podIPs": []}}), None),
            (&plain, json!({"status": {"podIPs": [{"ip": "fd00::1"}]}}), None),
        ] {
            assert_eq!(flags(service, pod(patch.clone())), expected, "{patch}");
        }
    }

    #[test]
    fn ports_by_number_and_name() {
        let port = |spec: Value| {
            groups(&service(spec), &[pod(json!({}))], |_| None)[0]
                .ports
                .iter()
                .map(|p| p.port.unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(port(json!({})), [8080]);
        assert_eq!(port(json!({"ports": [{"port": 80}]})), [80]);
        assert_eq!(port(json!({"ports": [{"port": 80, "targetPort": "web"}]})), [8000]);
        assert_eq!(port(json!({"ports": [{"port": 80, "targetPort": "none"}]})), Vec::<i32>::new());
        assert_eq!(port(json!({"clusterIP": "None", "ports": null})), Vec::<i32>::new());
    }

    #[test]
    fn families_hostnames_zones_and_placeholders() {
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let both = pod(
            json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, "spec": {"hostname": "h", "subdomain": "s"}}),
        );
        let out = groups(&dual, &[both], |n| Some(format!("zone of {n}")));
        assert_eq!(out.len(), 2);
        assert_eq!(out[1].endpoints[0].addresses, ["fd00::1"]);
        assert_eq!(out[0].endpoints[0].hostname.as_deref(), Some("h"));
        assert_eq!(out[0].endpoints[0].zone.as_deref(), Some("zone of n"));
        let none = groups(&dual, &[], |_| None);
        assert_eq!(none.len(), 2);
        assert!(none.iter().all(|g| g.endpoints.is_empty()));
        assert!(selector(&service(json!({"type": "ExternalName"}))).is_none());
        assert!(selector(&service(json!({"selector": null}))).is_none());
    }
}
