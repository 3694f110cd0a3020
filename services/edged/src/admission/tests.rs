//! Admission by tables: reasons and messages as users of Kubernetes know them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

fn pod(name: &str, spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec})).unwrap()
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn admitted(spec: &Value, others: &[Value], node: &Value) -> Result<(), (String, String)> {
    let node: Node = serde_json::from_value(node.clone()).unwrap();
    let others: Vec<Arc<Pod>> = others.iter().enumerate().map(|(i, s)| Arc::new(pod(&format!("o{i}"), s))).collect();
    let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3"), ("hugepages-2Mi", "8Mi")];
    let allocatable = allocatable.map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into();
    let pod = pod("p", spec);
    let kernel = Kernel { sysctls: Allowlist::new(&[]).unwrap(), app_armor: false };
    let candidate = Candidate {
        pod: &pod,
        others: &others,
        node: Some(&node),
        node_name: "edge-1",
        allocatable: &allocatable,
        kernel: &kernel,
        pressure: Pressure::default(),
        going_down: false,
    };
    admit(&candidate).map_err(|failure| {
        assert!(failure.refused);
        (failure.reason, failure.message)
    })
}

#[test]
fn a_node_that_lacks_something_or_goes_down_takes_only_what_it_must() {
    let of = |spec: Value, pressure, going_down| {
        let (pod, allocatable) = (pod("p", &spec), &BTreeMap::new());
        let kernel = Kernel { sysctls: Allowlist::new(&[]).unwrap(), app_armor: false };
        let candidate = Candidate {
            pod: &pod,
            others: &[],
            node: None,
            node_name: "edge-1",
            allocatable,
            kernel: &kernel,
            pressure,
            going_down,
        };
        admit(&candidate).map_err(|f| (f.reason, f.message))
    };
    let disk = Pressure { disk: true, ..Pressure::default() };
    let plain = || json!({"containers": []});
    let critical = || json!({"containers": [], "priority": 2_000_000_000});
    let (reason, message) = of(plain(), disk, false).unwrap_err();
    assert_eq!(reason, "Evicted");
    assert_eq!(message, "Pod was rejected: The node had condition: [DiskPressure]. ");
    assert_eq!(of(critical(), disk, false), Ok(()));
    assert_eq!(of(critical(), Pressure::default(), true).unwrap_err().0, "NodeShutdown");
    assert_eq!(of(plain(), Pressure::default(), false), Ok(()));
}

#[test]
fn what_does_not_fit_is_refused_with_the_kubelets_words() {
    let node = json!({"metadata": {}});
    assert_eq!(admitted(&asks("1", "1Gi"), &[], &node), Ok(()));
    let (reason, message) = admitted(&asks("1500m", "1Mi"), &[asks("600m", "0")], &node).unwrap_err();
    assert_eq!(reason, "OutOfcpu");
    assert_eq!(
        message,
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000"
    );
    let (reason, message) = admitted(&asks("0", "1Gi"), &[asks("0", "1Ki")], &node).unwrap_err();
    assert_eq!(reason, "OutOfmemory");
    assert!(message.ends_with("memory, requested: 1073741824, used: 1024, capacity: 1073741824"), "{message}");
    let none = json!({"containers": [{"name": "c"}]});
    let three = [none.clone(), none.clone(), none.clone()];
    assert_eq!(admitted(&none, &three[..2], &node), Ok(()));
    assert_eq!(admitted(&none, &three, &node).unwrap_err().0, "OutOfpods");
    let pages = |amount: &str| json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1Mi", "hugepages-2Mi": amount}}}]});
    assert_eq!(admitted(&pages("6Mi"), &[pages("2Mi")], &node), Ok(()));
    assert_eq!(admitted(&pages("8Mi"), &[pages("2Mi")], &node).unwrap_err().0, "OutOfhugepages-2Mi");
    let unknown = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/x": "9"}}}]});
    assert_eq!(admitted(&unknown, &[], &node), Ok(()), "a resource of the cluster");
}

#[test]
fn a_resize_waits_for_others_or_for_ever() {
    let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]);
    let others = [Arc::new(pod("o", &asks("1", "0")))];
    let reason = |cpu: &str| resize(&pod("p", &asks(cpu, "0")), &others, &allocatable).err().map(|p| p.reason);
    assert_eq!((reason("1"), reason("1500m"), reason("3")), (None, Some("Deferred"), Some("Infeasible")));
}

#[test]
fn the_node_itself_is_checked() {
    let node = json!({"metadata": {"labels": {"disk": "ssd", "size": "5"}}, "spec": {"taints": [
        {"key": "k", "value": "v", "effect": "NoExecute"}, {"key": "soft", "effect": "NoSchedule"}]}});
    let bare = json!({"metadata": {"labels": {"disk": "ssd", "size": "5"}}});
    let with = |patch: Value| {
        let mut spec = json!({"containers": []});
        for (key, value) in patch.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let affinity = |expression: Value| {
        with(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}))
    };
    let reason = |spec: &Value, node: &Value| admitted(spec, &[], node).err().map(|e| e.0);
    let no = Some("NodeAffinity".to_owned());
    for (spec, want) in [
        (with(json!({"nodeSelector": {"disk": "ssd"}})), None),
        (with(json!({"nodeSelector": {"disk": "hdd"}})), no.clone()),
        (affinity(json!({"key": "disk", "operator": "In", "values": ["ssd"]})), None),
        (affinity(json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]})), no.clone()),
        (affinity(json!({"key": "none", "operator": "DoesNotExist"})), None),
        (affinity(json!({"key": "none", "operator": "Exists"})), no.clone()),
        (affinity(json!({"key": "size", "operator": "Gt", "values": ["4"]})), None),
        (affinity(json!({"key": "size", "operator": "Lt", "values": ["4"]})), no),
        (with(json!({"nodeName": "edge-1"})), None),
        (with(json!({"nodeName": "edge-2"})), Some("NodeName".to_owned())),
        (with(json!({"os": {"name": "windows"}})), Some("PodOSNotSupported".to_owned())),
    ] {
        assert_eq!(reason(&spec, &bare), want, "{spec}");
    }
    let (_, message) = admitted(&with(json!({"nodeSelector": {"a": "b"}})), &[], &bare).unwrap_err();
    assert_eq!(
        message,
        "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    );
    assert_eq!(reason(&with(json!({})), &node), Some("TaintToleration".to_owned()));
    for toleration in [json!({"operator": "Exists"}), json!({"key": "k", "value": "v", "effect": "NoExecute"})] {
        assert_eq!(reason(&with(json!({"tolerations": [toleration]})), &node), None);
    }
    let other = json!({"key": "k", "value": "w"});
    assert_eq!(reason(&with(json!({"tolerations": [other]})), &node), Some("TaintToleration".to_owned()));
}

#[test]
fn ports_of_the_host_are_given_once() {
    let node = json!({"metadata": {}});
    let port = |port: u16, ip: &str, protocol: &str| {
        json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]})
    };
    let taken = [port(80, "10.0.0.1", "TCP")];
    for (wanted, free) in [
        (port(80, "10.0.0.2", "TCP"), true),
        (port(80, "10.0.0.1", "UDP"), true),
        (port(81, "10.0.0.1", "TCP"), true),
        (port(80, "10.0.0.1", "TCP"), false),
        (port(80, "", "TCP"), false),
        (port(80, "0.0.0.0", "TCP"), false),
    ] {
        let got = admitted(&wanted, &taken, &node);
        assert_eq!(got.is_ok(), free, "{wanted}");
        assert!(free || got.unwrap_err().0 == "NodePorts");
    }
}

#[test]
fn what_the_kernel_does_not_do_is_refused() {
    let node = json!({"metadata": {}});
    let with = |context: Value| json!({"containers": [{"name": "c"}], "securityContext": context});
    let sysctl = |name: &str| with(json!({"sysctls": [{"name": name, "value": "1"}]}));
    assert_eq!(admitted(&sysctl("net.ipv4.tcp_syncookies"), &[], &node), Ok(()));
    let (reason, message) = admitted(&sysctl("kernel.msgmax"), &[], &node).unwrap_err();
    assert_eq!(reason, "SysctlForbidden");
    assert_eq!(message, "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    let profile = |kind: &str| with(json!({"appArmorProfile": {"type": kind}}));
    assert_eq!(admitted(&profile("Unconfined"), &[], &node), Ok(()));
    let (reason, message) = admitted(&profile("RuntimeDefault"), &[], &node).unwrap_err();
    assert_eq!(reason, "AppArmor");
    assert_eq!(message, "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host");
}

#[test]
fn a_critical_pod_takes_the_place_of_others() {
    let of = |name: &str, cpu: &str, memory: &str, priority: i64, limits: bool| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        let kind = if limits { "limits" } else { "requests" };
        pod(name, &json!({"priority": priority, "containers": [{"name": "c", "resources": {kind: amounts}}]}))
    };
    let critical = |cpu: &str, memory: &str| of("critical", cpu, memory, 2_000_000_000, false);
    let others: Vec<Arc<Pod>> = [
        of("guaranteed", "500m", "200Mi", 0, true),
        of("large", "800m", "100Mi", 0, false),
        of("small", "300m", "100Mi", 0, false),
        of("ends", "100m", "100Mi", 0, false),
        of("vital", "300m", "100Mi", 2_000_000_000, false),
        pod("nothing", &json!({"containers": [{"name": "c"}]})),
    ]
    .map(Arc::new)
    .into();
    let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "7")];
    let allocatable: BTreeMap<_, _> = allocatable.map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into();
    let kernel = Kernel { sysctls: Allowlist::new(&[]).unwrap(), app_armor: false };
    let ending = BTreeSet::from(["ends".to_owned()]);
    let chosen = |pod: &Pod, others: &[Arc<Pod>]| {
        let (node, pressure, going_down) = (None, Pressure::default(), false);
        let (node_name, allocatable, kernel) = ("edge-1", &allocatable, &kernel);
        let candidate = Candidate { pod, others, node, node_name, allocatable, kernel, pressure, going_down };
        let victims = victims(&candidate, &ending)?;
        Some(victims.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>())
    };
    // All of the CPU is requested.
    for (cpu, memory, want) in [
        ("100m", "0", Some(vec![])),
        ("300m", "0", Some(vec!["small"])),
        ("700m", "0", Some(vec!["large"])),
        ("1200m", "0", Some(vec!["large", "small"])),
        ("1300m", "0", Some(vec!["large", "guaranteed"])),
        ("1800m", "0", None),
        ("100m", "700Mi", Some(vec!["small", "large"])),
    ] {
        let got = chosen(&critical(cpu, memory), &others);
        let want = want.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(got, want, "{cpu} {memory}");
    }
    assert_eq!(chosen(&of("usual", "100m", "0", 5, false), &others), None, "only a critical one");
    let mut elsewhere = critical("100m", "0");
    elsewhere.spec.as_mut().unwrap().node_name = Some("edge-2".into());
    assert_eq!(chosen(&elsewhere, &others), None, "no room would help");
    let full = [&others[..], &[Arc::new(pod("idle", &json!({"containers": [{"name": "c"}]})))]].concat();
    assert_eq!(chosen(&critical("0", "0"), &full), Some(vec![]), "one place will be free");
    let most = of("most", "100m", "0", 2_000_001_000, false);
    assert_eq!(chosen(&most, &others[4..]), Some(vec![]), "it fits");
}
