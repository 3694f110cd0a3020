//! The Job controller: runs pods until enough of them have succeeded.
//!
//! Supports completions, parallelism, backoffLimit, activeDeadlineSeconds, suspend and
//! ttlSecondsAfterFinished for NonIndexed Jobs. Succeeded and failed pods are counted from the pods that
//! exist, never below what the status already says, so deleting finished pods does not run them again.
//! Indexed Jobs, pod failure policies and success policies are refused with an Event.
//!
//! Invariant: no pods are created or deleted before the cache has shown all earlier creates and deletes
//! of this Job.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use skerry_common::Key;

use crate::claim;
use crate::context::{Context, by};
use crate::error::{Error, ignore_gone};
use crate::labels::Selector;
use crate::machinery::cache::Change;
use crate::machinery::events::Severity;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};
use crate::names;
use crate::pods::{self, name, namespace, uid};
use crate::replicaset::{PodExpectations, create_pods, delete_pods, settled, watch_pods};

const COMPONENT: &str = "job-controller";
const KIND: &str = "Job";
/// The label that ties pods to a Job whose selector is generated.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Registers handlers and spawns workers.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks) {
    let queue = Arc::new(WorkQueue::default());
    let expectations = PodExpectations::default();
    let (q, e) = (queue.clone(), expectations.clone());
    ctx.jobs.on_change(move |change: &Change<'_, Job>| {
        if let (Some(old), None) = (change.old, change.new) {
            e.forget(&Arc::from(uid(old.as_ref())));
        }
        q.add(change.key.clone());
    });
    watch_pods(ctx, KIND, &queue, &expectations, |ctx, pod| {
        let jobs = ctx.jobs.by_index(by::NAMESPACE, namespace(pod));
        let matching = jobs.iter().filter(|j| selector_of(j).matches(pod.metadata.labels.as_ref()));
        matching.map(|j| Key::new(namespace(j.as_ref()), name(j.as_ref()))).collect()
    });
    let cache = ctx.jobs.clone();
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

/// The Job's selector; without one (the API server did not generate it) its uid label.
fn selector_of(job: &Job) -> Selector {
    let set = job.spec.as_ref().and_then(|s| s.selector.as_ref()).and_then(|s| Selector::parse(s).ok());
    set.filter(|s| !s.is_empty()).unwrap_or_else(|| {
        let labels = [(CONTROLLER_UID.to_owned(), uid(job).to_owned())].into();
        let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        };
        Selector::parse(&selector).unwrap_or_default()
    })
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, expectations: &PodExpectations) -> Result<Next, Error> {
    let Some(job) = ctx.jobs.get(key) else { return Ok(Next::OnChange) };
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Next::OnChange);
    }
    if let Some(why) = plan::unsupported(&job) {
        ctx.recorder.event(COMPONENT, job.as_ref(), Severity::Warning, "Unsupported", why);
        return Ok(Next::OnChange);
    }
    let now = Timestamp::now();
    if let Some(left) = plan::time_to_live(&job, now) {
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let same =
            Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version.clone() };
        let api = ctx.api::<Job>(&key.namespace);
        ignore_gone(api.delete(&key.name, &DeleteParams::background().preconditions(same)).await)?;
        return Ok(Next::OnChange);
    }
    let owner: Arc<str> = uid(job.as_ref()).into();
    let settled = settled(ctx, &key.namespace, &owner, expectations).await?;
    let owned = claim::pods(ctx, job.as_ref(), &selector_of(&job)).await?;
    let plan = plan::plan(&job, &owned, now);
    let mut result = Ok(());
    if settled {
        result = delete_pods(ctx, COMPONENT, job.as_ref(), &owner, expectations, &plan.delete).await;
        if result.is_ok() && plan.create > 0 {
            let template = job.spec.clone().unwrap_or_default().template;
            let new = (0..plan.create).map(|_| plan::pod_for(&job, &template, names::generate(&key.name))).collect();
            result = create_pods(ctx, COMPONENT, job.as_ref(), &owner, expectations, new).await;
        }
    }
    if plan::differs(job.status.as_ref(), &plan.status) {
        let patch = json!({"metadata": {"resourceVersion": job.metadata.resource_version}, "status": plan::to_json(&plan.status)});
        let api = ctx.api::<Job>(&key.namespace);
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        for (severity, reason, message) in plan.events {
            ctx.recorder.event(COMPONENT, job.as_ref(), severity, reason, message);
        }
    }
    match result {
        Err(error) if error.is_namespace_terminating() => Ok(Next::OnChange),
        Err(error) => Err(error),
        Ok(()) => Ok(Next::OnChange.sooner(plan.wake.map(|d| d.max(Duration::from_millis(100))))),
    }
}

/// Is the Job over, and how?
pub(crate) fn finished(job: &Job) -> Option<&k8s_openapi::api::batch::v1::JobCondition> {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"))
}

/// Failed runs of one pod that restarts its containers itself.
fn restarts_of(pod: &k8s_openapi::api::core::v1::Pod) -> i32 {
    i32::try_from(pods::restarts(pod)).unwrap_or(i32::MAX)
}
