//! Rows of the other built-in kinds: Node, Service, ConfigMap, Secret, Event, Lease and so on.
//!
//! Called through `table`. Kinds that are not here get NAME and AGE. Limits: none. Pure: nothing to lose on a crash.

use super::{Printer, age, labels_text, object_age, or_none};
use crate::json::{int_at, list_at, map_at, str_at};
use crate::meta;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(kind: &str) -> Option<Printer> {
    Some(match kind {
        "Node" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Status", "string", 0),
                ("Roles", "string", 0),
                ("Age", "string", 0),
                ("Version", "string", 0),
                ("Internal-IP", "string", 1),
                ("External-IP", "string", 1),
                ("OS-Image", "string", 1),
                ("Kernel-Version", "string", 1),
                ("Container-Runtime", "string", 1),
            ],
            cells: node,
        },
        "Namespace" => Printer {
            columns: &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
            cells: |o, now| vec![meta::name(o).into(), str_at(o, "/status/phase").into(), object_age(o, now)],
        },
        "Service" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Type", "string", 0),
                ("Cluster-IP", "string", 0),
                ("External-IP", "string", 0),
                ("Port(s)", "string", 0),
                ("Age", "string", 0),
                ("Selector", "string", 1),
            ],
            cells: service,
        },
        "EndpointSlice" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("AddressType", "string", 0),
                ("Ports", "string", 0),
                ("Endpoints", "string", 0),
                ("Age", "string", 0),
            ],
            cells: endpoint_slice,
        },
        "ConfigMap" => Printer {
            columns: &[("Name", "string", 0), ("Data", "integer", 0), ("Age", "string", 0)],
            cells: |o, now| {
                vec![meta::name(o).into(), (size(o, "/data") + size(o, "/binaryData")).into(), object_age(o, now)]
            },
        },
        "Secret" => Printer {
            columns: &[("Name", "string", 0), ("Type", "string", 0), ("Data", "integer", 0), ("Age", "string", 0)],
            cells: |o, now| {
                vec![meta::name(o).into(), str_at(o, "/type").into(), size(o, "/data").into(), object_age(o, now)]
            },
        },
        "ServiceAccount" => Printer {
            columns: &[("Name", "string", 0), ("Secrets", "integer", 0), ("Age", "string", 0)],
            cells: |o, now| vec![meta::name(o).into(), list_at(o, "/secrets").len().into(), object_age(o, now)],
        },
        "Lease" => Printer {
            columns: &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)],
            cells: |o, now| vec![meta::name(o).into(), str_at(o, "/spec/holderIdentity").into(), object_age(o, now)],
        },
        "Event" => Printer {
            columns: &[
                ("Last Seen", "string", 0),
                ("Type", "string", 0),
                ("Reason", "string", 0),
                ("Object", "string", 0),
                ("Subobject", "string", 1),
                ("Source", "string", 1),
                ("Message", "string", 0),
                ("First Seen", "string", 1),
                ("Count", "string", 1),
                ("Name", "string", 1),
            ],
            cells: event,
        },
        "PersistentVolumeClaim" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Status", "string", 0),
                ("Volume", "string", 0),
                ("Capacity", "string", 0),
                ("Access Modes", "string", 0),
                ("StorageClass", "string", 0),
                ("Age", "string", 0),
            ],
            cells: |o, now| {
                vec![
                    meta::name(o).into(),
                    str_at(o, "/status/phase").into(),
                    str_at(o, "/spec/volumeName").into(),
                    str_at(o, "/status/capacity/storage").into(),
                    access_modes(o, "/status/accessModes").into(),
                    str_at(o, "/spec/storageClassName").into(),
                    object_age(o, now),
                ]
            },
        },
        "PersistentVolume" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Capacity", "string", 0),
                ("Access Modes", "string", 0),
                ("Reclaim Policy", "string", 0),
                ("Status", "string", 0),
                ("Claim", "string", 0),
                ("StorageClass", "string", 0),
                ("Reason", "string", 0),
                ("Age", "string", 0),
            ],
            cells: |o, now| {
                let claim = match str_at(o, "/spec/claimRef/name") {
                    "" => String::new(),
                    name => format!("{}/{name}", str_at(o, "/spec/claimRef/namespace")),
                };
                vec![
                    meta::name(o).into(),
                    str_at(o, "/spec/capacity/storage").into(),
                    access_modes(o, "/spec/accessModes").into(),
                    str_at(o, "/spec/persistentVolumeReclaimPolicy").into(),
                    str_at(o, "/status/phase").into(),
                    claim.into(),
                    str_at(o, "/spec/storageClassName").into(),
                    str_at(o, "/status/reason").into(),
                    object_age(o, now),
                ]
            },
        },
        "RuntimeClass" => Printer {
            columns: &[("Name", "string", 0), ("Handler", "string", 0), ("Age", "string", 0)],
            cells: |o, now| vec![meta::name(o).into(), str_at(o, "/handler").into(), object_age(o, now)],
        },
        "RoleBinding" | "ClusterRoleBinding" => Printer {
            columns: &[("Name", "string", 0), ("Role", "string", 0), ("Age", "string", 0)],
            cells: |o, now| {
                let role = format!("{}/{}", str_at(o, "/roleRef/kind"), str_at(o, "/roleRef/name"));
                vec![meta::name(o).into(), role.into(), object_age(o, now)]
            },
        },
        "Role" | "ClusterRole" | "CustomResourceDefinition" => Printer {
            columns: &[("Name", "string", 0), ("Created At", "date", 0)],
            cells: |o, _| vec![meta::name(o).into(), str_at(o, "/metadata/creationTimestamp").into()],
        },
        "StorageClass" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Provisioner", "string", 0),
                ("ReclaimPolicy", "string", 0),
                ("Age", "string", 0),
            ],
            cells: |o, now| {
                let policy = match str_at(o, "/reclaimPolicy") {
                    "" => "Delete",
                    other => other,
                };
                vec![meta::name(o).into(), str_at(o, "/provisioner").into(), policy.into(), object_age(o, now)]
            },
        },
        "PriorityClass" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Value", "integer", 0),
                ("Global-Default", "boolean", 0),
                ("Age", "string", 0),
            ],
            cells: |o, now| {
                let global = o.get("globalDefault").and_then(Value::as_bool).unwrap_or(false);
                vec![meta::name(o).into(), int_at(o, "/value").unwrap_or(0).into(), global.into(), object_age(o, now)]
            },
        },
        "Endpoints" => Printer {
            columns: &[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)],
            cells: |o, now| {
                let mut all = Vec::new();
                for subset in list_at(o, "/subsets") {
                    for address in list_at(subset, "/addresses") {
                        for port in list_at(subset, "/ports") {
                            all.push(format!("{}:{}", str_at(address, "/ip"), int_at(port, "/port").unwrap_or(0)));
                        }
                    }
                }
                vec![meta::name(o).into(), or_none(shortened(&all)).into(), object_age(o, now)]
            },
        },
        _ => return None,
    })
}

fn size(object: &Value, pointer: &str) -> usize {
    map_at(object, pointer).map_or(0, serde_json::Map::len)
}

fn access_modes(object: &Value, pointer: &str) -> String {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    list_at(object, pointer).iter().filter_map(Value::as_str).map(short).collect::<Vec<_>>().join(",")
}

/// Three items, then how many more.
fn shortened(items: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if items.len() > SHOWN {
        text.push_str(&format!(" + {} more...", items.len() - SHOWN));
    }
    text
}

fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list_at(o, "/status/conditions").iter().find(|c| str_at(c, "/type") == "Ready");
    let mut status = match ready.map(|c| str_at(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in map_at(o, "/metadata/labels").into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" => roles.extend(value.as_str()),
            _ => {}
        }
    }
    let address = |kind: &str| {
        let found = list_at(o, "/status/addresses").iter().find(|a| str_at(a, "/type") == kind);
        Value::from(or_none(found.map_or("", |a| str_at(a, "/address"))))
    };
    let info = |field: &str| Value::from(or_unknown(str_at(o, &format!("/status/nodeInfo/{field}"))));
    vec![
        meta::name(o).into(),
        status.into(),
        or_none(roles.join(",")).into(),
        object_age(o, now),
        str_at(o, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
}

fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let kind = str_at(o, "/spec/type");
    let mut external: Vec<&str> = list_at(o, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    for ingress in list_at(o, "/status/loadBalancer/ingress") {
        external.extend([str_at(ingress, "/ip"), str_at(ingress, "/hostname")].iter().filter(|t| !t.is_empty()));
    }
    let external = match (kind, external.is_empty()) {
        ("ExternalName", _) => str_at(o, "/spec/externalName").to_owned(),
        ("LoadBalancer", true) => "<pending>".to_owned(),
        _ => or_none(external.join(",")),
    };
    let ports = list_at(o, "/spec/ports").iter().map(|p| {
        let (port, protocol) = (int_at(p, "/port").unwrap_or(0), str_at(p, "/protocol"));
        match int_at(p, "/nodePort") {
            Some(node) if node > 0 => format!("{port}:{node}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    });
    vec![
        meta::name(o).into(),
        kind.into(),
        or_none(str_at(o, "/spec/clusterIP")).into(),
        external.into(),
        or_none(ports.collect::<Vec<_>>().join(",")).into(),
        object_age(o, now),
        labels_text(o.pointer("/spec/selector")).into(),
    ]
}

fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> =
        list_at(o, "/ports").iter().map(|p| int_at(p, "/port").map_or("*".into(), |n| n.to_string())).collect();
    let addresses: Vec<String> = list_at(o, "/endpoints")
        .iter()
        .flat_map(|e| list_at(e, "/addresses"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    vec![
        meta::name(o).into(),
        str_at(o, "/addressType").into(),
        unset(shortened(&ports)).into(),
        unset(shortened(&addresses)).into(),
        object_age(o, now),
    ]
}

fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let pick = |pointers: &[&str]| {
        let found = pointers.iter().map(|p| str_at(o, p)).find(|t| !t.is_empty()).unwrap_or("");
        if found.is_empty() { Value::from("<unknown>") } else { age(found, now) }
    };
    let last = pick(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
    let first = pick(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
    let involved =
        format!("{}/{}", str_at(o, "/involvedObject/kind").to_ascii_lowercase(), str_at(o, "/involvedObject/name"));
    let component = match str_at(o, "/source/component") {
        "" => str_at(o, "/reportingComponent"),
        component => component,
    };
    let source = match str_at(o, "/source/host") {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    let count = int_at(o, "/series/count").or_else(|| int_at(o, "/count")).unwrap_or(1);
    vec![
        last,
        str_at(o, "/type").into(),
        str_at(o, "/reason").into(),
        involved.into(),
        str_at(o, "/involvedObject/fieldPath").into(),
        source.into(),
        str_at(o, "/message").trim().into(),
        first,
        count.to_string().into(),
        meta::name(o).into(),
    ]
}
