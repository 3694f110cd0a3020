//! When the machine goes down: pods end in order, within a budget.
//!
//! Called by [`crate::Edged::run`] when it is told to stop. A stop of the agent alone touches no pod;
//! only when systemd says that the machine is stopping, and a grace period is configured, pods are
//! ended: first all but the critical ones, with what the critical ones leave of the budget, then
//! those. Within a group all end at the same time, each with its own grace period at most. Reasons and
//! messages are the kubelet's. [`groups`] decides, without IO. Static pods are left to the system:
//! a pod that the node itself starts at the next boot must not be Failed by then.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skerry_proto::cri::v1::ContainerState;
use tokio::process::Command;
use tokio::time::Instant;

use crate::context::Context;
use crate::node_config::{NodeConfig, span};
use crate::pod::failure::Failure;
use crate::pod::labels;
use crate::pod::priority::{CRITICAL, is_static, priority};
use crate::pod::spec::PodExt;

/// Why the Node is not ready meanwhile.
pub(super) const NODE_MESSAGE: &str = "node is shutting down";
/// Reason of the pods' status.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// systemd answers at once; a manager that does not is busy with something else than a shutdown.
const ASK: Duration = Duration::from_secs(2);
/// How often is looked whether all have ended.
const POLL: Duration = Duration::from_millis(200);
/// What a group gets beyond the grace of its pods, for the runtime to kill and the worker to see it.
const MARGIN: Duration = Duration::from_secs(2);

/// Pods that end together, and how long they have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    pods: Vec<String>,
    time: Duration,
}

/// The groups in their order; empty ones are left out, and give their time to the next.
fn groups(pods: &[Arc<Pod>], total: Duration, critical: Duration) -> Vec<Group> {
    let of = |is_critical: bool| -> Vec<String> {
        let all = pods.iter().filter(|p| !is_static(p) && (priority(p) >= CRITICAL) == is_critical);
        all.map(|p| p.uid().to_owned()).collect()
    };
    let (first, last) = (of(false), of(true));
    let groups = match (first.is_empty(), last.is_empty()) {
        (_, true) => vec![Group { pods: first, time: total }],
        (true, false) => vec![Group { pods: last, time: total }],
        (false, false) => {
            vec![Group { pods: first, time: total.saturating_sub(critical) }, Group { pods: last, time: critical }]
        }
    };
    groups.into_iter().filter(|g| !g.pods.is_empty()).collect()
}

/// Whether systemd is stopping the machine.
async fn machine_stops(systemctl: &Path) -> bool {
    let ask = Command::new(systemctl).arg("is-system-running").kill_on_drop(true).output();
    match tokio::time::timeout(ASK, ask).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(error)) => {
            tracing::debug!(%error, "systemctl cannot be asked");
            false
        }
        Err(_) => false,
    }
}

/// Ends the pods if the machine goes down; returns at once if not.
pub(crate) async fn end_pods(context: &Arc<Context>, config: &NodeConfig) {
    let total = span(config.shutdown_grace_period);
    if total.is_zero() || !machine_stops(&config.systemctl).await {
        return;
    }
    tracing::info!(seconds = total.as_secs(), "the machine goes down; ending pods");
    context.going_down.send_replace(true);
    for group in groups(&context.objects.pods(), total, span(config.shutdown_grace_period_critical_pods)) {
        let deadline = Instant::now() + group.time;
        let running = running(context).await;
        // Of a runtime that does not answer, everything may run.
        let runs = |uid: &String| running.as_ref().is_none_or(|running| running.contains(uid));
        let pods: BTreeSet<String> = group.pods.into_iter().filter(runs).collect();
        for uid in &pods {
            let Some(pod) = context.objects.pod(uid) else { continue };
            let seconds = i64::try_from(group.time.saturating_sub(MARGIN).as_secs()).unwrap_or(i64::MAX);
            let failure = Failure {
                reason: REASON.into(),
                message: MESSAGE.into(),
                grace_s: Some(pod.grace_seconds().min(seconds)),
                disruption: Some(MESSAGE.into()),
                ..Failure::default()
            };
            if context.failures.send((uid.clone(), failure)).await.is_err() {
                return;
            }
        }
        // Until all are told as Failed, so that the last reports leave before the agent does.
        while Instant::now() < deadline && !pods.iter().all(|uid| context.statuses.ended(uid)) {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Pods of which something runs; `None`: the runtime does not answer.
async fn running(context: &Context) -> Option<BTreeSet<String>> {
    let containers = context.cri.containers(None).await.ok()?;
    let running = containers.into_iter().filter(|c| c.state == ContainerState::ContainerRunning as i32);
    Some(running.filter_map(|mut c| c.labels.remove(labels::POD_UID)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32, source: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"uid": uid, "annotations": {"kubernetes.io/config.source": source}},
            "spec": {"containers": [], "priority": priority}
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn critical_pods_end_last_and_time_is_not_wasted() {
        let seconds = Duration::from_secs;
        let all = [pod("a", 0, "api"), pod("s", 0, "file"), pod("c", CRITICAL, "api"), pod("b", 5, "api")];
        let got = groups(&all, seconds(30), seconds(10));
        let group = |pods: &[&str], time| Group { pods: pods.iter().map(|p| (*p).into()).collect(), time };
        assert_eq!(got, [group(&["a", "b"], seconds(20)), group(&["c"], seconds(10))]);
        assert_eq!(groups(&all[..2], seconds(30), seconds(10)), [group(&["a"], seconds(30))]);
        assert_eq!(groups(&all[2..3], seconds(30), seconds(10)), [group(&["c"], seconds(30))]);
        assert_eq!(groups(&all[1..2], seconds(30), seconds(10)), []);
    }

    #[tokio::test]
    async fn a_machine_without_systemd_does_not_stop() {
        assert!(!machine_stops(Path::new("/none/such/systemctl")).await);
        assert!(!machine_stops(Path::new("/bin/true")).await);
    }
}
