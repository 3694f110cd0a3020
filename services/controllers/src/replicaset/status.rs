//! The status of a ReplicaSet, from its active pods.
//!
//! Pure; called by the ReplicaSet controller only, which is the only writer of this status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::error::Error;
use crate::pods::{available, is_ready};

/// The status, and after what time it will change by itself (minReadySeconds).
pub(crate) fn compute(
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = rs.spec.clone().unwrap_or_default();
    let template_labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let template_labels = template_labels.unwrap_or_default();
    let mut wake: Option<u64> = None;
    let (mut labelled, mut ready, mut usable) = (0, 0, 0);
    for pod in active {
        labelled += i32::from(crate::labels::map_matches(&template_labels, pod.metadata.labels.as_ref()));
        ready += i32::from(is_ready(pod));
        match available(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Ok(()) => usable += 1,
            Err(Some(seconds)) => wake = Some(wake.map_or(seconds, |w| w.min(seconds))),
            Err(None) => {}
        }
    }
    let old = rs.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    let current = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    match (failure, current) {
        (Some(error), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(
                if active.len() as i64 > i64::from(spec.replicas.unwrap_or(1)) {
                    "FailedDelete"
                } else {
                    "FailedCreate"
                }
                .into(),
            ),
            message: Some(skerry_common::chain(error)),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(index)) => {
            conditions.remove(index);
        }
        _ => {}
    }
    let status = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: Some(labelled),
        ready_replicas: Some(ready),
        available_replicas: Some(usable),
        observed_generation: rs.metadata.generation,
        conditions: Some(conditions),
        terminating_replicas: None,
    };
    (status, wake.map(|s| Duration::from_secs(s.max(1))))
}

/// Would writing `new` change anything?
pub(crate) fn differs(old: Option<&ReplicaSetStatus>, new: &ReplicaSetStatus) -> bool {
    let Some(old) = old else { return true };
    let n = |v: Option<i32>| v.unwrap_or(0);
    old.replicas != new.replicas
        || n(old.fully_labeled_replicas) != n(new.fully_labeled_replicas)
        || n(old.ready_replicas) != n(new.ready_replicas)
        || n(old.available_replicas) != n(new.available_replicas)
        || old.observed_generation != new.observed_generation
        || old.conditions.as_deref().unwrap_or_default() != new.conditions.as_deref().unwrap_or_default()
}

/// All fields, also those that are 0: a merge patch must be able to lower them.
pub(crate) fn to_json(status: &ReplicaSetStatus) -> serde_json::Value {
    serde_json::json!({
        "replicas": status.replicas,
        "fullyLabeledReplicas": status.fully_labeled_replicas.unwrap_or(0),
        "readyReplicas": status.ready_replicas.unwrap_or(0),
        "availableReplicas": status.available_replicas.unwrap_or(0),
        "observedGeneration": status.observed_generation,
        "conditions": status.conditions.as_deref().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_and_the_time_until_the_next_change() {
        let rs: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "r", "generation": 3},
            "spec": {"replicas": 3, "minReadySeconds": 10, "selector": {},
                     "template": {"metadata": {"labels": {"app": "a"}}}}
        }))
        .unwrap();
        let pod = |ready: &str, since: &str, app: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"labels": {"app": app}},
                    "status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}
                }))
                .unwrap(),
            )
        };
        let pods = [
            pod("True", "2026-01-01T00:00:00Z", "a"),
            pod("True", "2026-01-01T00:00:55Z", "b"),
            pod("False", "2026-01-01T00:00:00Z", "a"),
        ];
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let (status, wake) = compute(&rs, &pods, None, now);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
        assert_eq!(status.fully_labeled_replicas, Some(2));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(wake, Some(Duration::from_secs(5)));
        assert!(differs(rs.status.as_ref(), &status));
        assert!(!differs(Some(&status), &status));
        let (failed, _) = compute(&rs, &pods, Some(&Error::Stale), now);
        assert_eq!(failed.conditions.unwrap()[0].type_, "ReplicaFailure");
    }
}
