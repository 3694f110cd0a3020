//! Deletes pods that do not tolerate a NoExecute taint of their node, when their time is up.
//!
//! The time runs on our monotonic clock from the moment that we saw the taint; it is cancelled when the
//! taint goes. Before a pod is deleted its node is read from the API, so a cache that stands still
//! evicts nothing.
//!
//! Crash: the time starts again; pods stay longer, never shorter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use skerry_common::Key;
use tokio::time::Instant;

use crate::context::{Context, pods_by};
use crate::error::{Error, ignore_gone};
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::lock;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::pods::{self, name, namespace};
use crate::taints::{NO_EXECUTE, NOT_READY, UNREACHABLE, tolerates};

const COMPONENT: &str = "taint-eviction-controller";

/// How long a pod may stay on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// For ever.
    Always,
    /// So long after the taint was seen; zero is "go now".
    For(Duration),
}

/// How long a pod with these tolerations may stay. `default` applies to not-ready and unreachable when
/// the pod says nothing about them.
pub(crate) fn stay(taints: &[Taint], tolerations: &[Toleration], default: Option<i64>) -> Stay {
    let mut shortest: Option<i64> = None;
    for taint in taints.iter().filter(|t| t.effect == NO_EXECUTE) {
        let mut tolerated: Option<Option<i64>> = None;
        for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
            // The shortest of all that match counts; one without a limit matters only when alone.
            tolerated = Some(match (tolerated.flatten(), toleration.toleration_seconds) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            });
        }
        let seconds = match tolerated {
            Some(None) => continue,
            Some(Some(seconds)) => seconds,
            None if taint.key == NOT_READY || taint.key == UNREACHABLE => default.unwrap_or(0),
            None => 0,
        };
        shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
    }
    match shortest {
        None => Stay::Always,
        Some(seconds) => Stay::For(Duration::from_secs(seconds.max(0).unsigned_abs())),
    }
}

/// Since when each pod that must go is being timed, with its uid.
type Timers = Arc<Mutex<HashMap<Key, (Option<String>, Instant)>>>;

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let timers = Timers::default();
    let (q, t) = (queue.clone(), timers.clone());
    ctx.pods.on_change(move |change: &Change<'_, Pod>| match change.new {
        None => {
            lock(&t).remove(change.key);
        }
        Some(new) => {
            let relevant = |p: &Pod| p.spec.as_ref().map(|s| (s.node_name.clone(), s.tolerations.clone()));
            let same_uid = change.old.is_some_and(|old| old.metadata.uid == new.metadata.uid);
            if !same_uid || change.old.map(|p| relevant(p)) != Some(relevant(new)) {
                q.add(change.key.clone());
            }
        }
    });
    let (q, weak) = (queue.clone(), Arc::downgrade(ctx));
    ctx.nodes.on_change(move |change: &Change<'_, Node>| {
        let taints = |n: Option<&Arc<Node>>| n.map(|n| no_execute(n)).unwrap_or_default();
        if taints(change.old) != taints(change.new)
            && let Some(ctx) = weak.upgrade()
        {
            for pod in ctx.pods.by_index(pods_by::NODE, &change.key.name) {
                q.add(Key::new(namespace(pod.as_ref()), name(pod.as_ref())));
            }
        }
    });
    let cache = ctx.pods.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        move |ctx, key| {
            let timers = timers.clone();
            async move { reconcile(&ctx, &key, &timers).await }
        },
    );
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|t| t.effect == NO_EXECUTE).cloned().collect()
}

fn how_long(ctx: &Context, pod: &Pod, node: &Node) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    stay(&no_execute(node), tolerations, ctx.options.default_toleration_seconds)
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, timers: &Timers) -> Result<Next, Error> {
    let pod = ctx.pods.get(key).filter(|p| pods::is_active(p));
    let node = pod.as_deref().and_then(pods::node_name).and_then(|n| ctx.nodes.get(&Key::new("", n)));
    let (Some(pod), Some(node)) = (pod, node) else {
        lock(timers).remove(key);
        return Ok(Next::OnChange);
    };
    let Stay::For(time) = how_long(ctx, &pod, &node) else {
        if lock(timers).remove(key).is_some() {
            let message = format!("Cancelling deletion of Pod {key}");
            ctx.recorder.event(COMPONENT, pod.as_ref(), Severity::Normal, "TaintManagerEviction", message);
        }
        return Ok(Next::OnChange);
    };
    let since = {
        let mut timers = lock(timers);
        let timer = timers.entry(key.clone()).or_insert_with(|| (pod.metadata.uid.clone(), Instant::now()));
        if timer.0 != pod.metadata.uid {
            *timer = (pod.metadata.uid.clone(), Instant::now());
        }
        timer.1
    };
    let left = time.saturating_sub(since.elapsed());
    if !left.is_zero() {
        return Ok(Next::After(left));
    }
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    match nodes.get_opt(name(node.as_ref())).await? {
        Some(live) if how_long(ctx, &pod, &live) == Stay::Always => return Err(Error::Stale),
        _ => {}
    }
    evict(ctx, key, &pod).await?;
    lock(timers).remove(key);
    Ok(Next::OnChange)
}

async fn evict(ctx: &Context, key: &Key, pod: &Pod) -> Result<(), Error> {
    let message = format!("Marking for deletion Pod {key}");
    ctx.recorder.event(COMPONENT, pod, Severity::Normal, "TaintManagerEviction", message);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..Default::default()
    };
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let api = ctx.api::<Pod>(&key.namespace);
    ignore_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    ignore_gone(api.delete(&key.name, &DeleteParams::background().preconditions(same)).await)?;
    ctx.metrics.evicted();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn how_long_pods_stay() {
        let unreachable = json!({"key": UNREACHABLE, "effect": "NoExecute"});
        let custom = json!({"key": "k", "effect": "NoExecute"});
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let secs = |s| Stay::For(Duration::from_secs(s));
        for (taints, tolerations, default, expected) in [
            (json!([]), json!([]), Some(300), Stay::Always),
            (json!([{"key": "k", "effect": "NoSchedule"}]), json!([]), Some(300), Stay::Always),
            (json!([custom]), json!([]), Some(300), secs(0)),
            (json!([unreachable]), json!([]), Some(300), secs(300)),
            (json!([unreachable]), json!([]), None, secs(0)),
            (json!([unreachable]), json!([tolerate(UNREACHABLE, None)]), Some(300), Stay::Always),
            (json!([unreachable]), json!([tolerate(UNREACHABLE, Some(5))]), Some(300), secs(5)),
            (json!([unreachable]), json!([tolerate(UNREACHABLE, Some(-5))]), Some(300), secs(0)),
            (json!([unreachable]), json!([{"operator": "Exists"}]), Some(300), Stay::Always),
            (
                json!([unreachable]),
                json!([tolerate(UNREACHABLE, Some(50)), tolerate(UNREACHABLE, Some(5))]),
                None,
                secs(5),
            ),
            (
                json!([unreachable, custom]),
                json!([tolerate(UNREACHABLE, Some(50)), tolerate("k", Some(5))]),
                None,
                secs(5),
            ),
            (json!([unreachable, custom]), json!([tolerate(UNREACHABLE, None), tolerate("k", Some(5))]), None, secs(5)),
        ] {
            let taints_: Vec<Taint> = serde_json::from_value(taints.clone()).unwrap();
            let tolerations_: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            let got = stay(&taints_, &tolerations_, default);
            assert_eq!(got, expected, "{taints} {tolerations}");
        }
    }
}
