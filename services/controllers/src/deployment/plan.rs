//! The next step of a rollout.
//!
//! Pure: a Deployment, its ReplicaSets and the time go in, writes and the status come out. One step per
//! call, as in Kubernetes: scale up or scale down, then wait for what the ReplicaSets say.
//!
//! Invariants (checked by property tests): a rolling update never asks for more than replicas +
//! maxSurge pods, and never takes away an available pod while fewer than replicas − maxUnavailable
//! would be left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::view::{self, Set, View};
use super::{scale, status};
use crate::names::{POD_TEMPLATE_HASH, template_hash};
use crate::pods::{controller_ref, name};

/// Old ReplicaSets kept for rollback when the Deployment does not say.
const DEFAULT_HISTORY: i32 = 10;

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Write the revision number on the Deployment.
    SetRevision(String),
    /// Create the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Set replicas, only if the set has not changed since.
    Scale { rs: Arc<ReplicaSet>, from: i32, to: i32, annotations: BTreeMap<String, String> },
    /// Write annotations and minReadySeconds on the new set.
    Annotate { rs: Arc<ReplicaSet>, annotations: BTreeMap<String, String>, min_ready_seconds: Option<i32> },
    /// Delete an old, empty set.
    Delete(Arc<ReplicaSet>),
}

/// What to do now.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: DeploymentStatus,
    /// Look again after this time: the progress deadline.
    pub(crate) wake: Option<Duration>,
}

/// The next step for `d`. `has_pods` says whether a set has pods that are not finished.
pub(crate) fn plan(
    d: &Deployment,
    sets: &[Arc<ReplicaSet>],
    has_pods: impl Fn(&ReplicaSet) -> bool,
    now: Timestamp,
) -> Plan {
    let view = View::new(d, sets);
    let spec = d.spec.clone().unwrap_or_default();
    let mut actions = Vec::new();
    if d.metadata.deletion_timestamp.is_some() {
        return finish(&view, actions, false, now);
    }
    let scaling = view.all().filter(|s| s.replicas > 0).any(|s| s.desired.is_some_and(|n| n != view.replicas));
    if spec.paused == Some(true) || scaling {
        revise(&view, &mut actions);
        // Scaling carries a resourceVersion, which an annotation in the same run would have changed.
        if actions.is_empty() {
            actions.extend(scale::proportionally(&view));
            if spec.paused == Some(true) && actions.is_empty() {
                clean_up(&view, &mut actions);
            }
        }
        return finish(&view, actions, false, now);
    }
    let created = if view.rolling { rolling(&view, &mut actions) } else { recreate(&view, has_pods, &mut actions) };
    if actions.is_empty() && status::is_complete(&view) {
        clean_up(&view, &mut actions);
    }
    finish(&view, actions, created, now)
}

fn finish(view: &View<'_>, actions: Vec<Action>, created: bool, now: Timestamp) -> Plan {
    let created = created.then(|| {
        actions.iter().find_map(|a| match a {
            Action::Create(rs) => Some(name(rs.as_ref()).to_owned()),
            _ => None,
        })
    });
    let (status, wake) = status::compute(view, created.flatten().as_deref(), now);
    Plan { actions, status, wake }
}

/// Gives the new set the highest revision number, and the Deployment the same.
fn revise(view: &View<'_>, actions: &mut Vec<Action>) {
    let Some(new) = &view.new else { return };
    let highest_old = view.old.iter().map(|s| s.revision).max().unwrap_or(0);
    let revision = new.revision.max(highest_old + 1);
    let annotations = view.new_set_annotations(revision);
    let have = new.object.metadata.annotations.clone().unwrap_or_default();
    let spec = view.deployment.spec.as_ref();
    let min_ready_seconds = spec.and_then(|s| s.min_ready_seconds);
    let same_min_ready =
        new.object.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) == min_ready_seconds.unwrap_or(0);
    if annotations.iter().any(|(k, v)| have.get(k) != Some(v)) || !same_min_ready {
        actions.push(Action::Annotate { rs: new.object.clone(), annotations, min_ready_seconds });
    }
    set_revision(view, revision, actions);
}

fn set_revision(view: &View<'_>, revision: i64, actions: &mut Vec<Action>) {
    let revision = revision.to_string();
    let have = view.deployment.metadata.annotations.as_ref().and_then(|a| a.get(view::REVISION));
    if have != Some(&revision) {
        actions.push(Action::SetRevision(revision));
    }
}

/// How many replicas the new set may have now.
fn new_set_replicas(view: &View<'_>, current: i32) -> i32 {
    if !view.rolling {
        return view.replicas;
    }
    let room = view.replicas.saturating_add(view.max_surge) - view.total();
    if room <= 0 { current } else { current + room.min(view.replicas - current).max(0) }
}

fn create(view: &View<'_>, actions: &mut Vec<Action>) {
    let d = view.deployment;
    let spec = d.spec.clone().unwrap_or_default();
    let collisions = d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let revision = view.old.iter().map(|s| s.revision).max().unwrap_or(0) + 1;
    let mut annotations = view.new_set_annotations(revision);
    annotations.extend(view.scale_annotations());
    let rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(d))),
            namespace: d.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(d)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(new_set_replicas(view, 0)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    set_revision(view, revision, actions);
    actions.push(Action::Create(Box::new(rs)));
}

pub(super) fn scale_to(view: &View<'_>, set: &Set, to: i32) -> Option<Action> {
    let to = to.max(0);
    let annotations = view.scale_annotations();
    let have = set.object.metadata.annotations.clone().unwrap_or_default();
    let noted = annotations.iter().all(|(k, v)| have.get(k) == Some(v));
    if set.replicas == to && noted {
        return None;
    }
    Some(Action::Scale { rs: set.object.clone(), from: set.replicas, to, annotations })
}

fn rolling(view: &View<'_>, actions: &mut Vec<Action>) -> bool {
    let Some(new) = &view.new else {
        create(view, actions);
        return true;
    };
    revise(view, actions);
    if !actions.is_empty() {
        return false;
    }
    let target = if new.replicas > view.replicas { view.replicas } else { new_set_replicas(view, new.replicas) };
    if target != new.replicas {
        actions.extend(scale_to(view, new, target));
        return false;
    }
    for (set, to) in old_sets_down(view, new) {
        actions.extend(scale_to(view, set, to));
    }
    false
}

/// New sizes for old sets: first what is not healthy, then as far as availability allows.
fn old_sets_down<'v>(view: &'v View<'_>, new: &Set) -> Vec<(&'v Set, i32)> {
    let least_available = view.replicas - view.max_unavailable;
    let new_unavailable = (new.replicas - new.available).max(0);
    let mut room = view.total() - least_available - new_unavailable;
    if room <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&Set, i32)> = view.old.iter().map(|s| (s, s.replicas)).collect();
    for (set, size) in &mut sizes {
        let unhealthy = (*size - set.available).max(0).min(room);
        *size -= unhealthy;
        room -= unhealthy;
    }
    let available: i32 = view.all().map(|s| s.available).sum();
    let mut spare = (available - least_available).max(0);
    for (_, size) in &mut sizes {
        let down = (*size).min(spare);
        *size -= down;
        spare -= down;
    }
    sizes.into_iter().filter(|(s, size)| *size != s.replicas).collect()
}

fn recreate(view: &View<'_>, has_pods: impl Fn(&ReplicaSet) -> bool, actions: &mut Vec<Action>) -> bool {
    if view.new.is_some() {
        revise(view, actions);
        if !actions.is_empty() {
            return false;
        }
    }
    for set in view.old.iter().filter(|s| s.replicas > 0) {
        actions.extend(scale_to(view, set, 0));
    }
    if !actions.is_empty() || view.old.iter().any(|s| has_pods(&s.object)) {
        return false;
    }
    match &view.new {
        None => {
            create(view, actions);
            true
        }
        Some(new) => {
            actions.extend(scale_to(view, new, view.replicas).filter(|_| new.replicas != view.replicas));
            false
        }
    }
}

/// Deletes the oldest empty sets beyond the history limit.
fn clean_up(view: &View<'_>, actions: &mut Vec<Action>) {
    let limit = view.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(DEFAULT_HISTORY);
    let mut old: Vec<&Set> = view.old.iter().filter(|s| s.object.metadata.deletion_timestamp.is_none()).collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    old.sort_by_key(|s| (s.revision, s.created));
    for set in old.into_iter().take(surplus) {
        let observed = set.object.status.as_ref().and_then(|s| s.observed_generation);
        if set.actual == 0 && set.replicas == 0 && set.object.metadata.generation <= observed {
            actions.push(Action::Delete(set.object.clone()));
        }
    }
}
