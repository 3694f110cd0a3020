//! The EndpointSlice controller: which pods stand behind each Service.
//!
//! A Service runs when it, a pod that it selects (or selected), or one of its slices changes; many pod
//! changes within [`BATCH`] are one run. Slices hold at most [`slices::MAX_ENDPOINTS`] endpoints and
//! change as little as possible, so that consumers get small differences.
//!
//! There are no `Endpoints` objects: they are deprecated since Kubernetes 1.33, and nothing here reads
//! them. Services without a selector have slices made by others, which are left alone.
//!
//! Invariant: no slices are written before the cache has shown all slices that were created before.

mod desired;
mod slices;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams, Preconditions};
use skerry_common::Key;

use crate::context::{Context, by, pods_by};
use crate::error::{Error, ignore_gone};
use crate::labels::map_matches;
use crate::machinery::cache::Change;
use crate::machinery::expectations::Expectations;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::pods::{self, name, namespace, uid};

const COMPONENT: &str = "endpointslice-controller";
/// Pod changes within this time are one run: a rollout changes many pods of one Service at once.
const BATCH: Duration = Duration::from_millis(50);
const ZONE: &str = "topology.kubernetes.io/zone";

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let expectations: Arc<Expectations<Arc<str>>> = Arc::default();
    let (q, e) = (queue.clone(), expectations.clone());
    ctx.services.on_change(move |change: &Change<'_, Service>| {
        if let (Some(old), None) = (change.old, change.new) {
            e.forget(&Arc::from(uid(old.as_ref())));
        }
        q.add(change.key.clone());
    });
    let (q, e) = (queue.clone(), expectations.clone());
    ctx.slices.on_change(move |change: &Change<'_, EndpointSlice>| {
        for slice in change.both() {
            if let Some(owner) = pods::controller_of(&slice.metadata).filter(|o| o.kind == "Service") {
                e.created(&Arc::from(owner.uid.as_str()), name(slice.as_ref()));
                q.add(Key::new(namespace(slice.as_ref()), owner.name.as_str()));
            }
        }
    });
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.pods.on_change(move |change: &Change<'_, Pod>| {
        if change.old.map(|p| desired::relevant(p)) == change.new.map(|p| desired::relevant(p)) {
            return;
        }
        let Some(ctx) = weak.upgrade() else { return };
        for service in ctx.services.by_index(by::NAMESPACE, &change.key.namespace) {
            let Some(selector) = desired::selector(&service) else { continue };
            if change.both().any(|p| map_matches(selector, p.metadata.labels.as_ref())) {
                q.add_after(Key::new(namespace(service.as_ref()), name(service.as_ref())), BATCH);
            }
        }
    });
    let cache = ctx.services.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        move |ctx, key| {
            let expectations = expectations.clone();
            async move { reconcile(&ctx, &key, &expectations).await }
        },
    );
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, expectations: &Expectations<Arc<str>>) -> Result<Next, Error> {
    // The slices of a deleted Service are the garbage collector's work.
    let Some(service) = ctx.services.get(key) else { return Ok(Next::OnChange) };
    let owner: Arc<str> = uid(service.as_ref()).into();
    if service.metadata.deletion_timestamp.is_some() || !expectations.satisfied(&owner) {
        return Ok(Next::OnChange);
    }
    let Some(selector) = desired::selector(&service) else { return Ok(Next::OnChange) };
    let mut selected = ctx.pods.by_index(pods_by::NAMESPACE, &key.namespace);
    selected.retain(|p| map_matches(selector, p.metadata.labels.as_ref()));
    let zone = |node: &str| {
        let node: Arc<Node> = ctx.nodes.get(&Key::new("", node))?;
        node.metadata.labels.as_ref()?.get(ZONE).cloned()
    };
    let groups = desired::groups(&service, &selected, zone);
    let existing = ctx.slices.by_index(by::CONTROLLER, &owner);
    let plan = slices::plan(&service, groups, &existing);
    let api = ctx.api::<EndpointSlice>(&key.namespace);
    for slice in &plan.create {
        expectations.expect_create(&owner, name(slice));
        if let Err(error) = api.create(&PostParams::default(), slice).await.map_err(Error::from) {
            expectations.created(&owner, name(slice));
            return if error.is_namespace_terminating() { Ok(Next::OnChange) } else { Err(error) };
        }
    }
    for slice in &plan.update {
        api.replace(name(slice), &PostParams::default(), slice).await?;
    }
    for slice in &plan.delete {
        let same = Preconditions { uid: slice.metadata.uid.clone(), resource_version: None };
        ignore_gone(api.delete(name(slice.as_ref()), &DeleteParams::background().preconditions(same)).await)?;
    }
    Ok(Next::OnChange)
}
