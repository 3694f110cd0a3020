//! Which pods have a worker.
//!
//! One task. It applies changes from EdgeHub, starts a worker for every pod, tells workers of
//! changes, and finds what is in the runtime or on the disk without a pod. Invariants: a worker is
//! told to end its pod only by a tombstone (or by another pod under its name); what is in the runtime
//! and not in the list is ended only when the list of pods is complete and the runtime has been
//! listed; a pod that was finished is not started again under the same uid. Limits: one worker per
//! pod. A worker that panics ends the agent, which the supervisor starts again.

mod intake;
mod mirrors;
mod orphans;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skerry_common::{Key, kinds};
use skerry_hubclient::{Batch, Change, Report};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::context::Context;
use crate::error::Error;
use crate::node;
use crate::objects::Effect;
use crate::pod::failure::Failure;
use crate::pod::spec::{PodExt, References, references};
use crate::pod::worker::{Control, Handle, Worker};
use crate::runtime::relist::News;

/// Workers that end at the same moment wait here for a moment.
const FINISHED: usize = 64;

/// How often what nobody knows is looked for without any news: what could not be removed before, or
/// appeared since.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

struct Running {
    handle: Handle,
    references: References,
    namespace: String,
}

/// See the module documentation.
pub(crate) struct Agent {
    context: Arc<Context>,
    workers: HashMap<String, Running>,
    tasks: JoinSet<()>,
    /// Pods that ended here and still exist in the API.
    finished: HashSet<String>,
    finished_tx: mpsc::Sender<String>,
    finished_rx: mpsc::Receiver<String>,
    present: watch::Receiver<BTreeSet<String>>,
    /// Pods without a worker that are not taken yet, and since when.
    waiting: BTreeMap<String, Instant>,
    statics: mpsc::Receiver<Vec<Pod>>,
    failures: mpsc::Receiver<(String, Failure)>,
    /// The runtime was listed since it was last unwell.
    listed: bool,
    node_news: Arc<Notify>,
}

impl Agent {
    pub(crate) fn new(
        context: Arc<Context>,
        present: watch::Receiver<BTreeSet<String>>,
        node_news: Arc<Notify>,
        failures: mpsc::Receiver<(String, Failure)>,
        statics: mpsc::Receiver<Vec<Pod>>,
    ) -> Self {
        let (finished_tx, finished_rx) = mpsc::channel(FINISHED);
        Self {
            context,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            finished: HashSet::new(),
            finished_tx,
            finished_rx,
            present,
            waiting: BTreeMap::new(),
            statics,
            failures,
            listed: false,
            node_news,
        }
    }

    /// Runs until it is dropped, which drops the workers too.
    ///
    /// # Errors
    /// When a worker panicked or one of the other tasks is gone.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Batch>, mut news: mpsc::Receiver<News>) -> Error {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let reconsider_at = self.reconsider_at();
            tokio::select! {
                batch = batches.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    None => return Error::Hub("its task ended".into()),
                },
                news = news.recv() => match news {
                    Some(news) => self.hear(news).await,
                    None => return Error::Runtime("the relist ended".into()),
                },
                Some(uid) = self.finished_rx.recv() => self.forget(&uid),
                _ = sweep.tick() => self.find_orphans().await,
                Some(pods) = self.statics.recv() => self.take_static(pods),
                () = tokio::time::sleep_until(reconsider_at.unwrap_or_else(Instant::now)), if reconsider_at.is_some() => {
                    self.reconsider();
                }
                Some((uid, failure)) = self.failures.recv() => self.fail(&uid, failure),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        return Error::Runtime("a pod worker failed".into());
                    }
                }
            }
        }
    }

    async fn take(&mut self, batch: Batch) {
        let mut answers = Vec::with_capacity(batch.changes.len());
        let mut synced = false;
        for change in batch.changes {
            let deleted = matches!(change, Change::Delete { .. });
            match self.context.objects.apply(change) {
                Ok(effects) => {
                    for effect in effects {
                        synced |= matches!(effect, Effect::InSync { kind: kinds::POD });
                        self.effect(effect, deleted);
                    }
                    answers.push(None);
                }
                Err(reason) => {
                    self.context.metrics.objects_refused.inc();
                    answers.push(Some(reason));
                }
            }
        }
        if synced {
            self.reconsider();
            self.mirror_all();
            self.find_orphans().await;
        }
        let _ = batch.done.send(answers);
    }

    fn effect(&mut self, effect: Effect, deleted: bool) {
        match effect {
            Effect::Pod { uid } => self.pod_changed(&uid),
            Effect::Mirror { key } => self.mirror(&key),
            Effect::PodGone { uid } => {
                self.finished.remove(&uid);
                self.waiting.remove(&uid);
                if let Some(running) = self.workers.get(&uid) {
                    running.handle.control.send_modify(|c| c.gone = true);
                }
            }
            Effect::Reference { kind, key } => self.reference_changed(kind, &key),
            // Now it is certain what is missing.
            Effect::InSync { kind } if kind != kinds::POD => self.wake_references(|_| true),
            Effect::InSync { .. } => {}
            Effect::Node if deleted => {
                tracing::warn!("the Node object was deleted; registering again");
                self.node_news.notify_one();
            }
            Effect::Node => self.node_changed(),
            Effect::Link => self.node_news.notify_one(),
        }
    }

    /// The cloud gave the node up: what it says about the node and its pods is to be told again.
    fn node_changed(&self) {
        if self.context.objects.node().as_deref().is_some_and(node::is_given_up) {
            tracing::info!("the cloud had given this node up; reporting everything again");
            for running in self.workers.values() {
                running.handle.control.send_modify(|c| c.repeat += 1);
            }
            self.node_news.notify_one();
        }
    }

    fn pod_changed(&mut self, uid: &str) {
        let Some(pod) = self.context.objects.pod(uid) else { return };
        if self.finished.contains(uid) {
            // The cloud still has it: say again that it is gone.
            if pod.metadata.deletion_timestamp.is_some() {
                self.context.outbox.put(Report {
                    kind: kinds::POD_DELETION,
                    key: Key::new(pod.namespace(), pod.name()),
                    uid: uid.to_owned(),
                    body: bytes::Bytes::new(),
                });
            }
            return;
        }
        if let Some(running) = self.workers.get_mut(uid) {
            running.references = references(&pod);
            running.handle.control.send_modify(|c| {
                // Labels and annotations are shown in files.
                let shown = c.pod.metadata.labels != pod.metadata.labels
                    || c.pod.metadata.annotations != pod.metadata.annotations;
                c.references += u64::from(shown);
                c.pod = pod;
            });
            return;
        }
        self.consider(pod);
    }

    /// The first reason stays: it is what users have seen.
    fn fail(&self, uid: &str, failure: Failure) {
        if let Some(running) = self.workers.get(uid) {
            running.handle.control.send_if_modified(|c| {
                let first = c.failure.is_none();
                if first {
                    c.failure = Some(failure);
                }
                first
            });
        }
    }

    fn spawn(&mut self, pod: Arc<Pod>, gone: bool, failure: Option<Failure>) {
        let uid = pod.uid().to_owned();
        let references = references(&pod);
        let namespace = pod.namespace().to_owned();
        let control = Control { pod, gone, references: 0, repeat: 0, failure };
        let handle = Worker::spawn(&mut self.tasks, Arc::clone(&self.context), control, self.finished_tx.clone());
        self.workers.insert(uid, Running { handle, references, namespace });
        self.context.metrics.pods.set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
    }

    fn reference_changed(&self, kind: &str, key: &Key) {
        let name = &*key.name;
        self.wake_references(|running| {
            let same = running.namespace == *key.namespace;
            match kind {
                kinds::CONFIG_MAP => same && running.references.config_maps.contains(name),
                kinds::SECRET => same && running.references.secrets.contains(name),
                kinds::PERSISTENT_VOLUME_CLAIM => same && running.references.claims.contains(name),
                kinds::PERSISTENT_VOLUME => !running.references.claims.is_empty(),
                kinds::SERVICE_ACCOUNT_TOKEN => same && running.references.tokens,
                kinds::RUNTIME_CLASS => true,
                _ => false,
            }
        });
    }

    fn wake_references(&self, concerns: impl Fn(&Running) -> bool) {
        for running in self.workers.values().filter(|r| concerns(r)) {
            running.handle.control.send_modify(|c| c.references += 1);
        }
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Changed(uids) => {
                let mut unknown = false;
                for uid in &uids {
                    match self.workers.get(uid) {
                        Some(running) => running.handle.moved.notify_one(),
                        None => unknown = true,
                    }
                }
                if unknown {
                    self.find_orphans().await;
                }
            }
            News::Complete => {
                self.listed = true;
                for running in self.workers.values() {
                    running.handle.moved.notify_one();
                }
                self.find_orphans().await;
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        let was_gone = self.workers.remove(uid).is_some_and(|r| r.handle.control.borrow().gone);
        self.context.metrics.pods.set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
        match self.context.objects.pod(uid) {
            // It was deleted and came again, for example because the hub's view was mended.
            Some(pod) if was_gone && pod.metadata.deletion_timestamp.is_none() => self.spawn(pod, false, None),
            Some(_) => drop(self.finished.insert(uid.to_owned())),
            None => {}
        }
        self.start_waiting_statics();
    }
}
