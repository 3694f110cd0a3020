//! The status of a Deployment: counts, and the conditions that `kubectl rollout status` reads.
//!
//! Pure; called by the Deployment controller only, the only writer of this status.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::view::View;
use crate::pods::name;

/// Seconds without progress after which a rollout counts as stuck, when the Deployment does not say.
const DEFAULT_DEADLINE: i32 = 600;

fn get<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_deref().unwrap_or_default().iter().find(|c| c.type_ == type_)
}

fn set(status: &mut DeploymentStatus, type_: &str, value: bool, reason: &str, message: String, now: Timestamp) {
    let value = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let current = conditions.iter().find(|c| c.type_ == type_);
    if current.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let changed = current.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != type_);
    conditions.push(DeploymentCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: changed.or(Some(Time(now))),
    });
}

fn counts(view: &View<'_>) -> DeploymentStatus {
    let old = view.deployment.status.clone().unwrap_or_default();
    let available: i32 = view.all().map(|s| s.available).sum();
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: Some(view.all().map(|s| s.actual).sum()),
        updated_replicas: Some(view.new.as_ref().map_or(0, |s| s.actual)),
        ready_replicas: Some(view.all().map(|s| s.ready).sum()),
        available_replicas: Some(available),
        unavailable_replicas: Some((view.total() - available).max(0)),
        collision_count: old.collision_count,
        conditions: old.conditions,
        terminating_replicas: None,
    }
}

/// Is everything rolled out and available?
pub(super) fn is_complete(view: &View<'_>) -> bool {
    complete(view, &counts(view))
}

fn complete(view: &View<'_>, status: &DeploymentStatus) -> bool {
    let wanted = Some(view.replicas);
    view.new.is_some()
        && status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
}

fn progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let left = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || left(new) < left(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// The status, and after what time the progress deadline has to be looked at. `created` is the name of
/// a new ReplicaSet that this run creates.
pub(super) fn compute(view: &View<'_>, created: Option<&str>, now: Timestamp) -> (DeploymentStatus, Option<Duration>) {
    let old = view.deployment.status.clone().unwrap_or_default();
    let mut status = counts(view);
    if status.available_replicas.unwrap_or(0) >= view.replicas - view.max_unavailable {
        let message = "Deployment has minimum availability.".to_owned();
        set(&mut status, "Available", true, "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(&mut status, "Available", false, "MinimumReplicasUnavailable", message, now);
    }
    failures(view, &mut status, now);
    let spec = view.deployment.spec.clone().unwrap_or_default();
    let deadline = spec.progress_deadline_seconds.unwrap_or(DEFAULT_DEADLINE);
    if deadline == i32::MAX {
        status.conditions.get_or_insert_default().retain(|c| c.type_ != "Progressing");
        return (status, None);
    }
    if spec.paused == Some(true) {
        let message = "Deployment is paused".to_owned();
        set_unknown(&mut status, "DeploymentPaused", message, now);
        return (status, None);
    }
    let reason = |s: &DeploymentStatus| get(s, "Progressing").and_then(|c| c.reason.clone()).unwrap_or_default();
    if reason(&status) == "DeploymentPaused" {
        set_unknown(&mut status, "DeploymentResumed", "Deployment is resumed".to_owned(), now);
    }
    let set_name = view.new.as_ref().map(|s| s.name().to_owned());
    let subject = match &set_name {
        Some(set) => format!("ReplicaSet {set:?}"),
        None => format!("Deployment {:?}", name(view.deployment)),
    };
    let was_complete = status.replicas == status.updated_replicas && reason(&status) == "NewReplicaSetAvailable";
    if let Some(created) = created {
        let message = format!("Created new replica set {created:?}");
        set(&mut status, "Progressing", true, "NewReplicaSetCreated", message, now);
    } else if was_complete && view.new.is_some() {
        // Stays complete: a pod that dies later is not a rollout.
    } else if complete(view, &status) {
        let message = format!("{subject} has successfully progressed.");
        set(&mut status, "Progressing", true, "NewReplicaSetAvailable", message, now);
    } else if progressing(&old, &status) || get(&status, "Progressing").is_none() {
        // Every step of progress moves lastUpdateTime, from which the deadline counts.
        let conditions = status.conditions.get_or_insert_default();
        if let Some(c) = conditions.iter_mut().find(|c| c.type_ == "Progressing") {
            c.reason = None;
        }
        set(&mut status, "Progressing", true, "ReplicaSetUpdated", format!("{subject} is progressing."), now);
    } else if left_until_deadline(&status, deadline, now) == Some(Duration::ZERO) {
        let message = format!("{subject} has timed out progressing.");
        set(&mut status, "Progressing", false, "ProgressDeadlineExceeded", message, now);
    }
    let wake = left_until_deadline(&status, deadline, now).filter(|d| !d.is_zero());
    (status, wake.filter(|_| !complete(view, &counts(view))).map(|d| d + Duration::from_secs(1)))
}

fn set_unknown(status: &mut DeploymentStatus, reason: &str, message: String, now: Timestamp) {
    if get(status, "Progressing").is_some_and(|c| c.status == "Unknown" && c.reason.as_deref() == Some(reason)) {
        return;
    }
    set(status, "Progressing", true, reason, message, now);
    for c in status.conditions.iter_mut().flatten().filter(|c| c.type_ == "Progressing") {
        "Unknown".clone_into(&mut c.status);
    }
}

/// `None`: the deadline does not apply now.
fn left_until_deadline(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> Option<Duration> {
    let condition = get(status, "Progressing")?;
    match condition.reason.as_deref() {
        Some("NewReplicaSetAvailable") => return None,
        Some("ProgressDeadlineExceeded") => return None,
        _ => {}
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = i64::from(deadline) - now.duration_since(since).as_secs();
    Some(Duration::from_secs(left.max(0).unsigned_abs()))
}

/// A ReplicaSet that cannot create its pods makes its Deployment say so.
fn failures(view: &View<'_>, status: &mut DeploymentStatus, now: Timestamp) {
    let failure = view.all().find_map(|s| {
        let conditions = s.object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True").cloned()
    });
    match failure {
        Some(c) => {
            let (reason, message) = (c.reason.unwrap_or_default(), c.message.unwrap_or_default());
            set(status, "ReplicaFailure", true, &reason, message, now);
        }
        None => status.conditions.get_or_insert_default().retain(|c| c.type_ != "ReplicaFailure"),
    }
}

/// Would writing `new` change anything?
pub(super) fn differs(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    old.is_none_or(|old| {
        let mut old = old.clone();
        for field in [
            &mut old.replicas,
            &mut old.updated_replicas,
            &mut old.ready_replicas,
            &mut old.available_replicas,
            &mut old.unavailable_replicas,
        ] {
            field.get_or_insert(0);
        }
        old.conditions.get_or_insert_default();
        old.terminating_replicas = None;
        to_json(&old) != to_json(new)
    })
}

/// All fields, also those that are 0: a merge patch must be able to lower them.
pub(super) fn to_json(status: &DeploymentStatus) -> serde_json::Value {
    serde_json::json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas.unwrap_or(0),
        "updatedReplicas": status.updated_replicas.unwrap_or(0),
        "readyReplicas": status.ready_replicas.unwrap_or(0),
        "availableReplicas": status.available_replicas.unwrap_or(0),
        "unavailableReplicas": status.unavailable_replicas.unwrap_or(0),
        "collisionCount": status.collision_count,
        "conditions": status.conditions.as_deref().unwrap_or_default(),
    })
}
