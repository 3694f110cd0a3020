//! Why the node itself ends a pod: its deadline has passed, the node refused it, or the node needs what
//! it uses.
//!
//! Made by [`deadline`], by admission and by whoever evicts; the worker hands it to plan and status.
//! Pure. Invariants: a pod with a failure never starts anything again; its phase becomes Failed when
//! nothing of it runs any more; a phase that is final already stays.

use k8s_openapi::api::core::v1::Pod;

use super::UnixMs;
use super::spec::PodExt;

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `status.reason`: DeadlineExceeded, Evicted, OutOfcpu, ….
    pub(crate) reason: String,
    /// `status.message`.
    pub(crate) message: String,
    /// Seconds that containers get instead of the pod's own grace period.
    pub(crate) grace_s: Option<i64>,
    /// The pod was refused before anything of it was started: it has no container statuses.
    pub(crate) refused: bool,
    /// Message of the condition `DisruptionTarget`; its reason is `TerminationByKubelet`.
    pub(crate) disruption: Option<String>,
}

/// Whether the pod was active for longer than it may be, or when that will be.
pub(crate) fn deadline(pod: &Pod, now: UnixMs) -> (Option<Failure>, Option<UnixMs>) {
    let Some(seconds) = pod.spec().active_deadline_seconds else { return (None, None) };
    let start = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let start = start.map_or(now, |t| t.0.as_millisecond());
    let at = start.saturating_add(seconds.max(0).saturating_mul(1000));
    if now < at {
        return (None, Some(at));
    }
    let failure = Failure {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
        ..Failure::default()
    };
    (Some(failure), None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_deadline_counts_from_the_start_of_the_pod() {
        let pod = |seconds: Option<i64>, started: bool| -> Pod {
            let start = started.then_some("1970-01-01T00:01:40Z");
            serde_json::from_value(json!({
                "spec": {"activeDeadlineSeconds": seconds, "containers": []}, "status": {"startTime": start}
            }))
            .unwrap()
        };
        assert_eq!(deadline(&pod(None, true), 999_000), (None, None));
        assert_eq!(deadline(&pod(Some(5), true), 104_000), (None, Some(105_000)));
        assert_eq!(deadline(&pod(Some(5), false), 104_000), (None, Some(109_000)), "it begins now");
        let (failure, wake) = deadline(&pod(Some(5), true), 105_000);
        assert_eq!((failure.unwrap().reason.as_str(), wake), ("DeadlineExceeded", None));
    }
}
