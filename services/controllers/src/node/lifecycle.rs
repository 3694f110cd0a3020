//! Conditions and taints of nodes.
//!
//! A node runs when it changes and on every tick of `node_monitor_period`. A silent node gets Ready
//! `Unknown` (and its pods Ready `False`); conditions and cordon become NoSchedule taints at once;
//! NoExecute taints come at most at the eviction rate, and are taken back when the node returns or when
//! all nodes are gone (then it is us who are cut off).
//!
//! Invariants: before a node is called gone, its Lease is read from the API, so a cache that stands
//! still evicts nothing; every write carries the resourceVersion it was decided from, so a node that
//! reports at the same moment wins.
//!
//! Who sets a node's Ready back to `True` when it returns is the node (or who reports for it), not this; its
//! pods then get back the readiness that they had.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skerry_common::Key;
use tokio::time::Instant;

use super::health::{Health, Limiter, Sign, eviction_rate};
use crate::context::{Context, NODE_LEASES, pods_by};
use crate::error::{Error, ignore_gone};
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::lock;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::pods::{condition, is_active, is_ready, name};
use crate::taints::{MANAGED, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, implied, node_condition, taint};

const COMPONENT: &str = "node-controller";
/// Reason of the Ready condition of pods on a node that is gone, by which we know our own mark.
const MARK: &str = "NodeNotReady";

#[derive(Default)]
struct Monitor {
    health: Mutex<Health>,
    limiter: Mutex<Limiter>,
    /// Nodes that have got their NoExecute taint in this outage; they keep it without a new token.
    evicting: Mutex<HashSet<String>>,
    rate: Mutex<Option<f64>>,
}

/// Registers handlers and spawns workers and the clock.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let monitor = Arc::new(Monitor::default());
    let (q, m) = (queue.clone(), monitor.clone());
    ctx.nodes.on_change(move |change: &Change<'_, Node>| {
        if change.new.is_none() {
            lock(&m.health).forget(&change.key.name);
            lock(&m.evicting).remove(&*change.key.name);
        }
        q.add(change.key.clone());
    });
    let (weak, m) = (Arc::downgrade(ctx), monitor.clone());
    ctx.leases.on_change(move |change: &Change<'_, Lease>| {
        // Seen here and not at the next tick, so that the time of the sign is exact.
        if let Some(ctx) = weak.upgrade()
            && let Some(node) = ctx.nodes.get(&Key::new("", change.key.name.clone()))
        {
            observe(&m, &node, change.new.map(Arc::as_ref));
        }
    });
    let cache = ctx.nodes.clone();
    let m = monitor.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        move |ctx, key| {
            let monitor = m.clone();
            async move { reconcile(&ctx, &key, &monitor).await }
        },
    );
    tasks.spawn(COMPONENT, tick(ctx.clone(), monitor, queue));
}

async fn tick(ctx: Arc<Context>, monitor: Arc<Monitor>, queue: Arc<WorkQueue<Key>>) {
    ctx.wait_synced().await;
    let period = ctx.options.node_monitor_period;
    loop {
        lock(&monitor.health).look(period, Instant::now());
        let nodes = ctx.nodes.list();
        let ready = nodes.iter().filter(|n| node_condition(n, "Ready").is_some_and(|c| c.status == "True")).count();
        let not_ready = nodes.len() - ready;
        let stop = ctx.options.stop_evictions_when_all_nodes_are_gone;
        let rate = eviction_rate(ready, not_ready, ctx.options.node_eviction_rate, stop);
        let before = std::mem::replace(&mut *lock(&monitor.rate), rate);
        if before.is_some() && rate.is_none() {
            tracing::warn!(nodes = not_ready, "no node is ready, evictions stop");
            lock(&monitor.evicting).clear();
        }
        for node in nodes {
            queue.add(Key::new("", name(node.as_ref())));
        }
        tokio::time::sleep(period).await;
    }
}

fn sign(node: &Node, lease: Option<&Lease>) -> Sign {
    Sign {
        renewed: lease.and_then(|l| l.spec.as_ref()).and_then(|s| s.renew_time.as_ref()).map(|t| t.0),
        heartbeat: node_condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0),
    }
}

fn observe(monitor: &Monitor, node: &Node, lease: Option<&Lease>) {
    lock(&monitor.health).observe(name(node), sign(node, lease), Instant::now());
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, monitor: &Monitor) -> Result<Next, Error> {
    let Some(node) = ctx.nodes.get(key) else { return Ok(Next::OnChange) };
    let lease = ctx.leases.get(&Key::new(NODE_LEASES, key.name.clone()));
    observe(monitor, &node, lease.as_deref());
    let gone = |monitor: &Monitor| {
        let (grace, startup) = (ctx.options.node_monitor_grace, ctx.options.node_startup_grace);
        lock(&monitor.health).is_gone(&key.name, grace, startup, Instant::now())
    };
    let status = node_condition(&node, "Ready").map(|c| c.status.clone());
    if gone(monitor) && status.as_deref() != Some("Unknown") {
        // The cache may stand still while the node is fine.
        let leases: Api<Lease> = Api::namespaced(ctx.client.clone(), NODE_LEASES);
        observe(monitor, &node, leases.get_opt(&key.name).await?.as_ref());
        if gone(monitor) {
            mark_unknown(ctx, &node).await?;
            // The taints come with the change that this write makes.
            return Ok(Next::OnChange);
        }
    }
    match status.as_deref() {
        Some("Unknown") => mark_pods(ctx, &key.name).await?,
        Some("True") => unmark_pods(ctx, &key.name).await?,
        _ => {}
    }
    let may_evict = may_evict(monitor, &node);
    let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = desired_taints(&node, &current, may_evict, Timestamp::now());
    if wanted != current {
        let patch =
            json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": wanted}});
        let api: Api<Node> = Api::all(ctx.client.clone());
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(Next::OnChange)
}

/// May the node carry a NoExecute taint now? Takes a token for a node that does not have one yet.
fn may_evict(monitor: &Monitor, node: &Node) -> bool {
    let ready = node_condition(node, "Ready").is_some_and(|c| c.status == "True");
    let mut evicting = lock(&monitor.evicting);
    if ready {
        evicting.remove(name(node));
        return false;
    }
    let Some(rate) = *lock(&monitor.rate) else { return false };
    if evicting.contains(name(node)) {
        return true;
    }
    let tainted = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let already = tainted.iter().any(|t| t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE));
    if already || lock(&monitor.limiter).try_take(rate, Instant::now()) {
        evicting.insert(name(node).to_owned());
        return true;
    }
    false
}

/// All taints that the node should have; those that we do not manage stay as they are.
pub(super) fn desired_taints(node: &Node, current: &[Taint], may_evict: bool, now: Timestamp) -> Vec<Taint> {
    let mut managed = implied(node);
    match node_condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("True") | None => {}
        Some("False") if may_evict => managed.push(taint(NOT_READY, NO_EXECUTE)),
        Some(_) if may_evict => managed.push(taint(UNREACHABLE, NO_EXECUTE)),
        Some(_) => {}
    }
    let is_managed = |t: &Taint| {
        MANAGED.contains(&t.key.as_str())
            && (t.effect == NO_SCHEDULE || (t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE)))
    };
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut out: Vec<Taint> =
        current.iter().filter(|t| !is_managed(t) || managed.iter().any(|m| same(m, t))).cloned().collect();
    for mut taint in managed {
        if !out.iter().any(|t| same(t, &taint)) {
            taint.time_added = Some(Time(now));
            out.push(taint);
        }
    }
    out
}

async fn mark_unknown(ctx: &Context, node: &Node) -> Result<(), Error> {
    let now = Time(Timestamp::now());
    let conditions: Vec<NodeCondition> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .map(|type_| {
            let current = node_condition(node, type_);
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: current.and_then(|c| c.last_heartbeat_time.clone()),
                last_transition_time: Some(now.clone()),
            }
        })
        .collect();
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    let api: Api<Node> = Api::all(ctx.client.clone());
    api.patch_status(name(node), &PatchParams::default(), &Patch::Strategic(patch)).await?;
    tracing::info!(node = name(node), "node is gone");
    let message = format!("Node {} status is now: NodeNotReady", name(node));
    ctx.recorder.event(COMPONENT, node, Severity::Normal, "NodeNotReady", message);
    Ok(())
}

/// Services must not send anything to the pods of a node that is gone.
async fn mark_pods(ctx: &Context, node: &str) -> Result<(), Error> {
    for pod in ctx.pods.by_index(pods_by::NODE, node).into_iter().filter(|p| is_ready(p)) {
        write_ready(ctx, &pod, "False", Some(MARK)).await?;
        ctx.recorder.event(COMPONENT, pod.as_ref(), Severity::Warning, MARK, "Node is not ready");
    }
    Ok(())
}

/// The node is back: what we marked is as ready as it was when it last reported. A node that reports
/// its pods anew does this itself, and wins.
async fn unmark_pods(ctx: &Context, node: &str) -> Result<(), Error> {
    for pod in ctx.pods.by_index(pods_by::NODE, node).into_iter().filter(|p| is_marked(p) && was_ready(p)) {
        write_ready(ctx, &pod, "True", None).await?;
    }
    Ok(())
}

fn is_marked(pod: &Pod) -> bool {
    is_active(pod) && condition(pod, "Ready").is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some(MARK))
}

/// The last report of the node, which marking leaves alone.
fn was_ready(pod: &Pod) -> bool {
    condition(pod, "ContainersReady").is_some_and(|c| c.status == "True")
}

async fn write_ready(ctx: &Context, pod: &Pod, status: &str, reason: Option<&str>) -> Result<(), Error> {
    let message = reason.map(|_| "the node is not ready");
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        }]},
    });
    let api = ctx.api::<Pod>(crate::pods::namespace(pod));
    ignore_gone(api.patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn taints_follow_the_state() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let run = |ready: &str, taints: serde_json::Value, may_evict: bool| -> Vec<String> {
            let node: Node = serde_json::from_value(json!({
                "spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap();
            let current = node.spec.as_ref().unwrap().taints.clone().unwrap_or_default();
            let out = desired_taints(&node, &current, may_evict, now);
            out.into_iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect)).collect()
        };
        let foreign = json!([{"key": "k", "effect": "NoExecute"}]);
        let unreachable =
            json!([{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]);
        for (ready, taints, may_evict, expected) in [
            ("True", json!([]), false, vec![]),
            ("True", foreign.clone(), true, vec!["k:NoExecute"]),
            ("True", unreachable.clone(), false, vec![]),
            ("False", json!([]), false, vec!["not-ready:NoSchedule"]),
            ("False", json!([]), true, vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ("Unknown", foreign, true, vec!["k:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"]),
            ("Unknown", unreachable.clone(), true, vec!["unreachable:NoExecute", "unreachable:NoSchedule"]),
            ("Unknown", unreachable.clone(), false, vec!["unreachable:NoSchedule"]),
            ("False", unreachable, true, vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ] {
            assert_eq!(run(ready, taints.clone(), may_evict), expected, "{ready} {taints}");
        }
    }

    #[test]
    fn the_time_of_a_taint_stays() {
        let node: Node = serde_json::from_value(json!({
            "spec": {"taints": [{"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}))
        .unwrap();
        let current = node.spec.as_ref().unwrap().taints.clone().unwrap();
        assert_eq!(desired_taints(&node, &current, false, Timestamp::now()), current);
    }
}
