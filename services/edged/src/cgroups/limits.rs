//! The limits of a pod as a whole, and the files that say so to the kernel. Pure.
//!
//! Values and formulas are the kubelet's. Every file is always written, with "no limit" where there
//! is none, so that writing is idempotent and a limit that was taken away is gone.

use k8s_openapi::api::core::v1::Pod;

use crate::resources::{self, MAX_SHARES, MIN_SHARES, NodeResources, PERIOD_US, Qos};

/// The limits of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodLimits {
    shares: i64,
    /// All of the following is left alone in the group of a class.
    of_pod: Option<OfPod>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfPod {
    /// µs of each [`PERIOD_US`].
    quota: Option<i64>,
    /// Bytes.
    memory: Option<i64>,
    /// Bytes that are not reclaimed (version 2).
    memory_min: i64,
    pids: Option<i64>,
    /// Size of page and bytes.
    huge_pages: Vec<(String, i64)>,
}

/// A file of a controller and what is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) controller: &'static str,
    pub(super) name: String,
    pub(super) value: String,
}

impl File {
    /// Kernels without bandwidth control and huge pages are fine as long as nobody asks for them.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self.value.as_str(), "-1" | "max" | "0")
            || self.name == "cpu.cfs_period_us"
            || self.value.starts_with("max ")
    }
}

impl PodLimits {
    /// Of a class, which shares the CPU and limits nothing else.
    pub(super) fn shares(shares: i64) -> Self {
        Self { shares, of_pod: None }
    }

    /// Of a pod. `pids` below 0: no limit.
    pub(super) fn of(pod: &Pod, pids: i64, node: &NodeResources) -> Self {
        let class = resources::qos(pod);
        let limit = |name: &str| match class {
            Qos::BestEffort => None,
            // One container without a limit may use what the others leave.
            _ => resources::total(pod, true, name).filter(|_| resources::is_limited(pod, name)),
        };
        let bytes = |milli: i128| i64::try_from(milli / 1000).unwrap_or(i64::MAX);
        let pages = |size: &String| {
            let asked = resources::requested_names(pod)
                .into_iter()
                .find(|name| resources::huge_page_size(name).as_ref() == Some(size))
                .and_then(|name| resources::total(pod, false, name));
            (size.clone(), asked.map_or(0, bytes))
        };
        let request = resources::total(pod, false, "memory").map_or(0, bytes);
        Self {
            shares: match class {
                Qos::BestEffort => MIN_SHARES,
                _ => resources::shares(resources::total(pod, false, "cpu").unwrap_or(0)),
            },
            of_pod: Some(OfPod {
                quota: limit("cpu").map(resources::quota),
                memory: limit("memory").map(bytes),
                memory_min: if node.memory_throttling.is_some() { request } else { 0 },
                pids: (pids >= 0).then_some(pids),
                huge_pages: node.huge_pages.iter().map(pages).collect(),
            }),
        }
    }

    /// The files for a version of control groups.
    pub(super) fn files(&self, unified: bool) -> Vec<File> {
        let mut files = Vec::new();
        let mut file =
            |controller, name: &str, value: String| files.push(File { controller, name: name.to_owned(), value });
        if unified {
            file("cpu", "cpu.weight", weight(self.shares).to_string());
        } else {
            file("cpu", "cpu.shares", self.shares.to_string());
        }
        let Some(pod) = &self.of_pod else { return files };
        let or = |value: Option<i64>, none: &str| value.map_or_else(|| none.to_owned(), |v| v.to_string());
        if unified {
            file("cpu", "cpu.max", format!("{} {PERIOD_US}", or(pod.quota, "max")));
            file("memory", "memory.max", or(pod.memory, "max"));
            file("memory", "memory.min", pod.memory_min.to_string());
        } else {
            file("cpu", "cpu.cfs_period_us", PERIOD_US.to_string());
            file("cpu", "cpu.cfs_quota_us", or(pod.quota, "-1"));
            file("memory", "memory.limit_in_bytes", or(pod.memory, "-1"));
        }
        file("pids", "pids.max", or(pod.pids, "max"));
        for (size, bytes) in &pod.huge_pages {
            let last = if unified { "max" } else { "limit_in_bytes" };
            file("hugetlb", &format!("hugetlb.{size}.{last}"), bytes.to_string());
        }
        files
    }
}

/// The weight of version 2, 1 to 10,000, for shares of version 1.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9_999 / (MAX_SHARES - MIN_SHARES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn files(spec: &Value, pids: i64, node: &NodeResources, unified: bool) -> String {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let files = PodLimits::of(&pod, pids, node).files(unified);
        files.iter().map(|f| format!("{}={}", f.name, f.value)).collect::<Vec<_>>().join(" ")
    }

    fn c(resources: &Value) -> Value {
        json!({ "name": "c", "resources": resources })
    }

    #[test]
    fn limits_are_written_for_both_versions() {
        let node = NodeResources::default();
        let none = json!({"containers": [c(&json!({}))]});
        let burstable = json!({"containers": [c(&json!({"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}))]});
        let guaranteed = json!({
            "containers": [c(&json!({"limits": {"cpu": "500m", "memory": "64Mi"}}))],
            "overhead": {"cpu": "100m", "memory": "8Mi"}
        });
        // A second container without limits: nothing bounds the pod.
        let half = json!({"containers": [c(&json!({"limits": {"cpu": "500m", "memory": "64Mi"}})), {"name": "d"}]});
        // The pod's own limits bound it, whatever its containers say.
        let own = json!({"containers": [{"name": "d"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        for (spec, pids, v1, v2) in [
            (
                &none,
                -1,
                "cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1 pids.max=max",
                "cpu.weight=1 cpu.max=max 100000 memory.max=max memory.min=0 pids.max=max",
            ),
            (
                &burstable,
                100,
                "cpu.shares=256 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=67108864 pids.max=100",
                "cpu.weight=10 cpu.max=max 100000 memory.max=67108864 memory.min=0 pids.max=100",
            ),
            (
                &guaranteed,
                -1,
                "cpu.shares=614 cpu.cfs_period_us=100000 cpu.cfs_quota_us=60000 memory.limit_in_bytes=75497472 pids.max=max",
                "cpu.weight=24 cpu.max=60000 100000 memory.max=75497472 memory.min=0 pids.max=max",
            ),
            (
                &half,
                -1,
                "cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1 pids.max=max",
                "cpu.weight=20 cpu.max=max 100000 memory.max=max memory.min=0 pids.max=max",
            ),
            (
                &own,
                -1,
                "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=100000 memory.limit_in_bytes=1073741824 pids.max=max",
                "cpu.weight=39 cpu.max=100000 100000 memory.max=1073741824 memory.min=0 pids.max=max",
            ),
        ] {
            assert_eq!(files(spec, pids, &node, false), v1, "{spec}");
            assert_eq!(files(spec, pids, &node, true), v2, "{spec}");
        }
    }

    #[test]
    fn huge_pages_and_guaranteed_memory_follow_the_node() {
        let spec = json!({"containers": [c(&json!({
            "requests": {"memory": "32Mi"}, "limits": {"memory": "64Mi", "hugepages-2Mi": "8Mi"}
        }))]});
        let node = NodeResources {
            huge_pages: vec!["1GB".into(), "2MB".into()],
            memory_throttling: Some(0.9),
            ..NodeResources::default()
        };
        let v2 = files(&spec, -1, &node, true);
        assert!(v2.contains("memory.min=33554432") && v2.contains("hugetlb.1GB.max=0 hugetlb.2MB.max=8388608"), "{v2}");
        assert!(
            files(&spec, -1, &node, false).ends_with("hugetlb.1GB.limit_in_bytes=0 hugetlb.2MB.limit_in_bytes=8388608")
        );
    }

    #[test]
    fn a_class_shares_the_cpu_and_limits_nothing() {
        let file = |name: &str, value: &str| File { controller: "cpu", name: name.into(), value: value.into() };
        assert_eq!(PodLimits::shares(2).files(false), [file("cpu.shares", "2")]);
        assert_eq!(PodLimits::shares(262_144).files(true), [file("cpu.weight", "10000")]);
    }
}
