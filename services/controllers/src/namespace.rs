//! Empties a namespace that is being deleted, then lets it go.
//!
//! Deletes everything of every namespaced kind that discovery shows, and removes the finalizer
//! `kubernetes` only when a list of every kind has come back empty. What stands in the way is written on
//! the namespace as conditions, as in Kubernetes.
//!
//! Invariant: when discovery or any list fails, the namespace stays.
//!
//! Crash: everything is asked again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::discovery::{ApiCapabilities, Discovery, Scope, verbs};
use serde_json::json;
use skerry_common::Key;

use crate::context::{Context, pods_by};
use crate::error::{Error, ignore_gone};
use crate::machinery::cache::Change;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};

const COMPONENT: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// How often a namespace that still has content is looked at again.
const AGAIN: Duration = Duration::from_secs(2);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let q = queue.clone();
    ctx.namespaces.on_change(move |change: &Change<'_, Namespace>| {
        if change.new.is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
            q.add(change.key.clone());
        }
    });
    // The last pod that goes lets its namespace go at once.
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.pods.on_change(move |change: &Change<'_, Pod>| {
        if change.new.is_none()
            && let Some(ctx) = weak.upgrade()
        {
            let key = Key::new("", change.key.namespace.clone());
            if ctx.namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
                && ctx.pods.by_index(pods_by::NAMESPACE, &change.key.namespace).is_empty()
            {
                q.add(key);
            }
        }
    });
    let cache = ctx.namespaces.clone();
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

/// All kinds that `discovery` shows, each in its preferred version.
pub(crate) fn kinds(discovery: &Discovery) -> Vec<(ApiResource, ApiCapabilities)> {
    discovery.groups().flat_map(|g| g.resources_by_stability()).collect()
}

async fn reconcile(ctx: &Arc<Context>, key: &Key) -> Result<Next, Error> {
    let Some(namespace) = ctx.namespaces.get(key) else { return Ok(Next::OnChange) };
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(Next::OnChange);
    }
    let discovery = Discovery::new(ctx.client.clone()).run().await?;
    let mut left = Vec::new();
    let mut finalizing = Vec::new();
    for (resource, caps) in kinds(&discovery) {
        let deletable = caps.supports_operation(verbs::LIST) && caps.supports_operation(verbs::DELETE);
        if caps.scope == Scope::Namespaced && deletable && resource.group != "events.k8s.io" {
            let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &key.name, &resource);
            let (count, held) = empty(&api).await?;
            if count > 0 {
                left.push(format!("{}.{} has {count} resource instances", resource.plural, resource.group));
                finalizing.extend(held);
            }
        }
    }
    if left.is_empty() {
        finalize(ctx, &namespace, &finalizers).await?;
        return Ok(Next::OnChange);
    }
    say_what_is_left(ctx, &namespace, &left, finalizing).await?;
    Ok(Next::After(AGAIN))
}

/// Deletes what is not being deleted yet. Returns how many objects were there and the finalizers that
/// hold them.
async fn empty(api: &Api<DynamicObject>) -> Result<(usize, Vec<String>), Error> {
    let (mut count, mut finalizers) = (0, Vec::new());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let list = api.list_metadata(&params).await?;
        for object in &list.items {
            count += 1;
            if object.metadata.deletion_timestamp.is_some() {
                finalizers.extend(object.metadata.finalizers.iter().flatten().cloned());
                continue;
            }
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let same = Preconditions { uid: object.metadata.uid.clone(), resource_version: None };
            ignore_gone(api.delete(name, &DeleteParams::background().preconditions(same)).await)?;
        }
        match list.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => break,
        }
    }
    if count > 0 && finalizers.is_empty() {
        // Most kinds are gone as soon as they are deleted: ask once more and save a round.
        let list = api.list_metadata(&ListParams::default().limit(PAGE)).await?;
        count = list.items.len();
        finalizers.extend(list.items.iter().flat_map(|o| o.metadata.finalizers.iter().flatten().cloned()));
    }
    Ok((count, finalizers))
}

async fn finalize(ctx: &Context, namespace: &Namespace, finalizers: &[String]) -> Result<(), Error> {
    let mut done = namespace.clone();
    let rest: Vec<String> = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
    done.spec.get_or_insert_default().finalizers = Some(rest);

    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let name = crate::pods::name(namespace);
    ignore_gone(api.replace_subresource("finalize", name, &PostParams::default(), &done).await)?;
    Ok(())
}

async fn say_what_is_left(
    ctx: &Context,
    namespace: &Namespace,
    left: &[String],
    mut finalizing: Vec<String>,
) -> Result<(), Error> {
    finalizing.sort();
    finalizing.dedup();
    let old = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let condition = |type_: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let since =
            old.iter().find(|c| c.type_ == type_ && c.status == status).and_then(|c| c.last_transition_time.clone());
        NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(Timestamp::now()))),
        }
    };
    let conditions = [
        condition(
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", left.join(", ")),
        ),
        if finalizing.is_empty() {
            condition(
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".into(),
            )
        } else {
            condition(
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", finalizing.join(", ")),
            )
        },
    ];
    if old == conditions {
        return Ok(());
    }
    let patch = json!({"status": {"conditions": conditions}});
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let name = crate::pods::name(namespace);
    ignore_gone(api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    Ok(())
}
