//! The Deployment controller: rolls a template out over ReplicaSets.
//!
//! Each run reads the Deployment and its ReplicaSets from the caches, lets the pure [`plan`] decide, and
//! carries out its actions; the next change of a ReplicaSet brings the next step. Scaling a ReplicaSet
//! carries its resourceVersion, and a new ReplicaSet has a name made from the template, so acting on a
//! stale cache ends in a conflict and not in a second rollout.
//!
//! `kubectl rollout status`, `history` and `undo` work on what is written here: the revision
//! annotations, the conditions and observedGeneration.
//!
//! Crash: every step is visible in the ReplicaSets, the next process continues from there.

pub(crate) mod plan;
pub(crate) mod scale;
pub(crate) mod status;
#[cfg(test)]
mod tests;
pub(crate) mod view;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use skerry_common::Key;

use crate::claim::{self, Claim};
use crate::context::{Context, by, pods_by};
use crate::error::{Error, ignore_gone};
use crate::labels::Selector;
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::names;
use crate::pods::{self, controller_of, controller_ref, name, namespace, uid};
use plan::{Action, Plan};

const COMPONENT: &str = "deployment-controller";

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let q = queue.clone();
    ctx.deployments.on_change(move |change: &Change<'_, Deployment>| q.add(change.key.clone()));
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.replica_sets.on_change(move |change: &Change<'_, ReplicaSet>| {
        for rs in change.both() {
            if let Some(owner) = controller_of(&rs.metadata).filter(|o| o.kind == "Deployment") {
                q.add(Key::new(namespace(rs.as_ref()), owner.name.as_str()));
            }
        }
        if let Some(rs) = change.new
            && controller_of(&rs.metadata).is_none()
            && let Some(ctx) = weak.upgrade()
        {
            for d in ctx.deployments.by_index(by::NAMESPACE, namespace(rs.as_ref())) {
                if selector_of(&d).is_some_and(|s| s.matches(rs.metadata.labels.as_ref())) {
                    q.add(Key::new(namespace(d.as_ref()), name(d.as_ref())));
                }
            }
        }
    });
    // Recreate waits for pods to be gone, which ReplicaSets do not show.
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.pods.on_change(move |change: &Change<'_, Pod>| {
        if change.new.is_none_or(|p| pods::is_finished(p))
            && let Some(old) = change.old
            && let Some(owner) = controller_of(&old.metadata).filter(|o| o.kind == "ReplicaSet")
            && let Some(ctx) = weak.upgrade()
            && let Some(rs) = ctx.replica_sets.get(&Key::new(namespace(old.as_ref()), owner.name.as_str()))
            && let Some(deployment) = controller_of(&rs.metadata)
        {
            q.add(Key::new(namespace(old.as_ref()), deployment.name.as_str()));
        }
    });
    let cache = ctx.deployments.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        |ctx, key| async move { reconcile(&ctx, &key).await },
    );
}

fn selector_of(d: &Deployment) -> Option<Selector> {
    let selector = Selector::parse(&d.spec.as_ref()?.selector).ok()?;
    (!selector.is_empty()).then_some(selector)
}

async fn reconcile(ctx: &Arc<Context>, key: &Key) -> Result<Next, Error> {
    let Some(d) = ctx.deployments.get(key) else { return Ok(Next::OnChange) };
    let Some(selector) = selector_of(&d) else {
        let why = "This deployment is selecting all pods. A non-empty selector is required.";
        ctx.recorder.event(COMPONENT, d.as_ref(), Severity::Warning, "SelectingAll", why);
        return Ok(Next::OnChange);
    };
    let sets = claim_sets(ctx, &d, &selector).await?;
    let running_old_pods =
        |rs: &ReplicaSet| ctx.pods.by_index(pods_by::CONTROLLER, uid(rs)).iter().any(|p| !pods::is_finished(p));
    let mut plan = plan::plan(&d, &sets, running_old_pods, Timestamp::now());
    let acted = act(ctx, &d, &mut plan).await;
    // The status is written also when an action failed: it says how far the rollout has come.
    if status::differs(d.status.as_ref(), &plan.status) {
        let patch = json!({"status": status::to_json(&plan.status)});
        let api = ctx.api::<Deployment>(&key.namespace);
        ignore_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    }
    match acted {
        Err(error) if error.is_namespace_terminating() => Ok(Next::OnChange),
        Err(error) => Err(error),
        Ok(()) => Ok(Next::OnChange.sooner(plan.wake)),
    }
}

async fn claim_sets(ctx: &Context, d: &Deployment, selector: &Selector) -> Result<Vec<Arc<ReplicaSet>>, Error> {
    let api = ctx.api::<ReplicaSet>(namespace(d));
    let deleting = d.metadata.deletion_timestamp.is_some();
    let mut candidates = ctx.replica_sets.by_index(by::CONTROLLER, uid(d));
    candidates.extend(ctx.replica_sets.by_index(by::CONTROLLER, &claim::orphans_of(namespace(d))));
    let mut sets = Vec::new();
    for rs in candidates {
        let owners = match claim::decide(&rs.metadata, uid(d), deleting, selector) {
            Claim::Keep => {
                sets.push(rs);
                continue;
            }
            Claim::Ignore => continue,
            Claim::Release => claim::without_owner(&rs.metadata, uid(d)),
            Claim::Adopt => {
                claim::still_alive(ctx, d).await?;
                let mut owners = rs.metadata.owner_references.clone().unwrap_or_default();
                owners.push(controller_ref(d));
                owners
            }
        };
        let patch = claim::owners_patch(&rs.metadata, &owners);
        ignore_gone(api.patch(name(rs.as_ref()), &PatchParams::default(), &Patch::Merge(patch)).await)?;
    }
    // An adopted set comes back through the cache.
    Ok(sets)
}

async fn act(ctx: &Context, d: &Deployment, plan: &mut Plan) -> Result<(), Error> {
    let sets = ctx.api::<ReplicaSet>(namespace(d));
    for action in std::mem::take(&mut plan.actions) {
        match action {
            Action::SetRevision(revision) => {
                let patch = json!({"metadata": {"annotations": {view::REVISION: revision}}});
                let api = ctx.api::<Deployment>(namespace(d));
                ignore_gone(api.patch(name(d), &PatchParams::default(), &Patch::Merge(patch)).await)?;
            }
            Action::Create(rs) => match sets.create(&PostParams::default(), &rs).await.map_err(Error::from) {
                Ok(_) => {
                    let replicas = rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                    scaled(ctx, d, name(rs.as_ref()), 0, replicas);
                }
                Err(error) if error.is_already_exists() => collision(ctx, d, &rs, plan).await?,
                Err(error) => {
                    let why = format!(
                        "Failed to create new replica set {:?}: {}",
                        name(rs.as_ref()),
                        skerry_common::chain(&error)
                    );
                    if !error.is_expected() {
                        ctx.recorder.event(COMPONENT, d, Severity::Warning, "ReplicaSetCreateError", why);
                    }
                    return Err(error);
                }
            },
            Action::Scale { rs, from, to, annotations } => {
                let patch = json!({
                    "metadata": {"resourceVersion": rs.metadata.resource_version, "uid": rs.metadata.uid, "annotations": annotations},
                    "spec": {"replicas": to},
                });
                sets.patch(name(rs.as_ref()), &PatchParams::default(), &Patch::Merge(patch)).await?;
                if from != to {
                    scaled(ctx, d, name(rs.as_ref()), from, to);
                }
            }
            Action::Annotate { rs, annotations, min_ready_seconds } => {
                let patch = json!({
                    "metadata": {"resourceVersion": rs.metadata.resource_version, "annotations": annotations},
                    "spec": {"minReadySeconds": min_ready_seconds},
                });
                sets.patch(name(rs.as_ref()), &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Action::Delete(rs) => {
                let same = Preconditions {
                    uid: rs.metadata.uid.clone(),
                    resource_version: rs.metadata.resource_version.clone(),
                };
                ignore_gone(sets.delete(name(rs.as_ref()), &DeleteParams::background().preconditions(same)).await)?;
            }
        }
    }
    Ok(())
}

fn scaled(ctx: &Context, d: &Deployment, set: &str, from: i32, to: i32) {
    let way = if to >= from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {set} from {from} to {to}");
    ctx.recorder.event(COMPONENT, d, Severity::Normal, "ScalingReplicaSet", message);
}

/// The name of the new ReplicaSet is taken: by our own set that the cache does not show yet, or by
/// another template with the same hash, in which case the next run uses another hash.
async fn collision(ctx: &Context, d: &Deployment, rs: &ReplicaSet, plan: &mut Plan) -> Result<(), Error> {
    let Some(existing) = ctx.api::<ReplicaSet>(namespace(d)).get_opt(name(rs)).await? else { return Err(Error::Stale) };
    let template = |r: &ReplicaSet| r.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    if pods::is_controlled_by(&existing.metadata, uid(d)) && names::same_template(&template(&existing), &template(rs)) {
        return Err(Error::Stale);
    }
    plan.status.collision_count = Some(plan.status.collision_count.unwrap_or(0).saturating_add(1));
    Ok(())
}
