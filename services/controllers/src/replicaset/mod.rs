//! The ReplicaSet controller: as many pods as the ReplicaSet asks for.
//!
//! Runs on `workers` tasks; a ReplicaSet runs when it, or a pod that belongs or could belong to it,
//! changes. Creates at most [`BURST`] pods per run in batches that double (so that a namespace that
//! refuses pods costs a few calls and not hundreds), deletes by the ranking of Kubernetes.
//!
//! Invariant: no pods are created or deleted before the cache has shown all earlier creates and
//! deletes of this ReplicaSet (see [`crate::machinery::expectations`]).
//!
//! Crash: pods created before the crash carry the owner reference and are counted after it.

pub(crate) mod ranking;
pub(crate) mod status;

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use skerry_common::Key;

use crate::claim;
use crate::context::{Context, by, pods_by};
use crate::error::{Error, ignore_gone};
use crate::labels::Selector;
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::expectations::Expectations;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::names;
use crate::pods::{self, name, namespace, uid};

/// The annotation by which a user says which pods to delete first.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Most pods created or deleted in one run, as in Kubernetes.
pub(crate) const BURST: usize = 500;
/// Calls in flight for one ReplicaSet.
const CALLS_IN_FLIGHT: usize = 16;
const COMPONENT: &str = "replicaset-controller";
const KIND: &str = "ReplicaSet";

/// Writes that the pod cache has not shown yet, by the uid of the owner.
pub(crate) type PodExpectations = Arc<Expectations<Arc<str>>>;

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let expectations = PodExpectations::default();
    let (q, e) = (queue.clone(), expectations.clone());
    ctx.replica_sets.on_change(move |change: &Change<'_, ReplicaSet>| {
        if let (Some(old), None) = (change.old, change.new) {
            e.forget(&Arc::from(uid(old.as_ref())));
        }
        q.add(change.key.clone());
    });
    watch_pods(ctx, KIND, &queue, &expectations, |ctx, pod| {
        let sets = ctx.replica_sets.by_index(by::NAMESPACE, namespace(pod));
        let matching = sets.iter().filter(|rs| {
            Selector::parse(&rs.spec.clone().unwrap_or_default().selector)
                .is_ok_and(|s| !s.is_empty() && s.matches(pod.metadata.labels.as_ref()))
        });
        matching.map(|rs| Key::new(namespace(rs.as_ref()), name(rs.as_ref()))).collect()
    });
    let cache = ctx.replica_sets.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        move |ctx, key| {
            let expectations = expectations.clone();
            async move { reconcile(&ctx, &key, &expectations).await }
        },
    );
}

/// Enqueues the controller of each pod that changes, and settles expectations. `candidates` finds the
/// owners that could adopt a pod without controller.
pub(crate) fn watch_pods(
    ctx: &Arc<Context>,
    kind: &'static str,
    queue: &Arc<WorkQueue<Key>>,
    expectations: &PodExpectations,
    candidates: fn(&Context, &Pod) -> Vec<Key>,
) {
    let (queue, expectations) = (queue.clone(), expectations.clone());
    // A weak reference: the cache owns the handler, and the context owns the cache.
    let weak = Arc::downgrade(ctx);
    ctx.pods.on_change(move |change: &Change<'_, Pod>| {
        for pod in change.both() {
            if let Some(owner) = pods::controller_of(&pod.metadata).filter(|o| o.kind == kind) {
                queue.add(Key::new(namespace(pod.as_ref()), owner.name.as_str()));
            }
        }
        if let Some(pod) = change.new {
            match pods::controller_of(&pod.metadata) {
                Some(owner) if owner.kind == kind => {
                    let owner = Arc::from(owner.uid.as_str());
                    if change.old.is_none() {
                        expectations.created(&owner, name(pod.as_ref()));
                    }
                    if pod.metadata.deletion_timestamp.is_some() {
                        expectations.deleted(&owner, uid(pod.as_ref()));
                    }
                }
                Some(_) => {}
                None => {
                    if let Some(ctx) = weak.upgrade() {
                        for key in candidates(&ctx, pod) {
                            queue.add(key);
                        }
                    }
                }
            }
        } else if let Some(pod) = change.old
            && let Some(owner) = pods::controller_of(&pod.metadata).filter(|o| o.kind == kind)
        {
            let owner = Arc::from(owner.uid.as_str());
            expectations.created(&owner, name(pod.as_ref()));
            expectations.deleted(&owner, uid(pod.as_ref()));
        }
    });
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, expectations: &PodExpectations) -> Result<Next, Error> {
    let Some(rs) = ctx.replica_sets.get(key) else { return Ok(Next::OnChange) };
    let spec = rs.spec.clone().unwrap_or_default();
    let selector = Selector::parse(&spec.selector).unwrap_or_default();
    if selector.is_empty() {
        return Err(Error::Invalid {
            object: format!("ReplicaSet {key}"),
            why: "its selector selects everything".into(),
        });
    }
    let owner: Arc<str> = uid(rs.as_ref()).into();
    let ready_to_act = settled(ctx, &key.namespace, &owner, expectations).await?;
    let owned = claim::pods(ctx, rs.as_ref(), &selector).await?;
    let active: Vec<Arc<Pod>> = owned.into_iter().filter(|p| pods::is_active(p)).collect();
    let mut failure = None;
    if ready_to_act && rs.metadata.deletion_timestamp.is_none() {
        failure = manage(ctx, &rs, &active, expectations, &owner).await.err();
    }
    let (status, wake) = status::compute(&rs, &active, failure.as_ref(), Timestamp::now());
    if status::differs(rs.status.as_ref(), &status) {
        let patch = serde_json::json!({"status": status::to_json(&status)});
        let api = ctx.api::<ReplicaSet>(&key.namespace);
        ignore_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    }
    match failure {
        // The namespace is going; nothing will ever be created here.
        Some(error) if error.is_namespace_terminating() => Ok(Next::OnChange),
        Some(error) => Err(error),
        None => Ok(Next::OnChange.sooner(wake)),
    }
}

async fn manage(
    ctx: &Context,
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    expectations: &PodExpectations,
    owner: &Arc<str>,
) -> Result<(), Error> {
    let wanted = usize::try_from(rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let Some(template) = rs.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Ok(()) };
        let missing = (wanted - active.len()).min(BURST);
        let new = (0..missing).map(|_| pods::from_template(rs, names::generate(name(rs)), template)).collect();
        create_pods(ctx, COMPONENT, rs, owner, expectations, new).await
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        let siblings = siblings_by_node(ctx, rs);
        let victims = ranking::victims(active, &siblings, surplus, Timestamp::now());
        delete_pods(ctx, COMPONENT, rs, owner, expectations, &victims).await
    } else {
        Ok(())
    }
}

/// Active pods per node of all ReplicaSets with the same owner: scaling down evens them out.
fn siblings_by_node(ctx: &Context, rs: &ReplicaSet) -> std::collections::HashMap<String, usize> {
    let mut sets = vec![uid(rs).to_owned()];
    if let Some(owner) = pods::controller_of(&rs.metadata) {
        sets =
            ctx.replica_sets.by_index(by::CONTROLLER, &owner.uid).iter().map(|r| uid(r.as_ref()).to_owned()).collect();
    }
    let mut counts = std::collections::HashMap::new();
    for set in sets {
        for pod in ctx.pods.by_index(pods_by::CONTROLLER, &set).iter().filter(|p| pods::is_active(p)) {
            if let Some(node) = pods::node_name(pod) {
                *counts.entry(node.to_owned()).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// May `owner` be acted upon? First finds out about creates that the API did not answer.
pub(crate) async fn settled(
    ctx: &Context,
    namespace: &str,
    owner: &Arc<str>,
    expectations: &PodExpectations,
) -> Result<bool, Error> {
    let api = ctx.api::<Pod>(namespace);
    for name in expectations.uncertain(owner) {
        match api.get_opt(&name).await? {
            Some(_) => expectations.confirmed(owner, &name),
            None => expectations.created(owner, &name),
        }
    }
    Ok(expectations.satisfied(owner))
}

/// Creates `pods` in batches of 1, 2, 4, …; the first batch with a failure is the last.
pub(crate) async fn create_pods<K: kube::Resource<DynamicType = ()> + Sync>(
    ctx: &Context,
    component: &'static str,
    owner: &K,
    owner_uid: &Arc<str>,
    expectations: &PodExpectations,
    mut pods: Vec<Pod>,
) -> Result<(), Error> {
    let api = &ctx.api::<Pod>(namespace(owner));
    let (count, mut batch) = (pods.len(), 1);
    while !pods.is_empty() {
        let size = batch.min(pods.len());
        let created = pods.split_off(pods.len() - size);
        for pod in &created {
            expectations.expect_create(owner_uid, name(pod));
        }
        // Collected first: a stream that keeps the closure is not Send for every lifetime.
        let calls: Vec<BoxFuture<'_, Option<Error>>> = created
            .iter()
            .map(|pod| {
                async move {
                    let result = api.create(&PostParams::default(), pod).await.map_err(Error::from);
                    match &result {
                        Ok(_) => {
                            expectations.confirmed(owner_uid, name(pod));
                            let what = format!("Created pod: {}", name(pod));
                            ctx.recorder.event(component, owner, Severity::Normal, "SuccessfulCreate", what);
                        }
                        Err(error) => {
                            // Without a clear no it may exist: the next run asks.
                            if error.is_refusal() {
                                expectations.created(owner_uid, name(pod));
                            }
                            if !error.is_namespace_terminating() {
                                let why = format!("Error creating: {}", skerry_common::chain(error));
                                ctx.recorder.event(component, owner, Severity::Warning, "FailedCreate", why);
                            }
                        }
                    }
                    result.err()
                }
                .boxed()
            })
            .collect();
        let errors: Vec<Error> =
            futures::stream::iter(calls).buffer_unordered(CALLS_IN_FLIGHT).filter_map(|e| async { e }).collect().await;
        let failed = errors.len();
        if let Some(first) = errors.into_iter().next() {
            return Err(if first.is_namespace_terminating() || count == 1 {
                first
            } else {
                Error::Partly { failed, total: size, first: Box::new(first) }
            });
        }
        batch = size * 2;
    }
    Ok(())
}

/// Deletes `victims`, each only if it is still the same object.
pub(crate) async fn delete_pods<K: kube::Resource<DynamicType = ()> + Sync>(
    ctx: &Context,
    component: &'static str,
    owner: &K,
    owner_uid: &Arc<str>,
    expectations: &PodExpectations,
    victims: &[Arc<Pod>],
) -> Result<(), Error> {
    let api = &ctx.api::<Pod>(namespace(owner));
    for pod in victims {
        expectations.expect_delete(owner_uid, uid(pod.as_ref()));
    }
    let calls: Vec<BoxFuture<'_, Option<Error>>> = victims
        .iter()
        .map(|pod| {
            async move {
                let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams::background().preconditions(same);
                let result = ignore_gone(api.delete(name(pod.as_ref()), &params).await);
                match &result {
                    Ok(Some(_)) => ctx.recorder.event(
                        component,
                        owner,
                        Severity::Normal,
                        "SuccessfulDelete",
                        format!("Deleted pod: {}", name(pod.as_ref())),
                    ),
                    // It was gone already, so no event of ours is going to come.
                    Ok(None) => expectations.deleted(owner_uid, uid(pod.as_ref())),
                    Err(error) => {
                        expectations.deleted(owner_uid, uid(pod.as_ref()));
                        let why = format!("Error deleting: {}", skerry_common::chain(error));
                        ctx.recorder.event(component, owner, Severity::Warning, "FailedDelete", why);
                    }
                }
                result.err()
            }
            .boxed()
        })
        .collect();
    let errors: Vec<Error> =
        futures::stream::iter(calls).buffer_unordered(CALLS_IN_FLIGHT).filter_map(|e| async { e }).collect().await;
    let failed = errors.len();
    match errors.into_iter().next() {
        Some(first) => Err(Error::Partly { failed, total: victims.len(), first: Box::new(first) }),
        None => Ok(()),
    }
}
