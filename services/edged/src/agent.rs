//! Which pods have a worker.
//!
//! One task. It applies changes from EdgeHub, starts a worker for every pod, tells workers of
//! changes, and finds what is in the runtime or on the disk without a pod. Invariants: a worker is
//! told to end its pod only by a tombstone (or by another pod under its name); what is in the runtime
//! and not in the list is ended only when the list of pods is complete and the runtime has been
//! listed; a pod that was finished is not started again under the same uid. Limits: one worker per
//! pod. A worker that panics ends the agent, which the supervisor starts again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skerry_common::{Key, kinds};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::error::Error;
use crate::hub::Batch;
use crate::node;
use crate::objects::{Change, Effect, uid_is_safe};
use crate::pod::failure::Failure;
use crate::pod::labels;
use crate::pod::spec::{PodExt, References, references};
use crate::pod::worker::{Control, Handle, Worker};
use crate::reports::Report;
use crate::runtime::relist::News;
use crate::volumes::{self, PodDir};

/// Workers that end at the same moment wait here for a moment.
const FINISHED: usize = 64;

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
        loop {
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
            self.find_orphans().await;
        }
        let _ = batch.done.send(answers);
    }

    fn effect(&mut self, effect: Effect, deleted: bool) {
        match effect {
            Effect::Pod { uid } => self.pod_changed(&uid),
            Effect::PodGone { uid } => {
                self.finished.remove(&uid);
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
        self.spawn(pod, false);
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

    fn spawn(&mut self, pod: Arc<Pod>, gone: bool) {
        let uid = pod.uid().to_owned();
        let references = references(&pod);
        let namespace = pod.namespace().to_owned();
        let control = Control { pod, gone, references: 0, repeat: 0, failure: None };
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
            Some(pod) if was_gone && pod.metadata.deletion_timestamp.is_none() => self.spawn(pod, false),
            Some(_) => drop(self.finished.insert(uid.to_owned())),
            None => {}
        }
    }

    /// Ends what the runtime or the disk has of pods that do not exist any more.
    async fn find_orphans(&mut self) {
        if !self.listed || !self.context.objects.in_sync(kinds::POD) {
            return;
        }
        let present = self.present.borrow().clone();
        for uid in &present {
            let known = self.workers.contains_key(uid) || self.context.objects.pod(uid).is_some();
            if known || !uid_is_safe(uid) {
                continue;
            }
            match self.pod_from_runtime(uid).await {
                Ok(Some(pod)) => {
                    tracing::info!(pod = %pod.full_name(), "pod was deleted while nobody looked; ending it");
                    self.spawn(Arc::new(pod), true);
                }
                Ok(None) => {}
                // The next list tries again.
                Err(status) => tracing::debug!(uid, code = ?status.code(), "cannot look at an orphan"),
            }
        }
        self.remove_directories(&present);
    }

    /// As much of a pod as its labels in the runtime tell.
    async fn pod_from_runtime(&self, uid: &str) -> Result<Option<Pod>, tonic::Status> {
        let sandboxes = self.context.cri.sandboxes(Some(uid)).await?;
        let containers = self.context.cri.containers(Some(uid)).await?;
        let grace =
            containers.iter().find_map(|c| c.annotations.get(labels::GRACE)).and_then(|g| g.parse::<i64>().ok());
        let mut all = sandboxes.iter().map(|s| &s.labels).chain(containers.iter().map(|c| &c.labels));
        let Some(found) = all.next() else { return Ok(None) };
        let text = |name: &str| -> String { found.get(name).cloned().unwrap_or_default() };
        let (namespace, name) = (text(labels::POD_NAMESPACE), text(labels::POD_NAME));
        // Names from the runtime become a path below the log directory.
        if Key::checked(&namespace, &name).is_err() {
            return Ok(None);
        }
        Ok(Some(Pod {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                uid: Some(uid.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() }),
            status: None,
        }))
    }

    /// Directories of pods that neither exist nor run, for example after a loss of the runtime's state.
    fn remove_directories(&self, present: &BTreeSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.context.root.join("pods")) else { return };
        for uid in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let known = self.workers.contains_key(&uid) || self.context.objects.pod(&uid).is_some();
            if known || present.contains(&uid) || !uid_is_safe(&uid) {
                continue;
            }
            let (context, dir) = (Arc::clone(&self.context), PodDir::new(&self.context.root, &uid));
            tokio::task::spawn_blocking(move || {
                // The directory last: it is how the rest is found.
                match context.cgroups.remove_pod(&uid).and_then(|()| volumes::clean_up(&dir)) {
                    Ok(()) => context.user_namespaces.release(&uid),
                    Err(error) => {
                        tracing::warn!(dir = %dir.path().display(), %error, "what a former pod left was not removed");
                    }
                }
            });
        }
    }
}
