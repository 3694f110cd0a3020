//! Small questions about pods and owners that several controllers ask.
//!
//! Pure; time is passed in.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// The phase, or "" when the pod has no status yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Has the pod run to its end?
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Does the pod count as a replica: neither finished nor being deleted?
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The node that the pod is bound to.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

/// The condition of this type.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default().iter().find(|c| c.type_ == type_)
}

/// Is the pod Ready?
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod is Ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0)
}

/// Has the pod been Ready for `min_ready` seconds? `Err` gives the seconds that are missing.
pub(crate) fn available(pod: &Pod, min_ready: i32, now: Timestamp) -> Result<(), Option<u64>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready <= 0 {
        return Ok(());
    }
    let Some(since) = ready_since(pod) else { return Err(None) };
    let missing = i64::from(min_ready) - now.duration_since(since).as_secs();
    if missing <= 0 { Ok(()) } else { Err(Some(missing.unsigned_abs())) }
}

/// The owner that controls an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Is `meta` controlled by an object of this kind with this uid?
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|o| o.uid == uid)
}

/// The owner reference by which `owner` controls its dependents.
pub(crate) fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The uid, or "" for an object that the API has not stored.
pub(crate) fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The name, or "".
pub(crate) fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// The namespace, or "".
pub(crate) fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// Restarts of all containers together.
pub(crate) fn restarts(pod: &Pod) -> i64 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|c| i64::from(c.restart_count)).sum()
}

/// A pod of `template`, owned by `owner`.
pub(crate) fn from_template<K: Resource<DynamicType = ()>>(
    owner: &K,
    name: String,
    template: &k8s_openapi::api::core::v1::PodTemplateSpec,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let prefix = name.rsplit_once('-').map(|(prefix, _)| format!("{prefix}-"));
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: prefix,
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
