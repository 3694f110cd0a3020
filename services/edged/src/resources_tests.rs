//! Quantities, classes and limits, by tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use serde_json::json;

fn q(text: &str) -> Quantity {
    Quantity(text.into())
}

#[test]
fn quantities_are_read() {
    for (text, want) in [
        ("1", 1000),
        ("100m", 100),
        ("1.5", 1500),
        ("0.1", 100),
        ("1Ki", 1_024_000),
        ("64Mi", 67_108_864_000),
        ("1e3", 1_000_000),
        ("1E", 1_000_000_000_000_000_000_000),
        ("1u", 1),
        ("-1", -1000),
    ] {
        assert_eq!(milli(&q(text)), Some(want), "{text}");
    }
    for bad in ["", "x", "1x", "1.2.3", "--1"] {
        assert!(milli(&q(bad)).is_none_or(|v| bad.is_empty() && v == 0), "{bad}");
    }
    assert_eq!(units(&q("1500m")), Some(2));
}

fn pod(resources: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {}, "spec": { "containers": [{ "name": "a", "resources": resources }] }
    }))
    .unwrap()
}

#[test]
fn classes_follow_requests_and_limits() {
    let cases = [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
    ];
    for (resources, want) in cases {
        assert_eq!(qos(&pod(&resources)).name(), want, "{resources}");
    }
}

#[test]
fn control_groups_get_the_kubelets_numbers() {
    let pod = pod(&json!({"limits": {"cpu": "500m", "memory": "32Mi"}, "requests": {"cpu": "10m", "memory": "8Mi"}}));
    let node = NodeResources { memory_capacity: 1 << 30, ..NodeResources::default() };
    let got = of_container(&pod, &pod.containers()[0], &node);
    assert_eq!((got.cpu_shares, got.cpu_quota, got.cpu_period), (10, 50_000, 100_000));
    assert_eq!(got.memory_limit_in_bytes, 32 << 20);
    assert_eq!(got.oom_score_adj, 1000 - 7);
    let none = whole(&json!({"containers": [{"name": "a"}]}));
    let got = of_container(&none, &none.containers()[0], &node);
    assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj), (2, 0, 0, 1000));
}

#[test]
fn fields_are_divided_and_rounded_up() {
    let pod = pod(&json!({"limits": {"cpu": "1500m", "memory": "1Mi"}}));
    let c = &pod.containers()[0];
    let none = BTreeMap::new();
    assert_eq!(field(c, "limits.cpu", None, &none).unwrap(), "2");
    assert_eq!(field(c, "limits.cpu", Some(&q("1m")), &none).unwrap(), "1500");
    assert_eq!(field(c, "requests.memory", Some(&q("1Ki")), &none).unwrap(), "1024");
    assert_eq!(field(c, "limits.ephemeral-storage", None, &none), None);
}

fn whole(spec: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()
}

#[test]
fn totals_count_what_runs_at_a_time_and_overhead() {
    let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
    for (spec, want) in [
        (json!({"containers": [c("100m"), c("50m")]}), Some(150)),
        (json!({"containers": [c("100m")], "initContainers": [c("300m"), c("200m")]}), Some(300)),
        (json!({"containers": [c("100m")], "initContainers": [sidecar("50m"), c("200m")]}), Some(250)),
        (json!({"containers": [c("300m")], "initContainers": [c("200m"), sidecar("50m")]}), Some(350)),
        (json!({"containers": [c("100m")], "overhead": {"cpu": "20m"}}), Some(120)),
        (
            json!({"containers": [c("100m")], "resources": {"requests": {"cpu": "1"}}, "overhead": {"cpu": "20m"}}),
            Some(1020),
        ),
        (json!({"containers": [{"name": "c"}]}), None),
    ] {
        assert_eq!(total(&whole(&spec), false, "cpu"), want, "{spec}");
    }
    let limited = json!({"containers": [{"name": "c"}], "overhead": {"memory": "1Mi"}});
    assert_eq!(total(&whole(&limited), true, "memory"), None);
    assert_eq!(of_overhead(&whole(&limited)).unwrap().memory_limit_in_bytes, 1 << 20);
    assert_eq!(of_pod(&whole(&limited)).memory_limit_in_bytes, 0);
}

#[test]
fn resources_of_the_pod_itself_decide_its_class() {
    for (resources, want) in [
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
        (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}), "Burstable"),
        (json!({}), "BestEffort"),
    ] {
        let pod = whole(&json!({"resources": resources, "containers": [{"name": "c"}]}));
        assert_eq!(qos(&pod).name(), want, "{resources}");
    }
}

#[test]
fn version_2_gets_its_own_files_and_swap_is_off() {
    let pod = pod(&json!({"limits": {"memory": "100Mi"}, "requests": {"memory": "50Mi"}}));
    let mut node = NodeResources { memory_capacity: 1 << 30, unified: true, ..NodeResources::default() };
    let files = |node: &NodeResources| {
        let files: BTreeMap<String, String> =
            of_container(&pod, &pod.containers()[0], node).unified.into_iter().collect();
        files.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(files(&node), "");
    node.swap_limits = true;
    assert_eq!(files(&node), "memory.swap.max=0");
    node.memory_throttling = Some(0.9);
    let high = ((50_i64 << 20) + (50 << 20) * 9 / 10) / 4096 * 4096;
    assert_eq!(files(&node), format!("memory.high={high} memory.min={} memory.swap.max=0", 50 << 20));
    node.unified = false;
    assert_eq!(files(&node), "");
    assert_eq!(of_container(&pod, &pod.containers()[0], &node).memory_swap_limit_in_bytes, 100 << 20);
}

#[test]
fn huge_pages_that_are_not_asked_for_are_forbidden() {
    let pod = pod(&json!({"limits": {"hugepages-2Mi": "4Mi", "memory": "1Mi", "cpu": "1"}}));
    let node = NodeResources { huge_pages: vec!["2MB".into(), "1GB".into()], ..NodeResources::default() };
    let got = of_container(&pod, &pod.containers()[0], &node).hugepage_limits;
    let got: Vec<(&str, u64)> = got.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
    assert_eq!(got, [("2MB", 4 << 20), ("1GB", 0)]);
    for (resource, want) in [("hugepages-64Ki", "64KB"), ("hugepages-1Gi", "1GB")] {
        assert_eq!(huge_page_size(resource).as_deref(), Some(want));
    }
    assert_eq!(huge_page_size("memory"), None);
}

#[test]
fn oom_scores_are_the_kubelets() {
    let c = |name: &str, memory: &str| json!({"name": name, "resources": {"requests": {"memory": memory}}});
    let score = |spec: serde_json::Value| {
        let pod = whole(&spec);
        let of = pod.init_containers().first().unwrap_or(&pod.containers()[0]).clone();
        oom_score_adj(&pod, &of, 1 << 30)
    };
    assert_eq!(score(json!({"containers": [c("a", "256Mi")]})), 750);
    assert_eq!(score(json!({"containers": [c("a", "2Gi")]})), 3);
    assert_eq!(score(json!({"containers": [c("a", "1")]})), 999);
    let mut sidecar = c("s", "1Mi");
    sidecar["restartPolicy"] = "Always".into();
    assert_eq!(score(json!({"initContainers": [sidecar], "containers": [c("a", "256Mi")]})), 750);
    let shared =
        json!({"resources": {"requests": {"memory": "512Mi"}}, "containers": [c("a", "256Mi"), {"name": "b"}]});
    assert_eq!(score(shared), 625);
    let critical =
        json!({"priority": 2_000_001_000, "priorityClassName": "system-node-critical", "containers": [{"name": "c"}]});
    assert_eq!(score(critical), -997);
    let cluster = json!({"priority": 2_000_000_000, "priorityClassName": "system-cluster-critical", "containers": [{"name": "c"}]});
    assert_eq!(score(cluster), 1000);
}
