//! Garbage collection: deletes what no owner needs any more.
//!
//! [`graph`] knows who owns whom, by uid, fed from the shared caches and, for all other kinds that
//! discovery shows, from one metadata watch each ([`sources`]). [`decide`] says what to do with an object
//! (pure); this module does it: background, foreground and orphan, as in Kubernetes.
//!
//! Invariants: nothing is deleted because a cache does not know its owner; the owner is asked for in the
//! API first, and an error, or a kind that discovery does not show, means that it may exist. Deletes carry
//! the uid and resourceVersion of the object as it was read just before.
//!
//! Limits: [`REMEMBERED_ABSENT`] uids of owners known to be gone.

mod decide;
mod graph;
mod sources;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;
use skerry_common::Key;
use tokio::sync::watch;

use crate::claim::without_owner;
use crate::context::Context;
use crate::error::{Error, ignore_gone};
use crate::machinery::lock;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use decide::{Decision, OwnerState};
use graph::{FOREGROUND, Graph, Item, ORPHAN};

const COMPONENT: &str = "garbage-collector";
/// Uids of absent owners that are remembered, so that 500 pods of one ReplicaSet ask once. Uids never
/// come back, so this can only save requests.
const REMEMBERED_ABSENT: usize = 10_000;

/// How soon an orphaning is tried again while not all kinds are listed.
const UNTIL_COMPLETE: Duration = Duration::from_secs(1);

/// The kinds that discovery showed last.
type Kinds = RwLock<Vec<(ApiResource, bool)>>;

pub(super) struct Gc {
    graph: Mutex<Graph>,
    queue: Arc<WorkQueue<Key>>,
    absent: Mutex<HashSet<String>>,
    kinds: Kinds,
    /// Has discovery succeeded once?
    discovered: watch::Sender<bool>,
    /// Have all sources shown a complete list?
    complete: watch::Sender<bool>,
}

impl Gc {
    fn enqueue(&self, uids: impl IntoIterator<Item = Arc<str>>) {
        for uid in uids {
            self.queue.add(Key::new("", uid));
        }
    }
}

/// Registers handlers, spawns workers and the task that follows discovery.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let gc = Arc::new(Gc {
        graph: Mutex::default(),
        queue: Arc::new(WorkQueue::default()),
        absent: Mutex::default(),
        kinds: RwLock::default(),
        discovered: watch::Sender::new(false),
        complete: watch::Sender::new(false),
    });
    sources::install(ctx, tasks, &gc);
    let queue = gc.queue.clone();
    let g = gc.clone();
    let all = move || lock(&g.graph).uids().into_iter().map(|uid| Key::new("", uid)).collect();
    worker::spawn(ctx, tasks, COMPONENT, ctx.options.workers, &queue, all, move |ctx, key| {
        let gc = gc.clone();
        async move { process(&ctx, &gc, &key.name).await }
    });
}

fn api_of(ctx: &Context, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(ctx.client.clone(), namespace, resource),
        None => Api::all_with(ctx.client.clone(), resource),
    }
}

fn item_api(ctx: &Context, item: &Item) -> Api<DynamicObject> {
    api_of(ctx, &item.resource, (!item.key.namespace.is_empty()).then_some(&*item.key.namespace))
}

async fn process(ctx: &Arc<Context>, gc: &Gc, uid: &str) -> Result<Next, Error> {
    let Some(item) = lock(&gc.graph).get(uid) else { return Ok(Next::OnChange) };
    if item.deleting && item.orphan {
        // What is not known yet could not be orphaned, and would be deleted instead.
        if !*gc.complete.borrow() {
            return Ok(Next::After(UNTIL_COMPLETE));
        }
        return orphan_dependents(ctx, gc, &item).await;
    }
    if item.deleting && item.foreground {
        return foreground(ctx, gc, &item).await;
    }
    if item.deleting || item.owners.is_empty() {
        return Ok(Next::OnChange);
    }
    // Before the first discovery every kind is unknown.
    let mut discovered = gc.discovered.subscribe();
    let _ = discovered.wait_for(|d| *d).await;
    let mut states = Vec::new();
    for owner in &item.owners {
        states.push((owner.clone(), owner_state(ctx, gc, &item, owner).await?));
    }
    let has_dependents = !lock(&gc.graph).dependents(uid).is_empty();
    if states.iter().any(|(_, state)| *state == OwnerState::Unknown) {
        // Discovery may show the kind later: a custom resource, or one that was unavailable.
        return Ok(Next::After(ctx.options.discovery_period));
    }
    match decide::decide(&states, has_dependents) {
        Decision::Keep => {}
        Decision::Drop(uids) => {
            let api = item_api(ctx, &item);
            let Some(live) = live(&api, &item).await? else { return Ok(Next::OnChange) };
            let rest: Vec<OwnerReference> =
                live.owner_references.iter().flatten().filter(|o| !uids.contains(&o.uid)).cloned().collect();
            let patch = crate::claim::owners_patch(&live, &rest);
            ignore_gone(api.patch_metadata(&item.key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        Decision::Delete { foreground } => delete(ctx, &item, foreground).await?,
    }
    Ok(Next::OnChange)
}

/// The metadata of the object as it is now, if it is still the same object.
async fn live(api: &Api<DynamicObject>, item: &Item) -> Result<Option<ObjectMeta>, Error> {
    let live = api.get_metadata_opt(&item.key.name).await?.map(|o| o.metadata);
    Ok(live.filter(|m| m.uid.as_deref() == Some(&*item.uid)))
}

async fn delete(ctx: &Context, item: &Item, foreground: bool) -> Result<(), Error> {
    let api = item_api(ctx, item);
    let Some(live) = live(&api, item).await? else { return Ok(()) };
    let uids = |owners: &[OwnerReference]| owners.iter().map(|o| o.uid.clone()).collect::<HashSet<_>>();
    if uids(live.owner_references.as_deref().unwrap_or_default()) != uids(&item.owners) {
        return Err(Error::Stale);
    }
    let finalizers = live.finalizers.as_deref().unwrap_or_default();
    let propagation = if finalizers.iter().any(|f| f == ORPHAN) {
        PropagationPolicy::Orphan
    } else if foreground || finalizers.iter().any(|f| f == FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    let params = DeleteParams {
        propagation_policy: Some(propagation),
        preconditions: Some(Preconditions { uid: live.uid, resource_version: live.resource_version }),
        ..Default::default()
    };
    tracing::debug!(kind = item.resource.kind, object = %item.key, "deleting dependent");
    match api.delete(&item.key.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn owner_state(ctx: &Context, gc: &Gc, item: &Item, owner: &OwnerReference) -> Result<OwnerState, Error> {
    if let Some(known) = lock(&gc.graph).get(&owner.uid) {
        // An owner in another namespace is no owner.
        if known.key.namespace.is_empty() || known.key.namespace == item.key.namespace {
            return Ok(if known.deleting && known.foreground { OwnerState::Waiting } else { OwnerState::Solid });
        }
    }
    if lock(&gc.absent).contains(&owner.uid) {
        return Ok(OwnerState::Gone);
    }
    let found = {
        let kinds = gc.kinds.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        kinds.iter().find(|(r, _)| r.kind == owner.kind && r.group == group).cloned()
    };
    let Some((resource, namespaced)) = found else { return Ok(OwnerState::Unknown) };
    if namespaced && item.key.namespace.is_empty() {
        // A cluster-scoped object cannot have an owner in a namespace; nobody can say which is meant.
        return Ok(OwnerState::Unknown);
    }
    let api = api_of(ctx, &resource, namespaced.then_some(&*item.key.namespace));
    match api.get_metadata_opt(&owner.name).await?.filter(|o| o.metadata.uid.as_deref() == Some(&owner.uid)) {
        Some(live) => {
            let finalizers = live.metadata.finalizers.as_deref().unwrap_or_default();
            let waiting = live.metadata.deletion_timestamp.is_some() && finalizers.iter().any(|f| f == FOREGROUND);
            Ok(if waiting { OwnerState::Waiting } else { OwnerState::Solid })
        }
        None => {
            let mut absent = lock(&gc.absent);
            if absent.len() >= REMEMBERED_ABSENT {
                absent.clear();
            }
            absent.insert(owner.uid.clone());
            Ok(OwnerState::Gone)
        }
    }
}

/// An owner that is deleted in the foreground goes when nothing that blocks it is left.
async fn foreground(ctx: &Context, gc: &Gc, item: &Item) -> Result<Next, Error> {
    let dependents = lock(&gc.graph).dependents(&item.uid);
    let blocks = |d: &Item| d.owners.iter().any(|o| *o.uid == *item.uid && o.block_owner_deletion == Some(true));
    if dependents.iter().any(|d| blocks(d)) || (!dependents.is_empty() && !*gc.complete.borrow()) {
        gc.enqueue(dependents.iter().filter(|d| !d.deleting).map(|d| d.uid.clone()));
        // Its dependents' changes bring it back; the delay is for changes that are never seen.
        return Ok(Next::After(crate::machinery::queue::BACKOFF_MAX));
    }
    remove_finalizer(ctx, item, FOREGROUND).await?;
    Ok(Next::OnChange)
}

async fn orphan_dependents(ctx: &Context, gc: &Gc, item: &Item) -> Result<Next, Error> {
    let dependents = lock(&gc.graph).dependents(&item.uid);
    for dependent in dependents {
        let api = item_api(ctx, &dependent);
        let Some(live) = live(&api, &dependent).await? else { continue };
        if !live.owner_references.iter().flatten().any(|o| *o.uid == *item.uid) {
            continue;
        }
        let patch = crate::claim::owners_patch(&live, &without_owner(&live, &item.uid));
        match api.patch_metadata(&dependent.key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    remove_finalizer(ctx, item, ORPHAN).await?;
    Ok(Next::OnChange)
}

async fn remove_finalizer(ctx: &Context, item: &Item, finalizer: &str) -> Result<(), Error> {
    let api = item_api(ctx, item);
    let Some(live) = live(&api, item).await? else { return Ok(()) };
    let rest: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    if rest.len() == live.finalizers.iter().flatten().count() {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version, "finalizers": rest}});
    match api.patch_metadata(&item.key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
