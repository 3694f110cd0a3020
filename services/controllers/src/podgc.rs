//! Deletes pods that nobody else will ever delete.
//!
//! Every `pod_gc_period`: pods bound to a Node that does not exist (after a quarantine, and only when the
//! API says so too), pods being deleted that never got a node, and the oldest finished pods above
//! `terminated_pod_threshold`. Deletes are forced, because there is no node left to confirm them.
//!
//! Limits: [`AT_ONCE`] deletes per round. Crash: the quarantine starts again.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use skerry_common::Key;
use tokio::time::Instant;

use crate::context::Context;
use crate::error::{Error, ignore_gone};
use crate::machinery::tasks::Tasks;
use crate::pods::{self, name, namespace};

const COMPONENT: &str = "pod-garbage-collector";
/// Most deletes per round, so that a round ends before the next is due.
const AT_ONCE: usize = 2000;

/// Spawns the controller.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let ctx = ctx.clone();
    tasks.spawn(COMPONENT, async move {
        ctx.wait_synced().await;
        let mut missing = HashMap::new();
        loop {
            match round(&ctx, &mut missing).await {
                Ok(()) => ctx.metrics.reconciled(COMPONENT, true),
                Err(error) => {
                    ctx.metrics.reconciled(COMPONENT, false);
                    tracing::warn!(cause = %skerry_common::chain(&error), "pod garbage collection failed, trying again");
                }
            }
            tokio::time::sleep(ctx.options.pod_gc_period).await;
        }
    });
}

async fn round(ctx: &Context, missing: &mut HashMap<String, Instant>) -> Result<(), Error> {
    let all = ctx.pods.list();
    let gone = missing_nodes(ctx, &all, missing).await?;
    let mut left = AT_ONCE;
    for pod in &all {
        let reason = match pods::node_name(pod) {
            Some(node) if gone.iter().any(|g| g == node) => Some("node no longer exists"),
            None if pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod) => Some("never got a node"),
            _ => None,
        };
        if let Some(reason) = reason
            && left > 0
        {
            left -= 1;
            tracing::info!(
                pod = name(pod.as_ref()),
                namespace = namespace(pod.as_ref()),
                reason,
                "deleting pod for good"
            );
            force_delete(ctx, pod).await?;
        }
    }
    for pod in surplus(&all, ctx.options.terminated_pod_threshold).into_iter().take(left) {
        force_delete(ctx, &pod).await?;
    }
    Ok(())
}

/// Names of nodes that pods are bound to and that have not existed for the quarantine.
async fn missing_nodes(
    ctx: &Context,
    all: &[Arc<Pod>],
    missing: &mut HashMap<String, Instant>,
) -> Result<Vec<String>, Error> {
    let mut current = HashMap::new();
    for node in all.iter().filter_map(|p| pods::node_name(p)) {
        if !current.contains_key(node) && ctx.nodes.get(&Key::new("", node)).is_none() {
            let since = missing.get(node).copied().unwrap_or_else(Instant::now);
            current.insert(node.to_owned(), since);
        }
    }
    *missing = current;
    let api: Api<Node> = Api::all(ctx.client.clone());
    let mut gone = Vec::new();
    for (node, since) in missing.iter() {
        // An error here means that we cannot tell, so nothing is deleted.
        if since.elapsed() >= ctx.options.pod_gc_quarantine && api.get_opt(node).await?.is_none() {
            gone.push(node.clone());
        }
    }
    Ok(gone)
}

/// The oldest finished pods beyond `threshold`. Pods of Jobs that still run are not spared, as in
/// Kubernetes; the threshold is far above what one site has.
fn surplus(all: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<&Arc<Pod>> =
        all.iter().filter(|p| pods::is_finished(p) && p.metadata.deletion_timestamp.is_none()).collect();
    let count = finished.len().saturating_sub(threshold);
    finished.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone()));
    finished.into_iter().take(count).cloned().collect()
}

async fn force_delete(ctx: &Context, pod: &Pod) -> Result<(), Error> {
    let api = ctx.api::<Pod>(namespace(pod));
    if !pods::is_finished(pod) {
        let condition = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByPodGC".into()),
            message: Some("PodGC: node no longer exists".into()),
            last_transition_time: Some(Time(Timestamp::now())),
            ..Default::default()
        };
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": [condition]}});
        ignore_gone(api.patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
    }
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    ignore_gone(api.delete(name(pod), &DeleteParams::default().grace_period(0).preconditions(same)).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn the_oldest_finished_pods_go_first() {
        let pod = |name: &str, phase: &str, created: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": phase}}),
                )
                .unwrap(),
            )
        };
        let pods = [
            pod("new", "Succeeded", "2026-01-03T00:00:00Z"),
            pod("old", "Failed", "2026-01-01T00:00:00Z"),
            pod("running", "Running", "2025-01-01T00:00:00Z"),
            pod("middle", "Succeeded", "2026-01-02T00:00:00Z"),
        ];
        let names =
            |threshold| surplus(&pods, threshold).iter().map(|p| name(p.as_ref()).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(1), ["old", "middle"]);
        assert!(names(3).is_empty());
    }
}
