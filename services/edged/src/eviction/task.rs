//! Observes, makes room, evicts.
//!
//! One task. It looks every [`LOOK`], sooner while something is short; looks are a few small files.
//! Pods are measured only when one must go, or when one has limits of its own. What is short is told
//! through a watch that the Node's status and admission read. A pod to be ended is handed to the agent,
//! whose worker ends it. When the task ends, the agent ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skerry_common::kinds;
use skerry_proto::cri::v1::ContainerState;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::{Pressure, Watcher, observations};
use super::rank::{Candidate, message, rank};
use super::reclaim::{Reclaimer, Why};
use super::threshold::Threshold;
use super::{REASON, local};
use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::node_config::NodeConfig;
use crate::pod::failure::Failure;
use crate::pod::labels;
use crate::pod::priority::is_critical;
use crate::pod::spec::PodExt;
use crate::stats::Signals;

/// How soon a shortage is noticed. Memory can go fast.
const LOOK: Duration = Duration::from_secs(3);
/// While something is short.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Limits of pods are looked at so often; the kubelet's interval.
const LOCAL_EVERY: Duration = Duration::from_secs(10);
/// The images' own thresholds; the kubelet's interval.
const IMAGES_EVERY: Duration = Duration::from_secs(300);
/// What a pod gets that must go at once, in seconds; the kubelet's.
const IMMEDIATE_GRACE_S: i64 = 1;
/// How long an eviction is waited for before the next.
const WAIT_FOR_END: Duration = Duration::from_secs(30);
const WAIT_POLL: Duration = Duration::from_millis(500);

/// See the module documentation.
pub(crate) struct EvictionTask {
    context: Arc<Context>,
    config: NodeConfig,
    watcher: Watcher,
    reclaimer: Reclaimer,
    pressure: watch::Sender<Pressure>,
    started: Instant,
    local_at: Option<Instant>,
    images_at: Option<Instant>,
}

impl EvictionTask {
    pub(crate) fn new(
        context: Arc<Context>,
        config: NodeConfig,
        thresholds: Vec<Threshold>,
        pressure: watch::Sender<Pressure>,
    ) -> Self {
        let transition = config.eviction_pressure_transition_period.as_millis();
        let watcher = Watcher::new(thresholds, i64::try_from(transition).unwrap_or(i64::MAX));
        Self {
            context,
            config,
            watcher,
            reclaimer: Reclaimer::default(),
            pressure,
            started: Instant::now(),
            local_at: None,
            images_at: None,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let soon = self.look().await;
            tokio::time::sleep(if soon { LOOK_SOON } else { LOOK }).await;
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// One turn; true when the next must come soon.
    async fn look(&mut self) -> bool {
        let signals = self.context.stats.signals(&self.context).await;
        let seen = observations(&signals);
        let verdict = self.watcher.observe(&seen, self.now());
        self.pressure.send_if_modified(|p| std::mem::replace(p, verdict.pressure) != verdict.pressure);
        // Without the runtime nothing can be ended or removed; without the list of pods nobody knows
        // what is in use.
        if !self.context.health.borrow().answers || !self.context.objects.in_sync(kinds::POD) {
            return verdict.crossed;
        }
        // Just after a start of the runtime it is not known yet where images lie.
        let due = self.images_at.is_none_or(|at| at.elapsed() >= IMAGES_EVERY) && signals.image_fs.is_some();
        if due && self.reclaim_images(&signals, Why::Thresholds).await {
            self.images_at = Some(Instant::now());
        }
        if self.local_at.is_none_or(|at| at.elapsed() >= LOCAL_EVERY) {
            self.local_at = Some(Instant::now());
            if self.evict_for_own_limits(signals.image_fs_is_own).await {
                return true;
            }
        }
        if let Some(threshold) = verdict.starved.first() {
            self.answer(*threshold, &signals).await;
        }
        verdict.crossed
    }

    /// Whether the images could be looked at.
    async fn reclaim_images(&mut self, signals: &Signals, why: Why) -> bool {
        let now = self.now();
        let result = self.reclaimer.images(&self.context, &self.config, signals, why, now).await;
        if let Err(status) = result {
            tracing::warn!(code = ?status.code(), "images not looked at");
            return false;
        }
        true
    }

    async fn reclaim_ended_pods(&self) {
        if let Err(status) = self.reclaimer.ended_pods(&self.context).await {
            tracing::warn!(code = ?status.code(), "ended pods not looked at");
        }
    }

    /// Makes room for what is short, by images and dead containers if that is enough, else by a pod.
    async fn answer(&mut self, threshold: Threshold, signals: &Signals) {
        let resource = threshold.signal.resource();
        let node = Subject::node(&self.context.node);
        let text = format!("Attempting to reclaim {}", resource.name());
        self.context.events.record(&node, Kind::Warning, "EvictionThresholdMet", &text);
        if resource.is_disk() {
            self.reclaim_ended_pods().await;
        }
        if resource.is_disk() && (threshold.signal.is_image_fs() || !signals.image_fs_is_own) {
            self.reclaim_images(signals, Why::Pressure).await;
        }
        if resource.is_disk() {
            let seen = observations(&self.context.stats.signals(&self.context).await);
            if self.watcher.is_resolved(&seen) {
                tracing::info!(resource = resource.name(), "enough was reclaimed without evicting a pod");
                return;
            }
        }
        let pods = self.active_pods().await;
        let uids: BTreeSet<String> = pods.iter().map(|p| p.uid().to_owned()).collect();
        let stats = match self.context.stats.pods(&self.context, &uids).await {
            Ok(stats) => stats,
            Err(status) => {
                tracing::warn!(code = ?status.code(), "pods not measured; nobody is evicted");
                return;
            }
        };
        let find = |uid: &str| stats.iter().find(|s| s.pod_ref.uid == uid).cloned();
        let candidates: Vec<Candidate> = pods.into_iter().map(|p| (Arc::clone(&p), find(p.uid()))).collect();
        let seen = observations(signals);
        let ranked = rank(candidates, threshold.signal, signals.image_fs_is_own);
        let Some((pod, stats)) = ranked.first() else {
            tracing::warn!(resource = resource.name(), "no pod can be evicted");
            return;
        };
        let text = message(pod, stats.as_ref(), &threshold, &seen);
        let grace = if threshold.is_hard() { IMMEDIATE_GRACE_S } else { self.config.eviction_max_pod_grace_period };
        self.evict(pod, text, grace, true).await;
        if resource.is_disk() {
            self.reclaim_ended_pods().await;
        }
    }

    async fn evict_for_own_limits(&self, image_fs_is_own: bool) -> bool {
        let pods: Vec<Arc<Pod>> =
            self.context.objects.pods().into_iter().filter(|p| local::has_limit(p) && !is_critical(p)).collect();
        if pods.is_empty() {
            return false;
        }
        let active = self.active_uids().await;
        let uids: BTreeSet<String> =
            pods.iter().map(|p| p.uid().to_owned()).filter(|uid| active.contains(uid)).collect();
        let Ok(stats) = self.context.stats.pods(&self.context, &uids).await else { return false };
        let mut any = false;
        for stats in &stats {
            let Some(pod) = pods.iter().find(|p| p.uid() == stats.pod_ref.uid) else { continue };
            if let Some(text) = local::exceeded(pod, stats, image_fs_is_own) {
                self.evict(pod, text, IMMEDIATE_GRACE_S, false).await;
                any = true;
            }
        }
        any
    }

    /// Pods of which something runs.
    async fn active_uids(&self) -> BTreeSet<String> {
        let containers = self.context.cri.containers(None).await.unwrap_or_default();
        let running = containers.into_iter().filter(|c| c.state == ContainerState::ContainerRunning as i32);
        running.filter_map(|mut c| c.labels.remove(labels::POD_UID)).collect()
    }

    async fn active_pods(&self) -> Vec<Arc<Pod>> {
        let uids = self.active_uids().await;
        let pods = self.context.objects.pods().into_iter();
        pods.filter(|p| uids.contains(p.uid()) && p.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Hands the pod to its worker and waits until nothing of it runs.
    async fn evict(&self, pod: &Pod, message: String, grace_s: i64, for_the_node: bool) {
        tracing::info!(pod = %pod.full_name(), message, "evicting pod");
        self.context.metrics.evictions.inc();
        let failure = Failure {
            reason: REASON.into(),
            disruption: for_the_node.then(|| message.clone()),
            message,
            grace_s: Some(grace_s.min(pod.grace_seconds())),
            ..Failure::default()
        };
        if self.context.failures.send((pod.uid().to_owned(), failure)).await.is_err() {
            return;
        }
        let deadline = Instant::now() + WAIT_FOR_END;
        while Instant::now() < deadline && !self.context.statuses.ended(pod.uid()) {
            tokio::time::sleep(WAIT_POLL).await;
        }
    }
}
