//! Which pods a ReplicaSet deletes first, in the order of Kubernetes.
//!
//! Pure. In order: not bound before bound; Pending before Unknown before Running; not ready before
//! ready; lower deletion cost; more siblings on the same node; ready for a shorter time; more restarts;
//! newer.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::DELETION_COST;
use crate::pods::{is_ready, node_name, phase, ready_since, restarts};

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    siblings: Reverse<usize>,
    /// Logarithm of the age in seconds, so that pods of about the same age are picked by what follows.
    ready_age: u32,
    restarts: Reverse<i64>,
    age: u32,
}

/// 0 for "just now", 1 for one second, 2 for two to three, 3 for four to seven, …
fn log_age(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |t| now.duration_since(t).as_secs().max(0)).unsigned_abs();
    u64::BITS - seconds.leading_zeros()
}

fn rank(pod: &Pod, siblings: &HashMap<String, usize>, now: Timestamp) -> Rank {
    let node = node_name(pod);
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    Rank {
        bound: node.is_some(),
        phase: match phase(pod) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        },
        ready: is_ready(pod),
        cost: cost.and_then(|c| c.parse().ok()).unwrap_or(0),
        siblings: Reverse(node.and_then(|n| siblings.get(n)).copied().unwrap_or(0)),
        ready_age: if is_ready(pod) { log_age(ready_since(pod), now) } else { 0 },
        restarts: Reverse(restarts(pod)),
        age: log_age(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now),
    }
}

/// The `count` pods to delete. `siblings` counts the active pods of the same application per node.
pub(crate) fn victims(
    active: &[Arc<Pod>],
    siblings: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut ranked: Vec<(Rank, &Arc<Pod>)> = active.iter().map(|p| (rank(p, siblings, now), p)).collect();
    ranked.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| tie(x, y)));
    ranked.into_iter().take(count).map(|(_, p)| p.clone()).collect()
}

/// Among equals: by name, so that two runs over the same pods choose the same victims.
fn tie(a: &Pod, b: &Pod) -> Ordering {
    a.metadata.name.cmp(&b.metadata.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn pod(name: &str, patch: Value) -> Arc<Pod> {
        let mut base = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        merge(&mut base, patch);
        Arc::new(serde_json::from_value(base).unwrap())
    }

    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(a), Value::Object(b)) => {
                for (k, v) in b {
                    merge(a.entry(k).or_insert(Value::Null), v);
                }
            }
            (a, b) => *a = b,
        }
    }

    #[test]
    fn each_rule_decides_before_the_next() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let not_ready = json!([{"type": "Ready", "status": "False"}]);
        let newly_ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"}]);
        // Each pod must go before the one after it.
        let order = [
            pod("h-unbound", json!({"spec": {"nodeName": ""}, "metadata": {"annotations": {DELETION_COST: "9"}}})),
            pod(
                "g-pending",
                json!({"status": {"phase": "Pending"}, "metadata": {"annotations": {DELETION_COST: "8"}}}),
            ),
            pod(
                "f-unknown",
                json!({"status": {"phase": "Unknown"}, "metadata": {"annotations": {DELETION_COST: "7"}}}),
            ),
            pod(
                "e-not-ready",
                json!({"status": {"conditions": not_ready}, "metadata": {"annotations": {DELETION_COST: "6"}}}),
            ),
            pod("d-cheap", json!({"metadata": {"annotations": {DELETION_COST: "-1"}}})),
            pod("c-crowded", json!({"spec": {"nodeName": "crowded"}})),
            pod("b-newly-ready", json!({"status": {"conditions": newly_ready}})),
            pod(
                "aa-restarted",
                json!({"status": {"containerStatuses": [
                {"name": "c", "restartCount": 3, "image": "", "imageID": "", "ready": true}]}}),
            ),
            pod("a-new", json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:00Z"}})),
            pod("a", json!({})),
        ];
        let siblings = HashMap::from([("crowded".to_owned(), 3), ("n".to_owned(), 1)]);
        let mut shuffled = order.to_vec();
        shuffled.reverse();
        let got: Vec<_> =
            victims(&shuffled, &siblings, 10, now).iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        let want: Vec<_> = order.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(got, want);
    }

    proptest! {
        #[test]
        fn never_more_than_asked_and_never_a_ready_pod_before_one_that_is_not(
            ready in proptest::collection::vec(any::<bool>(), 0..20), count in 0_usize..25) {
            let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
            let pods: Vec<_> = ready.iter().enumerate().map(|(i, r)| {
                let status = if *r { "True" } else { "False" };
                pod(&format!("p{i}"), json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
            }).collect();
            let chosen = victims(&pods, &HashMap::new(), count, now);
            prop_assert_eq!(chosen.len(), count.min(pods.len()));
            let not_ready = ready.iter().filter(|r| !**r).count();
            let chosen_ready = chosen.iter().filter(|p| is_ready(p)).count();
            prop_assert_eq!(chosen_ready, chosen.len().saturating_sub(not_ready));
        }
    }
}
