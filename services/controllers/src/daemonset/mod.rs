//! The DaemonSet controller: one pod on each node that matches.
//!
//! Pods are created with an affinity to the name of their node and the daemon tolerations, and bound by
//! the scheduler, as in Kubernetes. Updates roll with maxUnavailable (default 1) or wait for deletion
//! (OnDelete); a pod belongs to a template by the label `controller-revision-hash`. There are no
//! ControllerRevision objects, so `kubectl rollout undo` of a DaemonSet has no history to go back to.
//!
//! Invariant: no pods are created or deleted before the cache has shown all earlier creates and deletes
//! of this DaemonSet.

mod placement;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skerry_common::Key;

use crate::claim;
use crate::context::{Context, by};
use crate::deployment::view::scaled_value;
use crate::error::{Error, ignore_gone};
use crate::labels::Selector;
use crate::machinery::cache::Change;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::names;
use crate::pods::{self, name, namespace, uid};
use crate::replicaset::{BURST, PodExpectations, create_pods, delete_pods, settled, watch_pods};
use crate::taints;

const COMPONENT: &str = "daemonset-controller";
const KIND: &str = "DaemonSet";
/// The label that tells which template a pod was made from.
const HASH: &str = "controller-revision-hash";

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let expectations = PodExpectations::default();
    let (q, e) = (queue.clone(), expectations.clone());
    ctx.daemon_sets.on_change(move |change: &Change<'_, DaemonSet>| {
        if let (Some(old), None) = (change.old, change.new) {
            e.forget(&Arc::from(uid(old.as_ref())));
        }
        q.add(change.key.clone());
    });
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.nodes.on_change(move |change: &Change<'_, Node>| {
        // Heartbeats change nothing here.
        let relevant = |n: Option<&Arc<Node>>| n.map(|n| (n.metadata.labels.clone(), taints::effective(n)));
        if relevant(change.old) != relevant(change.new)
            && let Some(ctx) = weak.upgrade()
        {
            for key in ctx.daemon_sets.keys() {
                q.add(key);
            }
        }
    });
    watch_pods(ctx, KIND, &queue, &expectations, |ctx, pod| {
        let sets = ctx.daemon_sets.by_index(by::NAMESPACE, namespace(pod));
        let matching =
            sets.iter().filter(|ds| selector_of(ds).is_some_and(|s| s.matches(pod.metadata.labels.as_ref())));
        matching.map(|ds| Key::new(namespace(ds.as_ref()), name(ds.as_ref()))).collect()
    });
    let cache = ctx.daemon_sets.clone();
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

fn selector_of(ds: &DaemonSet) -> Option<Selector> {
    let selector = Selector::parse(&ds.spec.as_ref()?.selector).ok()?;
    (!selector.is_empty()).then_some(selector)
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, expectations: &PodExpectations) -> Result<Next, Error> {
    let Some(ds) = ctx.daemon_sets.get(key) else { return Ok(Next::OnChange) };
    let Some(selector) = selector_of(&ds) else {
        return Err(Error::Invalid {
            object: format!("DaemonSet {key}"),
            why: "its selector selects everything".into(),
        });
    };
    if ds.metadata.deletion_timestamp.is_some() {
        return Ok(Next::OnChange);
    }
    let owner: Arc<str> = uid(ds.as_ref()).into();
    let settled = settled(ctx, &key.namespace, &owner, expectations).await?;
    let owned = claim::pods(ctx, ds.as_ref(), &selector).await?;
    let spec = ds.spec.clone().unwrap_or_default();
    let hash = names::template_hash(&spec.template, 0);
    let nodes = ctx.nodes.list();
    let mut by_node: HashMap<&str, Vec<&Arc<Pod>>> = HashMap::new();
    for pod in &owned {
        if let Some(node) = placement::target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let now = Timestamp::now();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let (mut status, mut missing, mut victims) = (DaemonSetStatus::default(), Vec::new(), Vec::new());
    let mut outdated = Vec::new();
    let mut wake = None;
    for node in &nodes {
        let node_name = name(node.as_ref());
        let here = by_node.remove(node_name).unwrap_or_default();
        let fate = placement::should_run(&spec.template, node);
        let alive: Vec<&Arc<Pod>> = here.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).copied().collect();
        if !fate.run {
            status.number_misscheduled += i32::from(!alive.is_empty());
            if !fate.keep {
                victims.extend(alive.into_iter().cloned());
            }
            continue;
        }
        status.desired_number_scheduled += 1;
        // Pods that ended are replaced; of several, the oldest stays.
        let (ended, mut alive): (Vec<_>, Vec<_>) = alive.into_iter().partition(|p| pods::is_finished(p));
        victims.extend(ended.into_iter().cloned());
        alive.sort_by_key(|p| (!pods::is_ready(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0)));
        victims.extend(alive.iter().skip(1).map(|p| (*p).clone()));
        let Some(pod) = alive.first() else {
            // A pod that is still going counts as there: two daemons must not run at once.
            if here.is_empty() {
                missing.push(node_name.to_owned());
            }
            continue;
        };
        status.current_number_scheduled += 1;
        let updated = pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)) == Some(&hash);
        status.updated_number_scheduled = Some(status.updated_number_scheduled.unwrap_or(0) + i32::from(updated));
        status.number_ready += i32::from(pods::is_ready(pod));
        let available = match pods::available(pod, min_ready, now) {
            Ok(()) => true,
            Err(seconds) => {
                wake = [wake, seconds.map(|s| std::time::Duration::from_secs(s.max(1)))].into_iter().flatten().min();
                false
            }
        };
        status.number_available = Some(status.number_available.unwrap_or(0) + i32::from(available));
        if !updated {
            outdated.push(((*pod).clone(), available));
        }
    }
    // What is left is bound to nodes that do not exist: the pod garbage collector's work.
    status.number_unavailable = Some(status.desired_number_scheduled - status.number_available.unwrap_or(0));
    status.observed_generation = ds.metadata.generation;
    status.collision_count = ds.status.as_ref().and_then(|s| s.collision_count);
    let mut result = Ok(());
    if settled {
        if spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            let rolling = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.clone()).unwrap_or_default();
            let desired = status.desired_number_scheduled;
            let allowed =
                rolling.max_unavailable.as_ref().map_or(1, |v| scaled_value(Some(v), "", desired, true)).max(1);
            victims.extend(placement::to_update(outdated, allowed, status.number_unavailable.unwrap_or(0)));
        }
        victims.truncate(BURST);
        missing.truncate(BURST);
        result = delete_pods(ctx, COMPONENT, ds.as_ref(), &owner, expectations, &victims).await;
        if result.is_ok() && !missing.is_empty() {
            let new = missing.into_iter().map(|node| placement::pod_for(&ds, &spec.template, &hash, node)).collect();
            result = create_pods(ctx, COMPONENT, ds.as_ref(), &owner, expectations, new).await;
        }
    }
    write_status(ctx, &ds, &status).await?;
    match result {
        Err(error) if error.is_namespace_terminating() => Ok(Next::OnChange),
        Err(error) => Err(error),
        Ok(()) => Ok(Next::OnChange.sooner(wake)),
    }
}

async fn write_status(ctx: &Context, ds: &DaemonSet, status: &DaemonSetStatus) -> Result<(), Error> {
    let to_json = |s: &DaemonSetStatus| {
        json!({
            "currentNumberScheduled": s.current_number_scheduled,
            "desiredNumberScheduled": s.desired_number_scheduled,
            "numberMisscheduled": s.number_misscheduled,
            "numberReady": s.number_ready,
            "numberAvailable": s.number_available.unwrap_or(0),
            "numberUnavailable": s.number_unavailable.unwrap_or(0),
            "updatedNumberScheduled": s.updated_number_scheduled.unwrap_or(0),
            "observedGeneration": s.observed_generation,
        })
    };
    if ds.status.as_ref().map(to_json) == Some(to_json(status)) {
        return Ok(());
    }
    let patch = json!({"status": to_json(status)});
    let api = ctx.api::<DaemonSet>(namespace(ds));
    ignore_gone(api.patch_status(name(ds), &PatchParams::default(), &Patch::Merge(patch)).await)?;
    Ok(())
}
