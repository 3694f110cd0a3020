//! Binds claims to volumes that an administrator made, and says what phase both are in.
//!
//! Nothing is provisioned and nothing is erased: a volume whose claim is gone is Released, and who wants
//! it used again removes its `claimRef`, as with Kubernetes' policy Retain. A claim whose class says
//! `WaitForFirstConsumer` is bound when a pod that uses it has a node, to a volume of that node. The
//! scheduler does not look at volumes: a pod that needs a volume of one node says so in its spec.
//!
//! Invariant: one worker decides, and a volume is taken with the resource version that was looked at,
//! so no volume is given to two claims. The volume is marked first: a crash between the two writes
//! leaves a volume that is held for its claim, and the next run completes it.

mod choose;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skerry_common::Key;

use crate::context::{Context, pods_by};
use crate::error::Error;
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::pods::{self, name, namespace};
use choose::{Held, choose, class, held};

const COMPONENT: &str = "persistentvolume-controller";
const WAIT_FOR_CONSUMER: &str = "WaitForFirstConsumer";

/// Registers handlers and spawns the worker. Keys without a namespace are volumes.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let q = queue.clone();
    ctx.claims.on_change(move |change: &Change<'_, PersistentVolumeClaim>| {
        q.add(change.key.clone());
        for volume in change.both().filter_map(|c| volume_name(c)) {
            q.add(Key::new("", volume));
        }
    });
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.volumes.on_change(move |change: &Change<'_, PersistentVolume>| {
        q.add(change.key.clone());
        let Some(ctx) = weak.upgrade() else { return };
        for claim in ctx.claims.list().iter().filter(|c| !is_bound(c)) {
            q.add(Key::new(namespace(claim.as_ref()), name(claim.as_ref())));
        }
    });
    let q = queue.clone();
    ctx.pods.on_change(move |change: &Change<'_, Pod>| {
        for pod in change.new.into_iter().filter(|p| pods::node_name(p).is_some()) {
            for claim in claims_of(pod) {
                q.add(Key::new(namespace(pod.as_ref()), claim));
            }
        }
    });
    let (claims, volumes) = (ctx.claims.clone(), ctx.volumes.clone());
    let keys = move || claims.keys().into_iter().chain(volumes.keys()).collect();
    worker::spawn(ctx, tasks, COMPONENT, 1, &queue, keys, |ctx, key| async move {
        if key.namespace.is_empty() {
            settle_volume(&ctx, &key).await?
        } else {
            settle_claim(&ctx, &key).await?
        }
        Ok(Next::OnChange)
    });
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty())
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| v.persistent_volume_claim.as_ref()).map(|c| c.claim_name.as_str())
}

/// The phase of a volume.
async fn settle_volume(ctx: &Context, key: &Key) -> Result<(), Error> {
    let Some(volume) = ctx.volumes.get(key) else { return Ok(()) };
    let holder = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let phase = match holder {
        None => "Available",
        Some(holder) => {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let claim = ctx.claims.get(&Key::new(text(&holder.namespace), text(&holder.name)));
            match claim.filter(|c| held(&volume, c) == Held::ByIt) {
                Some(claim) if volume_name(&claim) == Some(&*key.name) => "Bound",
                // Made for a claim that has not come, or is about to be bound.
                Some(_) => "Available",
                None if text(&holder.uid).is_empty() => "Available",
                None => "Released",
            }
        }
    };
    if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
        return Ok(());
    }
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let patch = json!({"metadata": {"uid": volume.metadata.uid}, "status": {"phase": phase}});
    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn settle_claim(ctx: &Context, key: &Key) -> Result<(), Error> {
    let Some(claim) = ctx.claims.get(key).filter(|c| c.metadata.deletion_timestamp.is_none()) else { return Ok(()) };
    if is_bound(&claim) {
        return Ok(());
    }
    if let Some(wanted) = volume_name(&claim) {
        let volume = ctx.volumes.get(&Key::new("", wanted));
        return match volume.filter(|v| held(v, &claim) != Held::ByAnother) {
            Some(volume) => bind(ctx, &claim, &volume).await,
            None => Ok(()),
        };
    }
    let class_name = class(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref()));
    let class = ctx.storage_classes.get(&Key::new("", class_name));
    let waits = class.as_deref().is_some_and(waits_for_consumer);
    let node = consumer_node(ctx, &claim);
    if waits && node.is_none() {
        let message = "waiting for first consumer to be created before binding";
        ctx.recorder.event(COMPONENT, claim.as_ref(), Severity::Normal, WAIT_FOR_CONSUMER, message);
        return Ok(());
    }
    match choose(&claim, &ctx.volumes.list(), node.as_deref()) {
        Some(volume) => bind(ctx, &claim, &volume).await,
        None => {
            let message = if class_name.is_empty() {
                "no persistent volumes available for this claim and no storage class is set".to_owned()
            } else {
                format!(
                    "no persistent volumes of the class {class_name:?} available for this claim; none is provisioned"
                )
            };
            ctx.recorder.event(COMPONENT, claim.as_ref(), Severity::Normal, "FailedBinding", message);
            Ok(())
        }
    }
}

fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some(WAIT_FOR_CONSUMER)
}

/// The node of a pod that uses the claim.
fn consumer_node(ctx: &Context, claim: &PersistentVolumeClaim) -> Option<Arc<Node>> {
    let all = ctx.pods.by_index(pods_by::NAMESPACE, namespace(claim));
    let mut users = all.iter().filter(|p| claims_of(p).any(|c| c == name(claim)));
    users.find_map(|p| ctx.nodes.get(&Key::new("", pods::node_name(p)?)))
}

async fn bind(ctx: &Context, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let claims = ctx.api::<PersistentVolumeClaim>(namespace(claim));
    let params = PatchParams::default();
    let complete = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| r.uid.is_some());
    if !complete {
        let holder = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace(claim),
            "name": name(claim), "uid": claim.metadata.uid});
        // With the version that was looked at: somebody else may have taken it.
        let seen = json!({"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version});
        let patch = json!({"metadata": seen, "spec": {"claimRef": holder}});
        volumes.patch(name(volume), &params, &Patch::Merge(patch)).await?;
    }
    let same = json!({"uid": claim.metadata.uid});
    if volume_name(claim).is_none() {
        let done = json!({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"});
        let meta = json!({"uid": claim.metadata.uid, "annotations": done});
        let patch = json!({"metadata": meta, "spec": {"volumeName": name(volume)}});
        claims.patch(name(claim), &params, &Patch::Merge(patch)).await?;
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let status = json!({"phase": "Bound", "accessModes": spec.access_modes, "capacity": spec.capacity});
    claims.patch_status(name(claim), &params, &Patch::Merge(json!({"metadata": same, "status": status}))).await?;
    Ok(())
}
