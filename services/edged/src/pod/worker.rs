//! The task of one pod: look, decide, do, report; again.
//!
//! Started by the agent when a pod arrives or is found in the runtime, ended by itself when nothing
//! of the pod is left. It is told of changes through a watch (newest wins) and of movement in the
//! runtime through a notify. Invariants: only this task acts on the pod, one step after the other;
//! nothing is done while the runtime does not answer; a status is reported when it differs from the
//! last one, and once at the start. Only waiting for containers to stop and for an image can be cut
//! short, by a deletion. When the agent stops, the task is dropped between or within steps; the
//! containers go on and the next agent finds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skerry_common::{Key, kinds};
use skerry_hubclient::Report;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::checkpoint;
use super::failure::{self, Failure};
use super::memory::{Memory, Waiting};
use super::observed::Observed;
use super::perform::{Done, perform};
use super::plan::{Desired, Plan, Step, View, plan};
use super::resize::Allocation;
use super::spec::PodExt;
use super::status::{self, Inputs, backoff_message};
use crate::admission;
use crate::context::{Context, now_ms};
use crate::events::{Kind, Subject};
use crate::images;
use crate::probe::{Prober, Results};
use crate::runtime::observe::Observer;
use crate::starts::Slot;
use crate::static_pods;
use crate::volumes::PodDir;

/// A runtime that answers with an error is asked again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// `ErrImagePull` is shown this long before it becomes `ImagePullBackOff`.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(2);
/// Without any event the worker looks once in this time: nothing may depend on a lost wake-up.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// Turns without rest after which the worker rests, so that a fault cannot become a busy loop.
const MAX_TURNS: u32 = 50;

/// What the agent wants of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) pod: Arc<Pod>,
    /// The object is gone: end the pod and say nothing.
    pub(crate) gone: bool,
    /// Grows when something changed that the pod refers to.
    pub(crate) references: u64,
    /// Grows when the status must be reported though it did not change.
    pub(crate) repeat: u64,
    /// The node ends the pod: it was evicted or refused. Once set it stays.
    pub(crate) failure: Option<Failure>,
}

/// The agent's end of a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) control: watch::Sender<Control>,
    pub(crate) moved: Arc<Notify>,
}

/// See the module documentation.
pub(crate) struct Worker {
    context: Arc<Context>,
    control: watch::Receiver<Control>,
    moved: Arc<Notify>,
    observer: Observer,
    memory: Memory,
    /// Asks the containers; it wakes the worker through `moved`.
    prober: Prober,
    reported: Option<Arc<PodStatus>>,
    /// What was reported last, also by an earlier process.
    known: Option<Arc<PodStatus>>,
    repeated: u64,
    /// What its containers were given.
    allocation: Allocation,
    /// Reason of the failure that was told as an Event.
    failed: Option<String>,
    /// When containers must have ended, and the grace that led to it.
    end: Option<(Instant, i64)>,
    references: u64,
    /// Held while the pod gets its volumes and its sandbox.
    slot: Option<Slot>,
}

impl Worker {
    /// Starts the task. It sends the pod's uid on `finished` when nothing is left.
    pub(crate) fn spawn(
        tasks: &mut tokio::task::JoinSet<()>,
        context: Arc<Context>,
        control: Control,
        finished: mpsc::Sender<String>,
    ) -> Handle {
        let uid = control.pod.uid().to_owned();
        let (tx, rx) = watch::channel(control);
        let moved = Arc::new(Notify::new());
        let worker = Self {
            prober: Prober::new(Arc::clone(&context), Arc::clone(&moved)),
            context,
            control: rx,
            moved: Arc::clone(&moved),
            observer: Observer::default(),
            memory: Memory::default(),
            reported: None,
            known: None,
            repeated: 0,
            allocation: Allocation::default(),
            failed: None,
            end: None,
            references: 0,
            slot: None,
        };
        let shared = Arc::clone(&worker.context);
        tasks.spawn(async move {
            worker.run().await;
            shared.statuses.remove(&uid);
            let _ = finished.send(uid).await;
        });
        Handle { control: tx, moved }
    }

    async fn run(mut self) {
        let mut turns = 0;
        self.known = self.checkpoint().await.map(Arc::new);
        if let Some(known) = &self.known {
            self.context.statuses.set(self.control.borrow().pod.uid(), Arc::clone(known));
        }
        loop {
            let mut control = self.control.borrow_and_update().clone();
            Arc::make_mut(&mut control.pod).status = self.pod_status(&control.pod);
            if self.repeated != control.repeat {
                self.repeated = control.repeat;
                self.reported = None;
            }
            if self.references != control.references {
                self.references = control.references;
                self.memory.references_changed();
            }
            self.until_runtime_answers().await;
            let seen = match self.observer.observe(&self.context.cri, control.pod.uid()).await {
                Ok(seen) => seen,
                Err(status) => {
                    self.context.metrics.runtime_errors.inc();
                    tracing::debug!(pod = %control.pod.full_name(), code = ?status.code(), "pod not observed");
                    self.rest(now_ms().saturating_add(millis(LOOK_AGAIN))).await;
                    continue;
                }
            };
            self.allocate(&mut control);
            let now = now_ms();
            let desired = self.desired(&control, now);
            let (failure, deadline) = self.failure(&control, now);
            let probes = self.look(&control, &seen, desired, failure.as_ref());
            let (memory, probes, failure) = (&self.memory, &probes, failure.as_ref());
            let view = View { pod: &control.pod, desired, seen: &seen, memory, probes, failure, now };
            let mut plan = plan(&view);
            plan.wake_at = plan.wake_at.into_iter().chain(deadline).min();
            if let Some(status) = self.status(&control, &view, &plan) {
                self.tell(&control, status).await;
            }
            if plan.steps.is_empty() {
                turns = 0;
                self.slot = None;
                let wake = self.age_pull_errors(&control.pod, now);
                let latest = now.saturating_add(millis(LOOK_ANYWAY));
                self.rest(plan.wake_at.into_iter().chain(wake).min().unwrap_or(latest).min(latest)).await;
                continue;
            }
            turns += 1;
            if turns > MAX_TURNS {
                turns = 0;
                self.rest(now.saturating_add(millis(LOOK_AGAIN))).await;
            }
            if seen.ready_sandbox().is_some() || !plan.steps.iter().any(Step::begins_pod) {
                self.slot = None;
            } else if !self.until_slot().await {
                continue;
            }
            if self.perform(&control, &seen, &plan).await {
                return;
            }
        }
    }

    /// The status that plan and status start from. It is our own, also an earlier process's; the cloud
    /// sends down only the conditions of readiness gates, which others set.
    fn pod_status(&self, pod: &Pod) -> Option<PodStatus> {
        let sent = pod.status.as_ref();
        let gates = pod.spec().readiness_gates.as_deref().unwrap_or_default();
        let mut status = self.known.as_deref().or(sent)?.clone();
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|c| gates.iter().all(|g| g.condition_type != c.type_));
        let sent = sent.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.extend(sent.filter(|c| gates.iter().any(|g| g.condition_type == c.type_)).cloned());
        Some(status)
    }

    /// Puts into the pod the resources that it has or may have now.
    fn allocate(&mut self, control: &mut Control) {
        let context = Arc::clone(&self.context);
        let fits = |pod: &Pod| {
            let others: Vec<Arc<Pod>> = context
                .objects
                .pods()
                .into_iter()
                .filter(|other| other.uid() != pod.uid() && !context.statuses.ended(other.uid()))
                .collect();
            admission::resize(pod, &others, &context.learned().facts.allocatable)
        };
        let pod = Arc::make_mut(&mut control.pod);
        self.memory.resize = self.allocation.settle(pod, self.known.as_deref(), fits);
        if let Some(pending) = &self.memory.resize {
            let reason = if pending.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
            self.context.events.record(&Subject::pod(pod), Kind::Warning, reason, &pending.message);
        }
    }

    /// Why the node ends the pod, or when its deadline will pass.
    fn failure(&mut self, control: &Control, now: i64) -> (Option<Failure>, Option<i64>) {
        if control.pod.ended_before() {
            return (None, None);
        }
        let (late, wake) = failure::deadline(&control.pod, now);
        let failure = control.failure.clone().or(late);
        if let Some(failure) = &failure
            && self.failed.as_ref() != Some(&failure.reason)
        {
            self.failed = Some(failure.reason.clone());
            // A deadline is what the user asked for; the others are the node's trouble.
            let own = !failure.refused && failure.grace_s.is_none() && failure.disruption.is_none();
            let kind = if own { Kind::Normal } else { Kind::Warning };
            self.context.events.record(&Subject::pod(&control.pod), kind, &failure.reason, &failure.message);
        }
        (failure, wake)
    }

    /// Waits until the pod may begin; false when it should be looked at again before.
    async fn until_slot(&mut self) -> bool {
        if self.slot.is_none() {
            tokio::select! {
                slot = self.context.starts.slot() => self.slot = slot,
                Ok(()) = self.control.changed() => self.control.mark_changed(),
            }
        }
        self.slot.is_some()
    }

    /// Performs the steps of a plan; true when the pod is finished.
    async fn perform(&mut self, control: &Control, seen: &Observed, plan: &Plan) -> bool {
        for step in &plan.steps {
            if *step == Step::Finished {
                self.finish(control);
                return true;
            }
            let done = self.perform_one(control, seen, step).await;
            self.context.hurry.notify_one();
            match done {
                Some(Done::Yes) => {}
                // Other containers of the pod may still start.
                Some(Done::Failed) if step.is_start() => {}
                Some(Done::Failed) | None => break,
            }
        }
        false
    }

    /// `None`: cut short by a deletion.
    async fn perform_one(&mut self, control: &Control, seen: &Observed, step: &Step) -> Option<Done> {
        let stopping = matches!(step, Step::StopContainers(_));
        let can_be_cut = stopping || step.is_start();
        if let Step::StopContainers(stops) = step {
            // Before the first of them ends: the status that is told meanwhile knows that the pod goes on.
            for stop in stops.iter().filter(|s| s.restart) {
                self.memory.container(&stop.name).restart = Some(stop.id.clone());
            }
        }
        let context = Arc::clone(&self.context);
        let mut memory = std::mem::take(&mut self.memory);
        let before = memory.clone();
        // Set when the runtime is about to change something: that is waited for.
        let committed = AtomicBool::new(false);
        let done = {
            let work = perform(&context, &control.pod, seen, &mut memory, step, &committed);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => break Some(done),
                    () = self.moved.notified(), if stopping => self.tell_meanwhile(control, &before).await,
                    changed = self.control.changed(), if can_be_cut => {
                        let newest = self.control.borrow().clone();
                        if changed.is_err() {
                            break Some(work.await);
                        }
                        let earlier = self.note_end(&newest);
                        if earlier && !committed.load(Ordering::Relaxed) {
                            break None;
                        }
                    }
                }
            }
        };
        self.memory = if done.is_some() { memory } else { before };
        if let (None, Step::StopContainers(stops)) = (done, step) {
            let begun = stops.iter().filter(|s| s.pre_stop).map(|s| s.id.clone());
            self.memory.pre_stopped.extend(begun);
        }
        // The change that was looked at here is looked at again in the next turn.
        self.control.mark_changed();
        done
    }

    /// Notes when the pod must end; true when that is new or earlier than before.
    fn note_end(&mut self, control: &Control) -> bool {
        let deleted = control.pod.metadata.deletion_timestamp.is_some();
        if !deleted && !control.gone {
            return false;
        }
        let spec = control.pod.grace_seconds();
        let grace = if deleted { control.pod.metadata.deletion_grace_period_seconds.unwrap_or(spec) } else { spec };
        let grace = grace.clamp(0, i64::from(u32::MAX));
        // The cloud's clock is not ours: the grace counts from when the deletion was seen here.
        let at = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        match self.end {
            // The object vanished while the pod ends: what is left of its grace goes on.
            Some((_, old)) if old == grace || (control.gone && !deleted) => false,
            Some((old, _)) if old <= at => false,
            _ => {
                self.end = Some((at, grace));
                true
            }
        }
    }

    fn desired(&mut self, control: &Control, now: i64) -> Desired {
        self.note_end(control);
        match self.end {
            None => Desired::Run,
            Some((at, _)) => {
                let left = at.saturating_duration_since(Instant::now());
                Desired::End { deadline: now.saturating_add(millis(left)) }
            }
        }
    }

    /// What the probes say about what was seen.
    fn look(&mut self, control: &Control, seen: &Observed, desired: Desired, failure: Option<&Failure>) -> Results {
        let ending = failure.is_some() || matches!(desired, Desired::End { .. });
        self.prober.look(&control.pod, seen, ending, self.known.as_deref())
    }

    /// Reports what happens while containers stop, which may take long: readiness, and who has ended.
    async fn tell_meanwhile(&mut self, control: &Control, memory: &Memory) {
        let Ok(seen) = self.observer.observe(&self.context.cri, control.pod.uid()).await else { return };
        let now = now_ms();
        let desired = self.desired(control, now);
        let (failure, _) = self.failure(control, now);
        let probes = self.look(control, &seen, desired, failure.as_ref());
        let (probes, failure) = (&probes, failure.as_ref());
        let view = View { pod: &control.pod, desired, seen: &seen, memory, probes, failure, now };
        if let Some(status) = self.status(control, &view, &plan(&view)) {
            self.tell(control, status).await;
        }
    }

    /// The status, if it is to be reported.
    fn status(&self, control: &Control, view: &View<'_>, plan: &Plan) -> Option<PodStatus> {
        let ending = matches!(view.desired, Desired::End { .. });
        // A pod whose containers are being removed keeps the status that shows how they ended.
        if control.gone || (ending && view.seen.sandboxes.is_empty() && self.reported.is_some()) {
            return None;
        }
        for (name, seconds) in &plan.backing_off {
            let message = backoff_message(&control.pod, name, *seconds);
            let message = message.replacen("back-off", "Back-off", 1);
            // One Event for all delays, as users know it: without the changing number.
            let message = message.replacen(&format!(" {}", duration_text(&message)), "", 1);
            self.context.events.record(&Subject::container(&control.pod, name), Kind::Warning, "BackOff", &message);
        }
        let learned = self.context.learned();
        let computed = status::compute(&Inputs {
            view: *view,
            backing_off: &plan.backing_off,
            before: self.reported.as_deref().or(self.known.as_deref()),
            host_ips: &learned.facts.host_ips,
            runtime: &learned.runtime,
        });
        (self.reported.as_deref() != Some(&computed)).then_some(computed)
    }

    /// Reports a status and keeps it on the disk.
    async fn tell(&mut self, control: &Control, computed: PodStatus) {
        let pod = &control.pod;
        let key = Key::new(pod.namespace(), pod.name());
        // Of a static pod the API knows the mirror only.
        let uid = match static_pods::is_from_file(pod) {
            false => Some(pod.uid().to_owned()),
            true => self.context.objects.mirror(&key).filter(|m| m.of == pod.uid()).map(|m| m.uid),
        };
        let body = Pod {
            metadata: ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: uid.clone(),
                ..ObjectMeta::default()
            },
            spec: None,
            status: Some(computed.clone()),
        };
        if let (Some(uid), Ok(body)) = (uid, serde_json::to_vec(&body)) {
            self.context.outbox.put(Report { kind: kinds::POD_STATUS, key, uid, body: body.into() });
        }
        let computed = Arc::new(computed);
        if self.known.as_ref() != Some(&computed) {
            let (dir, status) = (self.directory(control), Arc::clone(&computed));
            let stored = tokio::task::spawn_blocking(move || checkpoint::store(&dir, &status)).await;
            if let Ok(Err(error)) = stored {
                tracing::warn!(pod = %pod.full_name(), %error, "status not kept on disk");
            }
        }
        self.context.statuses.set(pod.uid(), Arc::clone(&computed));
        self.known = Some(Arc::clone(&computed));
        self.reported = Some(computed);
    }

    fn directory(&self, control: &Control) -> PodDir {
        PodDir::new(&self.context.root, control.pod.uid())
    }

    async fn checkpoint(&self) -> Option<PodStatus> {
        let dir = self.directory(&self.control.borrow().clone());
        tokio::task::spawn_blocking(move || checkpoint::load(&dir)).await.ok().flatten()
    }

    fn finish(&self, control: &Control) {
        let pod = &control.pod;
        tracing::info!(pod = %pod.full_name(), "pod is gone");
        if !control.gone {
            self.context.outbox.put(Report {
                kind: kinds::POD_DELETION,
                key: Key::new(pod.namespace(), pod.name()),
                uid: pod.uid().to_owned(),
                body: bytes::Bytes::new(),
            });
        }
    }

    /// Turns `ErrImagePull` into `ImagePullBackOff` after a moment; the time of the next such turn.
    fn age_pull_errors(&mut self, pod: &Pod, now: i64) -> Option<i64> {
        let mut wake = None;
        let mut aged = Vec::new();
        for (name, entry) in &mut self.memory.containers {
            let Some(until) = entry.retry.waits(now) else { continue };
            let Some(waiting) = entry.waiting.as_mut().filter(|w| images::is_pull_error(&w.reason)) else { continue };
            let shown_until = entry.retry.failed_ms.saturating_add(millis(SHOW_PULL_ERROR)).min(until);
            // A clock that jumped back must not show it for ever.
            if now < shown_until && now >= entry.retry.failed_ms {
                wake = Some(wake.map_or(shown_until, |w: i64| w.min(shown_until)));
                continue;
            }
            let image = pod.container(name).and_then(|c| c.image.clone()).unwrap_or_default();
            let message = format!("Back-off pulling image {image:?}: {}: {}", waiting.reason, waiting.message);
            *waiting = Waiting::new("ImagePullBackOff", message);
            aged.push((name.clone(), format!("Back-off pulling image {image:?}")));
            wake = Some(now);
        }
        for (name, message) in aged {
            self.context.events.record(&Subject::container(pod, &name), Kind::Normal, "BackOff", &message);
            self.context.events.record(
                &Subject::container(pod, &name),
                Kind::Warning,
                "Failed",
                "Error: ImagePullBackOff",
            );
        }
        wake
    }

    async fn until_runtime_answers(&self) {
        let mut health = self.context.health.clone();
        // An error means that the agent stops; the task is dropped then.
        let _ = health.wait_for(|h| h.answers).await;
    }

    async fn rest(&mut self, until: i64) {
        let wait = u64::try_from(until.saturating_sub(now_ms())).unwrap_or(0);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            () = self.moved.notified() => {}
            changed = self.control.changed() => {
                if changed.is_err() {
                    // The agent stops.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The delay within a back-off message.
fn duration_text(message: &str) -> String {
    message.split(' ').nth(1).unwrap_or_default().to_owned()
}
