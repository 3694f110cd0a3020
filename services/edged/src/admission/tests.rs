//! Admission by tables: reasons and messages as users of Kubernetes know them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

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
