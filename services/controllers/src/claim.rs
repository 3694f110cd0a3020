//! Which pods belong to a workload: adopt what matches and has no owner, release what no longer matches.
//!
//! Called by the ReplicaSet, DaemonSet and Job controllers at the start of a reconcile. Every write
//! carries the resourceVersion that the decision was made from, so it fails when the pod has changed.
//! Before the first adoption the owner is read from the API, not from the cache: an owner that is being
//! deleted must not adopt what its deletion has just orphaned.

use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;

use crate::context::{Context, pods_by};
use crate::error::{Error, ignore_gone};
use crate::labels::Selector;
use crate::pods::{controller_of, controller_ref, name, namespace, uid};

/// Index value under which pods without a controller are found.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

/// What to do with one object.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Claim {
    /// It is ours.
    Keep,
    /// It has no owner and matches: make it ours.
    Adopt,
    /// It is ours but does not match any more: let it go.
    Release,
    /// It is none of our business.
    Ignore,
}

/// The decision for one object; pure.
pub(crate) fn decide(meta: &ObjectMeta, owner_uid: &str, owner_deleting: bool, selector: &Selector) -> Claim {
    let matches = selector.matches(meta.labels.as_ref());
    match controller_of(meta) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || meta.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The owner references of `meta` without the owner `uid`.
pub(crate) fn without_owner(meta: &ObjectMeta, uid: &str) -> Vec<OwnerReference> {
    meta.owner_references.iter().flatten().filter(|o| o.uid != uid).cloned().collect()
}

/// All pods of `owner`, after adopting and releasing.
pub(crate) async fn pods<K>(ctx: &Context, owner: &K, selector: &Selector) -> Result<Vec<Arc<Pod>>, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let (space, owner_uid) = (namespace(owner), uid(owner));
    let deleting = owner.meta().deletion_timestamp.is_some();
    let mut candidates = ctx.pods.by_index(pods_by::CONTROLLER, owner_uid);
    candidates.extend(ctx.pods.by_index(pods_by::CONTROLLER, &orphans_of(space)));
    let mut mine = Vec::new();
    let mut checked = false;
    let api = ctx.api::<Pod>(space);
    for pod in candidates {
        match decide(&pod.metadata, owner_uid, deleting, selector) {
            Claim::Keep => mine.push(pod),
            Claim::Ignore => {}
            Claim::Release => {
                let rest = without_owner(&pod.metadata, owner_uid);
                let patch = owners_patch(&pod.metadata, &rest);
                ignore_gone(api.patch(name(pod.as_ref()), &PatchParams::default(), &Patch::Merge(patch)).await)?;
            }
            Claim::Adopt => {
                if !checked {
                    still_alive(ctx, owner).await?;
                    checked = true;
                }
                let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                owners.push(controller_ref(owner));
                let patch = owners_patch(&pod.metadata, &owners);
                let done = api.patch(name(pod.as_ref()), &PatchParams::default(), &Patch::Merge(patch)).await;
                if let Some(adopted) = ignore_gone(done)? {
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(mine)
}

/// A merge patch that sets the owner references, if the object is still the one in `meta`.
pub(crate) fn owners_patch(meta: &ObjectMeta, owners: &[OwnerReference]) -> serde_json::Value {
    serde_json::json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
    }})
}

/// Is the owner, read from the API, the same object and not being deleted?
pub(crate) async fn still_alive<K>(ctx: &Context, owner: &K) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let live = ctx.api::<K>(namespace(owner)).get(name(owner)).await?;
    if uid(&live) == uid(owner) && live.meta().deletion_timestamp.is_none() { Ok(()) } else { Err(Error::Stale) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn decisions() {
        let selector = Selector::parse(&serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap()).unwrap();
        let meta = |owner: Option<&str>, app: &str, deleting: bool| -> ObjectMeta {
            let mut meta = json!({"name": "p", "labels": {"app": app}});
            if let Some(owner) = owner {
                meta["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
                    "uid": owner, "controller": true}]);
            }
            if deleting {
                meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(meta).unwrap()
        };
        for (object, owner_deleting, expected) in [
            (meta(Some("me"), "a", false), false, Claim::Keep),
            (meta(Some("me"), "a", true), false, Claim::Keep),
            (meta(Some("me"), "b", false), false, Claim::Release),
            (meta(Some("me"), "b", false), true, Claim::Ignore),
            (meta(Some("other"), "a", false), false, Claim::Ignore),
            (meta(None, "a", false), false, Claim::Adopt),
            (meta(None, "a", true), false, Claim::Ignore),
            (meta(None, "a", false), true, Claim::Ignore),
            (meta(None, "b", false), false, Claim::Ignore),
        ] {
            assert_eq!(decide(&object, "me", owner_deleting, &selector), expected, "{object:?}");
        }
    }
}
