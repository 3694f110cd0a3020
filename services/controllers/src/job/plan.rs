//! The next step of a Job.
//!
//! Pure: the Job, its pods and the time go in; pods to create and delete and the status come out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{CONTROLLER_UID, finished, restarts_of};
use crate::machinery::events::Severity;
use crate::pods::{self, from_template, is_active, is_ready, phase};

/// First delay after a failed pod, doubled with each further one, as in Kubernetes.
const BACKOFF: Duration = Duration::from_secs(10);
/// Longest delay after failed pods.
const BACKOFF_MAX: Duration = Duration::from_secs(360);
/// Failures tolerated when the Job does not say.
const BACKOFF_LIMIT: i32 = 6;

/// What to do now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: JobStatus,
    pub(super) wake: Option<Duration>,
    pub(super) events: Vec<(Severity, &'static str, String)>,
}

/// Why the Job cannot be run by this controller.
pub(super) fn unsupported(job: &Job) -> Option<&'static str> {
    let spec = job.spec.as_ref()?;
    if spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
        return None;
    }
    if spec.completion_mode.as_deref() == Some("Indexed") {
        return Some("completionMode Indexed is not supported by this control plane");
    }
    if spec.pod_failure_policy.is_some() || spec.success_policy.is_some() {
        return Some("podFailurePolicy and successPolicy are not supported by this control plane");
    }
    None
}

/// How long a finished Job still lives; `None` when it is not finished or lives for ever.
pub(super) fn time_to_live(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let since = finished(job)?.last_transition_time.as_ref()?.0;
    let left = i64::from(ttl) - now.duration_since(since).as_secs();
    Some(Duration::from_secs(left.max(0).unsigned_abs()))
}

/// A pod of the Job.
pub(super) fn pod_for(job: &Job, template: &PodTemplateSpec, name: String) -> Pod {
    let mut pod = from_template(job, name, template);
    let labels: &mut BTreeMap<String, String> = pod.metadata.labels.get_or_insert_default();
    let job_name = pods::name(job).to_owned();
    for (key, value) in [
        (CONTROLLER_UID, pods::uid(job).to_owned()),
        ("controller-uid", pods::uid(job).to_owned()),
        ("batch.kubernetes.io/job-name", job_name.clone()),
        ("job-name", job_name),
    ] {
        labels.entry(key.to_owned()).or_insert(value);
    }
    pod
}

fn push(status: &mut JobStatus, type_: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// The next step for `job`.
pub(super) fn plan(job: &Job, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let old = job.status.clone().unwrap_or_default();
    let active: Vec<&Arc<Pod>> = owned.iter().filter(|p| is_active(p)).collect();
    let ended = |wanted: &str| i32::try_from(owned.iter().filter(|p| phase(p) == wanted).count()).unwrap_or(i32::MAX);
    let succeeded = ended("Succeeded").max(old.succeeded.unwrap_or(0));
    let failed = ended("Failed").max(old.failed.unwrap_or(0));
    let terminating = owned.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !pods::is_finished(p)).count();
    let mut out = Plan {
        status: JobStatus {
            active: i32::try_from(active.len()).ok(),
            ready: i32::try_from(active.iter().filter(|p| is_ready(p)).count()).ok(),
            succeeded: Some(succeeded),
            failed: Some(failed),
            terminating: i32::try_from(terminating).ok(),
            start_time: old.start_time.clone(),
            completion_time: old.completion_time.clone(),
            conditions: old.conditions.clone(),
            ..Default::default()
        },
        ..Default::default()
    };
    if finished(job).is_some() {
        out.delete = active.into_iter().cloned().collect();
        return out;
    }
    if spec.suspend == Some(true) {
        out.delete = active.into_iter().cloned().collect();
        let suspended = old.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "True");
        if !suspended {
            push(&mut out.status, "Suspended", "JobSuspended", "Job suspended", now);
        }
        out.status.start_time = None;
        return out;
    }
    out.status.conditions.get_or_insert_default().retain(|c| c.type_ != "Suspended");
    let start = out.status.start_time.get_or_insert(Time(now)).0;
    let limit = spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
    let own_restarts: i32 = active.iter().map(|p| restarts_of(p)).fold(0, i32::saturating_add);
    let on_failure = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let runs_failed = failed.saturating_add(if on_failure { own_restarts } else { 0 });
    let left = spec.active_deadline_seconds.map(|d| d - now.duration_since(start).as_secs());
    let failure = if runs_failed > limit {
        Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if left.is_some_and(|l| l <= 0) {
        Some(("DeadlineExceeded", "Job was active longer than specified deadline"))
    } else {
        None
    };
    if let Some((reason, message)) = failure {
        push(&mut out.status, "Failed", reason, message, now);
        out.events.push((Severity::Warning, reason, message.to_owned()));
        out.delete = active.into_iter().cloned().collect();
        return out;
    }
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let complete = match spec.completions {
        Some(completions) => succeeded >= completions,
        // A work queue: done when one has succeeded and none runs any more.
        None => succeeded > 0 && running == 0 && terminating == 0,
    };
    if complete {
        out.status.completion_time = Some(Time(now));
        push(&mut out.status, "Complete", "CompletionsReached", "Reached expected number of succeeded pods", now);
        out.events.push((Severity::Normal, "Completed", "Job completed".to_owned()));
        out.delete = active.into_iter().cloned().collect();
        return out;
    }
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(completions - succeeded),
        None if succeeded > 0 => running.min(parallelism),
        None => parallelism,
    };
    out.wake = left.map(|l| Duration::from_secs(l.max(0).unsigned_abs()));
    if running > wanted {
        let surplus = usize::try_from(running - wanted).unwrap_or(0);
        let mut victims: Vec<&Arc<Pod>> = active;
        victims.sort_by_key(|p| (is_ready(p), pods::ready_since(p), p.metadata.name.clone()));
        out.delete = victims.into_iter().take(surplus).cloned().collect();
    } else if running < wanted {
        let wait = backoff_left(owned, now);
        if wait.is_zero() {
            out.create = usize::try_from(wanted - running).unwrap_or(0).min(crate::replicaset::BURST);
        } else {
            out.wake = Some(out.wake.map_or(wait, |w| w.min(wait)));
        }
    }
    out
}

/// How long to wait because of failed pods.
fn backoff_left(owned: &[Arc<Pod>], now: Timestamp) -> Duration {
    let ended_at = |p: &Pod| {
        let statuses = p.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        let ends = statuses.iter().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
        ends.map(|t| t.0).max().or(p.metadata.creation_timestamp.as_ref().map(|t| t.0))
    };
    let last_success = owned.iter().filter(|p| phase(p) == "Succeeded").filter_map(|p| ended_at(p)).max();
    let failures: Vec<Timestamp> = owned
        .iter()
        .filter(|p| phase(p) == "Failed")
        .filter_map(|p| ended_at(p))
        .filter(|t| last_success.is_none_or(|s| *t > s))
        .collect();
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    let exponent = u32::try_from(failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let delay = BACKOFF.saturating_mul(1 << exponent).min(BACKOFF_MAX);
    let elapsed = Duration::try_from(now.duration_since(*last)).unwrap_or_default();
    delay.saturating_sub(elapsed)
}

/// Would writing `new` change anything?
pub(super) fn differs(old: Option<&JobStatus>, new: &JobStatus) -> bool {
    old.map(to_json) != Some(to_json(new))
}

/// All fields, also those that are 0: a merge patch must be able to lower them.
pub(super) fn to_json(status: &JobStatus) -> serde_json::Value {
    serde_json::json!({
        "active": status.active.unwrap_or(0),
        "ready": status.ready.unwrap_or(0),
        "succeeded": status.succeeded.unwrap_or(0),
        "failed": status.failed.unwrap_or(0),
        "terminating": status.terminating.unwrap_or(0),
        "startTime": status.start_time,
        "completionTime": status.completion_time,
        "conditions": status.conditions.as_deref().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn run(spec: Value, status: Value, phases: &[&str]) -> Plan {
        let job: Job =
            serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": status}))
                .unwrap();
        let pods: Vec<Arc<Pod>> = phases
            .iter()
            .map(|p| {
                Arc::new(
                    serde_json::from_value(
                        json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": p}}),
                    )
                    .unwrap(),
                )
            })
            .collect();
        plan(&job, &pods, NOW.parse().unwrap())
    }

    fn last_condition(plan: &Plan) -> Option<String> {
        plan.status.conditions.as_ref()?.last().map(|c| format!("{}:{}", c.type_, c.reason.as_deref().unwrap()))
    }

    #[test]
    fn table() {
        let spec = |completions: Value, parallelism: i32| json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 2, "template": {}});
        for (spec_, status, phases, create, delete, condition) in [
            (spec(json!(1), 1), json!({}), vec![], 1, 0, None),
            (spec(json!(5), 2), json!({}), vec!["Running"], 1, 0, None),
            (spec(json!(5), 2), json!({}), vec!["Succeeded", "Succeeded", "Succeeded", "Succeeded"], 1, 0, None),
            (spec(json!(2), 2), json!({}), vec!["Succeeded", "Succeeded"], 0, 0, Some("Complete:CompletionsReached")),
            (spec(json!(2), 1), json!({}), vec!["Running", "Running"], 0, 1, None),
            (spec(json!(2), 2), json!({"succeeded": 2}), vec![], 0, 0, Some("Complete:CompletionsReached")),
            (spec(json!(1), 1), json!({}), vec!["Failed", "Failed"], 1, 0, None),
            (
                spec(json!(1), 2),
                json!({}),
                vec!["Failed", "Failed", "Failed", "Running"],
                0,
                1,
                Some("Failed:BackoffLimitExceeded"),
            ),
            (spec(Value::Null, 3), json!({}), vec![], 3, 0, None),
            (spec(Value::Null, 3), json!({}), vec!["Succeeded", "Running"], 0, 0, None),
            (spec(Value::Null, 3), json!({}), vec!["Succeeded"], 0, 0, Some("Complete:CompletionsReached")),
        ] {
            let plan = run(spec_.clone(), status, &phases);
            assert_eq!((plan.create, plan.delete.len()), (create, delete), "{spec_} {phases:?}");
            assert_eq!(last_condition(&plan).as_deref(), condition, "{spec_} {phases:?}");
        }
    }

    #[test]
    fn deadline_suspend_and_time_to_live() {
        let started = json!({"startTime": "2026-01-01T00:00:00Z"});
        let plan = run(
            json!({"completions": 1, "activeDeadlineSeconds": 3600, "template": {}}),
            started.clone(),
            &["Running"],
        );
        assert_eq!(last_condition(&plan).as_deref(), Some("Failed:DeadlineExceeded"));
        let plan = run(
            json!({"completions": 1, "activeDeadlineSeconds": 3610, "template": {}}),
            started.clone(),
            &["Running"],
        );
        assert_eq!(plan.wake, Some(Duration::from_secs(10)));
        let plan = run(json!({"completions": 1, "suspend": true, "template": {}}), started, &["Running"]);
        assert_eq!((plan.create, plan.delete.len()), (0, 1));
        let job: Job = serde_json::from_value(json!({"spec": {"template": {}, "ttlSecondsAfterFinished": 10},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:59:55Z"}]}}))
        .unwrap();
        assert_eq!(time_to_live(&job, NOW.parse().unwrap()), Some(Duration::from_secs(5)));
    }

    #[test]
    fn failed_pods_make_the_next_one_wait() {
        let now: Timestamp = NOW.parse().unwrap();
        let pod = |phase: &str, at: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"creationTimestamp": at}, "status": {"phase": phase}}))
                    .unwrap(),
            )
        };
        let recent = "2026-01-01T00:59:55Z";
        assert_eq!(backoff_left(&[], now), Duration::ZERO);
        assert_eq!(backoff_left(&[pod("Failed", recent)], now), Duration::from_secs(5));
        assert_eq!(backoff_left(&[pod("Failed", recent), pod("Failed", recent)], now), Duration::from_secs(15));
        assert_eq!(backoff_left(&[pod("Failed", recent), pod("Succeeded", NOW)], now), Duration::ZERO);
    }
}
