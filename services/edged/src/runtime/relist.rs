//! Notices what happens in the runtime, and whether the runtime itself is well.
//!
//! One task. It lists all sandboxes and containers of this node, compares with the list before, and
//! wakes the workers of pods that changed. The interval is short while something moves and grows
//! when nothing does; where the runtime streams events, these wake the workers at once and lists
//! are only a safety net. A list that fails changes nothing but the [`Health`].
//!
//! Invariants: a failed or partial list never looks like a change; the runtime is unwell after
//! [`UNWELL_AFTER`] without an answer and well again with the first one. Limits: one list at a time.
//! When the task ends, the agent ends: it is watched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::cri::v1::{RuntimeHandler, StatusResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Cri;
use crate::cgroups::Driver;
use crate::context::Context;
use crate::pod::labels;

/// While something moves. A list costs a few milliseconds of the runtime's time.
const FASTEST: Duration = Duration::from_millis(200);
/// When nothing moves: a container that ends by itself is noticed this late at most.
const SLOWEST: Duration = Duration::from_secs(5);
/// The same where the runtime sends events.
const SLOWEST_WITH_EVENTS: Duration = Duration::from_secs(30);
/// For so long after the last change it stays fast.
const MOVING_FOR: Duration = Duration::from_secs(3);
/// Shorter silence is a busy machine.
const UNWELL_AFTER: Duration = Duration::from_secs(10);
/// Nobody listens on the socket: a restart of the runtime takes less.
const DOWN_AFTER: Duration = Duration::from_secs(2);
/// How often the runtime's own conditions are asked for.
const STATUS_EVERY: Duration = Duration::from_secs(30);
/// The same while it says that it is not ready: a network that comes up makes the node ready.
const STATUS_EVERY_UNWELL: Duration = Duration::from_secs(2);

/// How the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// It answers; workers may act.
    pub(crate) answers: bool,
    /// Why the node is not ready; empty when the runtime and its network are.
    pub(crate) trouble: String,
}

/// What the relist tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// These pods changed in the runtime.
    Changed(Vec<String>),
    /// A complete list was made for the first time, or again after trouble.
    Complete,
}

/// Bounded by what the agent takes in one turn; a full channel delays the next list.
pub(crate) const NEWS_LIMIT: usize = 16;

/// The task's ends.
pub(crate) struct Relist {
    pub(crate) context: Arc<Context>,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) health: watch::Sender<Health>,
    /// Uids of all pods that the runtime shows.
    pub(crate) present: watch::Sender<BTreeSet<String>>,
}

impl Relist {
    /// Runs until it is dropped or the agent is gone.
    pub(crate) async fn run(self) {
        let mut known: BTreeMap<String, u64> = BTreeMap::new();
        let mut complete = false;
        let mut interval = FASTEST;
        let mut last_answer = Instant::now();
        let mut last_change = Instant::now();
        let mut next_status = Instant::now();
        let (event_tx, mut events) = mpsc::channel::<String>(64);
        let streams = tokio::spawn(stream_events(self.context.cri.clone(), event_tx));
        let _ends_with_us = AbortOnDrop(streams);
        let mut streaming = false;
        loop {
            match self.list().await {
                Ok(now) => {
                    last_answer = Instant::now();
                    let changed: Vec<String> = now
                        .iter()
                        .filter(|(uid, hash)| known.get(*uid) != Some(hash))
                        .map(|(uid, _)| uid.clone())
                        .chain(known.keys().filter(|uid| !now.contains_key(*uid)).cloned())
                        .collect();
                    known = now;
                    self.present.send_if_modified(|p| {
                        let uids: BTreeSet<String> = known.keys().cloned().collect();
                        let differs = *p != uids;
                        if differs {
                            *p = uids;
                        }
                        differs
                    });
                    if last_answer >= next_status {
                        let well = self.check_status().await;
                        next_status = last_answer + if well { STATUS_EVERY } else { STATUS_EVERY_UNWELL };
                    }
                    if !changed.is_empty() {
                        last_change = Instant::now();
                        if self.news.send(News::Changed(changed)).await.is_err() {
                            return;
                        }
                    }
                    if !complete {
                        complete = true;
                        if self.news.send(News::Complete).await.is_err() {
                            return;
                        }
                    }
                }
                Err(status) => {
                    tracing::debug!(code = ?status.code(), "container runtime did not list");
                    interval = FASTEST;
                    let silent = last_answer.elapsed();
                    let patience = if status.code() == Code::Unavailable { DOWN_AFTER } else { UNWELL_AFTER };
                    if silent >= patience {
                        complete = false;
                        next_status = Instant::now();
                        self.set_health(Health { answers: false, trouble: describe(&status) });
                    }
                }
            }
            let moving = last_change.elapsed() < MOVING_FOR;
            let slowest = if streaming { SLOWEST_WITH_EVENTS } else { SLOWEST };
            interval = if moving { FASTEST } else { interval.mul_f32(1.5).min(slowest) };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.context.hurry.notified() => {
                    last_change = Instant::now();
                    // Many workers at once are one list.
                    tokio::time::sleep(FASTEST).await;
                }
                Some(uid) = events.recv() => {
                    streaming = true;
                    let mut uids = BTreeSet::from([uid]);
                    while let Ok(more) = events.try_recv() {
                        uids.insert(more);
                    }
                    uids.remove("");
                    if !uids.is_empty() && self.news.send(News::Changed(uids.into_iter().collect())).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn list(&self) -> Result<BTreeMap<String, u64>, Status> {
        let (sandboxes, containers) =
            tokio::try_join!(self.context.cri.sandboxes(None), self.context.cri.containers(None))?;
        let mut pods: BTreeMap<String, BTreeSet<(String, i32)>> = BTreeMap::new();
        let listed = sandboxes
            .into_iter()
            .map(|s| (s.labels.get(labels::POD_UID).cloned(), s.id, s.state))
            .chain(containers.into_iter().map(|c| (c.labels.get(labels::POD_UID).cloned(), c.id, c.state + 10)));
        for (uid, id, state) in listed {
            if let Some(uid) = uid {
                pods.entry(uid).or_default().insert((id, state));
            }
        }
        let hash = |set: BTreeSet<(String, i32)>| {
            let mut hasher = DefaultHasher::new();
            set.hash(&mut hasher);
            hasher.finish()
        };
        Ok(pods.into_iter().map(|(uid, set)| (uid, hash(set))).collect())
    }

    /// The runtime's own word about itself and its network; whether all is well.
    async fn check_status(&self) -> bool {
        let trouble = match self.context.cri.status(true).await {
            Ok(reply) => {
                self.learn(&reply).await;
                let conditions = reply.status.map(|s| s.conditions).unwrap_or_default();
                conditions
                    .iter()
                    .filter(|c| !c.status)
                    .map(|c| format!("container runtime {} is false: {}: {}", c.r#type, c.reason, c.message))
                    .collect::<Vec<_>>()
                    .join("; ")
            }
            Err(status) => describe(&status),
        };
        let well = trouble.is_empty();
        self.set_health(Health { answers: true, trouble });
        well
    }

    /// What workers need to know before they create anything.
    async fn learn(&self, status: &StatusResponse) {
        let cgroups = cgroup_driver(&status.info);
        let sandbox_image = sandbox_image(&status.info);
        let default = status.runtime_handlers.iter().find(|h| h.name.is_empty());
        let recursive = default.and_then(|h| h.features.as_ref()).is_some_and(|f| f.recursive_read_only_mounts);
        let strict_groups = status.features.is_some_and(|f| f.supplemental_groups_policy);
        let able = |h: &&RuntimeHandler| h.features.as_ref().is_some_and(|f| f.user_namespaces);
        let user_namespaces = status.runtime_handlers.iter().filter(able).map(|h| h.name.clone()).collect();
        if let Ok(version) = self.context.cri.version().await {
            self.context.learn(|l| {
                l.cgroups = cgroups;
                l.recursive_read_only = recursive;
                l.user_namespaces = user_namespaces;
                l.strict_groups = strict_groups;
                l.sandbox_image = sandbox_image;
                l.runtime = version.runtime_name;
                l.runtime_version = version.runtime_version;
            });
        }
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let differs = *now != health;
            if differs {
                if now.answers != health.answers {
                    tracing::info!(answers = health.answers, trouble = %health.trouble, "container runtime health changed");
                }
                *now = health;
            }
            differs
        });
    }
}

/// containerd shows its configuration; of another runtime nothing is known here.
fn configuration(info: &HashMap<String, String>) -> Option<serde_json::Value> {
    info.get("config").and_then(|c| serde_json::from_str(c).ok())
}

fn sandbox_image(info: &HashMap<String, String>) -> String {
    let config = configuration(info);
    config.as_ref().and_then(|c| c.get("sandboxImage")?.as_str()).unwrap_or_default().to_owned()
}

fn cgroup_driver(info: &HashMap<String, String>) -> Driver {
    let config = configuration(info);
    let Some(containerd) = config.as_ref().and_then(|c| c.get("containerd")) else { return Driver::Unknown };
    let name = containerd.get("defaultRuntimeName").and_then(|n| n.as_str()).unwrap_or("runc");
    let options = containerd.pointer(&format!("/runtimes/{name}/options"));
    match options.and_then(|o| o.get("SystemdCgroup")).and_then(serde_json::Value::as_bool) {
        Some(true) => Driver::Systemd,
        Some(false) => Driver::Cgroupfs,
        None => Driver::Unknown,
    }
}

fn describe(status: &Status) -> String {
    match status.code() {
        Code::DeadlineExceeded => "container runtime does not answer".into(),
        Code::Unavailable => "container runtime is down".into(),
        _ => format!("container runtime: {}", status.message()),
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the runtime's events; ends for good when it offers none.
async fn stream_events(cri: Cri, pods: mpsc::Sender<String>) {
    loop {
        match cri.events().await {
            Ok(mut stream) => {
                while let Ok(Some(event)) = stream.message().await {
                    let labels = event.pod_sandbox_status.map(|s| s.labels).unwrap_or_default();
                    let uid = labels
                        .get(labels::POD_UID)
                        .filter(|_| labels.get(labels::NODE).is_some_and(|n| n == cri.node()));
                    if pods.send(uid.cloned().unwrap_or_default()).await.is_err() {
                        return;
                    }
                }
            }
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(_) => {}
        }
        tokio::time::sleep(SLOWEST).await;
    }
}
