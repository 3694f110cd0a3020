//! The scheduler: gives each pod a node through `pods/binding`.
//!
//! One task owns the picture of the cluster ([`model`]) and the waiting pods ([`pending`]); it decides,
//! and hands the calls to short tasks, at most `scheduler_binds_in_flight` at a time. A decision costs
//! no request and no list; binding waits only for the API server.
//!
//! Looks at: taints, nodeSelector and required node affinity, host ports, requests against allocatable,
//! number of pods, required affinity between pods and hard topology spread ([`peers`]); then prefers free
//! nodes, nodes without siblings, preferred node affinity. Pods of other schedulers and with scheduling
//! gates are left alone. Not looked at: preferred affinity between pods, volumes, preemption.
//!
//! Invariant: a pod that was placed counts as using its node from the decision on, until the API says
//! otherwise; so two pods never get the same last room.
//!
//! Crash: decisions that were not written are made again; a binding is written once, because the API
//! refuses to bind a bound pod.

mod filter;
mod model;
mod need;
mod peers;
mod pending;
mod score;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use kube::api::{Patch, PatchParams, PostParams};
use skerry_common::Key;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::context::Context;
use crate::error::Error;
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::pods;
use filter::Reason;
use model::{Model, NodeState};
use need::Need;
use peers::Rules;
use pending::{Cause, Pending, WaitsFor};

/// The scheduler name of pods that are ours.
const NAME: &str = "default-scheduler";
/// Changes taken in before the next pod is placed, so that neither starves the other.
const CHANGES_AT_ONCE: usize = 1024;
/// Nodes that are enough to choose from when there are many, as in Kubernetes.
const ENOUGH_NODES: usize = 100;
/// How often parked pods are looked through.
const FLUSH_CHECK: Duration = Duration::from_secs(30);
/// How long one call may take before it counts as failed.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Pod(Key),
    Node(Key),
}

/// Registers handlers and spawns the scheduler's task.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let changes = Arc::new(WorkQueue::default());
    let q = changes.clone();
    ctx.pods.on_change(move |change: &Change<'_, Pod>| q.add(Item::Pod(change.key.clone())));
    let q = changes.clone();
    ctx.nodes.on_change(move |change: &Change<'_, Node>| q.add(Item::Node(change.key.clone())));
    let scheduler = Scheduler {
        model: Model::default(),
        pending: Pending::new(ctx.options.scheduler_backoff, ctx.options.scheduler_flush),
        assumed: HashMap::new(),
        start: 0,
        ctx: ctx.clone(),
    };
    tasks.spawn(NAME, scheduler.run(changes));
}

struct Scheduler {
    ctx: Arc<Context>,
    model: Model,
    pending: Pending,
    /// Pods that we have placed and that the cache does not show on a node yet, with their uid.
    assumed: HashMap<Key, Option<String>>,
    /// Where the next search begins, so that all nodes get their turn.
    start: usize,
}

enum Decision {
    Node(Arc<str>),
    None { message: String, waits: WaitsFor },
}

struct Done {
    key: Key,
    uid: Option<String>,
    bound: bool,
    result: Result<(), Error>,
}

impl Scheduler {
    async fn run(mut self, changes: Arc<WorkQueue<Item>>) {
        self.ctx.wait_synced().await;
        let mut calls: JoinSet<Done> = JoinSet::new();
        let in_flight = self.ctx.options.scheduler_binds_in_flight.max(1);
        let mut next_flush = Instant::now() + FLUSH_CHECK;
        loop {
            for item in changes.drain(CHANGES_AT_ONCE) {
                self.take_in(&item);
            }
            if changes.take_overflow() {
                self.take_in_everything();
            }
            while let Some(done) = calls.try_join_next() {
                self.finish(done);
            }
            let now = Instant::now();
            if now >= next_flush {
                next_flush = now + FLUSH_CHECK;
                self.pending.flush(now);
                self.ctx.metrics.unschedulable(self.pending.unschedulable());
            }
            if calls.len() < in_flight
                && let Some((key, pod)) = self.pending.pop(now)
            {
                self.try_one(&mut calls, key, &pod, now);
                continue;
            }
            let can_start = calls.len() < in_flight;
            let wake = self.pending.next_wake().filter(|_| can_start).unwrap_or(next_flush).min(next_flush);
            tokio::select! {
                item = changes.next() => {
                    self.take_in(&item);
                    changes.done(&item);
                }
                Some(done) = calls.join_next(), if !calls.is_empty() => self.finish(done),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn take_in_everything(&mut self) {
        for key in self.ctx.nodes.keys() {
            self.take_in(&Item::Node(key));
        }
        for key in self.ctx.pods.keys() {
            self.take_in(&Item::Pod(key));
        }
    }

    fn take_in(&mut self, item: &Item) {
        let now = Instant::now();
        match item {
            Item::Node(key) => match self.ctx.nodes.get(key) {
                Some(node) => {
                    if self.model.set_node(&node) {
                        self.pending.wake_parked(Cause::Node, now);
                    }
                }
                None => self.model.remove_node(&key.name),
            },
            Item::Pod(key) => self.take_in_pod(key, now),
        }
    }

    fn take_in_pod(&mut self, key: &Key, now: Instant) {
        let Some(pod) = self.ctx.pods.get(key).filter(|p| !pods::is_finished(p)) else {
            self.assumed.remove(key);
            self.pending.remove(key);
            if self.model.remove(key) {
                self.pending.wake_parked(Cause::Left, now);
            }
            return;
        };
        if let Some(node) = pods::node_name(&pod) {
            self.assumed.remove(key);
            self.pending.remove(key);
            if self.model.place(key, node, Need::of(&pod)) {
                self.pending.wake_parked(Cause::Came, now);
            }
            return;
        }
        if self.assumed.get(key).is_some_and(|uid| *uid == pod.metadata.uid) {
            return;
        }
        self.assumed.remove(key);
        self.model.remove(key);
        if is_ours(&pod) {
            self.pending.offer(key, &pod);
        } else {
            self.pending.remove(key);
        }
    }

    fn try_one(&mut self, calls: &mut JoinSet<Done>, key: Key, pod: &Arc<Pod>, now: Instant) {
        let need = Need::of(pod);
        let (ctx, pod) = (self.ctx.clone(), pod.clone());
        let uid = pod.metadata.uid.clone();
        let rules = Rules::of(&pod, &self.model, self.ctx.as_ref());
        match decide(&self.model, &mut self.start, &pod, &need, rules.as_ref()) {
            Decision::Node(node) => {
                self.model.place(&key, &node, need);
                self.assumed.insert(key.clone(), uid.clone());
                calls.spawn(async move {
                    let _begun = ctx.gate.read().await;
                    let result = with_deadline(bind(&ctx, &key, &pod, &node)).await;
                    Done { key, uid, bound: true, result }
                });
            }
            Decision::None { message, waits } => {
                self.pending.park(&key, waits, now);
                calls.spawn(async move {
                    let _begun = ctx.gate.read().await;
                    let result = with_deadline(report(&ctx, &key, &pod, message)).await;
                    Done { key, uid, bound: false, result }
                });
            }
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                // The pod stays assumed; the next change of it, or of the cache, puts that right.
                tracing::error!(%error, "a scheduling call failed");
                return;
            }
        };
        let now = Instant::now();
        match (&done.result, done.bound) {
            (Ok(()), true) => self.ctx.metrics.bound(),
            (Ok(()), false) => {}
            (Err(error), bound) => {
                let cause = skerry_common::chain(error);
                if error.is_expected() {
                    tracing::debug!(pod = %done.key, %cause, "scheduling call refused");
                } else {
                    tracing::warn!(pod = %done.key, %cause, "scheduling call failed, trying again");
                }
                if bound && self.assumed.get(&done.key) == Some(&done.uid) {
                    self.assumed.remove(&done.key);
                    self.model.remove(&done.key);
                    self.pending.failed(&done.key, now);
                    // What happened meanwhile was put off because the pod counted as placed.
                    self.take_in_pod(&done.key, now);
                }
            }
        }
    }
}

/// Chooses a node. `start` is where the search begins, so that all nodes get their turn.
fn decide(model: &Model, start: &mut usize, pod: &Pod, need: &Need, rules: Option<&Rules>) -> Decision {
    let default = Default::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let nodes = model.nodes();
    let narrowed = narrow(spec, model);
    let total = narrowed.as_ref().map_or(nodes.len(), Vec::len);
    let enough = enough_nodes(model.present());
    let mut reasons: Vec<Reason> = Vec::new();
    let mut candidates: Vec<&NodeState> = Vec::new();
    let mut looked = 0;
    for offset in 0..total {
        let position = start.wrapping_add(offset) % total;
        let index = narrowed.as_ref().map_or(Some(position), |n| n.get(position).copied());
        let Some(state) = index.and_then(|i| nodes.get(i)).filter(|s| s.node.is_some()) else { continue };
        looked += 1;
        let mut why = filter::check(spec, need, state);
        if why.is_empty() {
            why.extend(rules.and_then(|r| r.check(state)));
        }
        if why.is_empty() {
            candidates.push(state);
            if candidates.len() >= enough {
                break;
            }
        } else {
            reasons.extend(why);
        }
    }
    if let Some(best) = score::best(spec, need, &candidates) {
        let name = best.name.clone();
        *start = start.wrapping_add(looked);
        return Decision::Node(name);
    }
    let waits = if reasons.iter().any(Reason::waits_for_peers) {
        WaitsFor::Peers
    } else if reasons.iter().any(Reason::waits_for_room) {
        WaitsFor::Room
    } else {
        WaitsFor::Nodes
    };
    let present = model.present();
    // Nodes that were not looked at were ruled out by name.
    reasons.extend(std::iter::repeat_n(Reason::Affinity, present.saturating_sub(looked)));
    Decision::None { message: filter::explain(present, reasons), waits }
}

impl peers::Cluster for Context {
    fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        self.pods.get(key)
    }

    fn namespace_labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.get(&Key::new("", name)).and_then(|n| n.metadata.labels.clone())
    }
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    pod.metadata.deletion_timestamp.is_none()
        && spec.scheduler_name.as_deref().is_none_or(|n| n == NAME)
        && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
}

/// How many feasible nodes are enough to choose from, as Kubernetes' adaptive percentage.
fn enough_nodes(nodes: usize) -> usize {
    if nodes <= ENOUGH_NODES {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes.saturating_mul(percent) / 100).max(ENOUGH_NODES)
}

/// The only nodes worth looking at, when the pod names them: by affinity to `metadata.name` (pods of a
/// DaemonSet) or by the host name label.
fn narrow(spec: &k8s_openapi::api::core::v1::PodSpec, model: &Model) -> Option<Vec<usize>> {
    if let Some(hostname) = spec.node_selector.as_ref().and_then(|s| s.get(model::HOSTNAME)) {
        return Some(model.with_hostname(hostname));
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut names = HashSet::new();
    for term in terms {
        let by_name = term.match_fields.iter().flatten().find(|f| f.key == "metadata.name" && f.operator == "In")?;
        names.extend(by_name.values.iter().flatten());
    }
    Some(names.into_iter().filter_map(|n| model.node(n).map(|(i, _)| i)).collect())
}

async fn with_deadline(call: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    match tokio::time::timeout(CALL_DEADLINE, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(Error::Panicked),
        Err(_elapsed) => Err(Error::TooSlow),
    }
}

async fn bind(ctx: &Context, key: &Key, pod: &Pod, node: &str) -> Result<(), Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            // The server refuses the binding when the pod is another one by now.
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.to_owned()), ..Default::default() },
    };
    let api = ctx.api::<Pod>(&key.namespace);
    let _: Status = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await?;
    let message = format!("Successfully assigned {key} to {node}");
    ctx.recorder.event(NAME, pod, Severity::Normal, "Scheduled", message);
    Ok(())
}

async fn report(ctx: &Context, key: &Key, pod: &Pod, message: String) -> Result<(), Error> {
    ctx.recorder.event(NAME, pod, Severity::Warning, "FailedScheduling", message.clone());
    let current = pods::condition(pod, "PodScheduled");
    if current.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&message)) {
        return Ok(());
    }
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message),
        last_transition_time: current
            .filter(|c| c.status == "False")
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(Timestamp::now()))),
        ..Default::default()
    };
    // A strategic merge by type: other writers' conditions stay.
    let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let api = ctx.api::<Pod>(&key.namespace);
    crate::error::ignore_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
    Ok(())
}

#[cfg(test)]
mod tests;
