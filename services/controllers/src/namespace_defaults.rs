//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//!
//! A namespace runs when it changes, or when one of the two is changed or deleted. Pods wait for the
//! first, and the second is mounted into every pod with a token.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use skerry_common::Key;

use crate::context::{Context, ROOT_CA};
use crate::error::Error;
use crate::machinery::cache::Change;
use crate::machinery::queue::WorkQueue;
use crate::machinery::tasks::Tasks;
use crate::machinery::worker::{self, Next};

const COMPONENT: &str = "namespace-defaults";
const DEFAULT: &str = "default";
const CA_KEY: &str = "ca.crt";

/// Registers handlers and spawns workers. `root_ca` is the PEM of the CA of the API server.
pub(crate) fn install(ctx: &Arc<Context>, tasks: &mut Tasks, root_ca: Arc<str>) {
    let queue = Arc::new(WorkQueue::default());
    let q = queue.clone();
    ctx.namespaces.on_change(move |change: &Change<'_, Namespace>| q.add(change.key.clone()));
    let q = queue.clone();
    ctx.service_accounts.on_change(move |change: &Change<'_, ServiceAccount>| {
        if &*change.key.name == DEFAULT && change.new.is_none() {
            q.add(Key::new("", change.key.namespace.clone()));
        }
    });
    let q = queue.clone();
    ctx.root_cas.on_change(move |change: &Change<'_, ConfigMap>| {
        q.add(Key::new("", change.key.namespace.clone()));
    });
    let cache = ctx.namespaces.clone();
    worker::spawn(
        ctx,
        tasks,
        COMPONENT,
        ctx.options.workers,
        &queue,
        move || cache.keys(),
        move |ctx, key| {
            let root_ca = root_ca.clone();
            async move { reconcile(&ctx, &key, &root_ca).await }
        },
    );
}

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

async fn reconcile(ctx: &Arc<Context>, key: &Key, root_ca: &str) -> Result<Next, Error> {
    if ctx.namespaces.get(key).is_none_or(|n| !is_active(&n)) {
        return Ok(Next::OnChange);
    }
    let meta = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(key.name.to_string()),
        ..Default::default()
    };
    if ctx.service_accounts.get(&Key::new(key.name.clone(), DEFAULT)).is_none() {
        let account = ServiceAccount { metadata: meta(DEFAULT), ..Default::default() };
        fine(ctx.api::<ServiceAccount>(&key.name).create(&PostParams::default(), &account).await)?;
    }
    let data = [(CA_KEY.to_owned(), root_ca.to_owned())].into();
    match ctx.root_cas.get(&Key::new(key.name.clone(), ROOT_CA)) {
        Some(map) if map.data.as_ref().and_then(|d| d.get(CA_KEY)).map(String::as_str) == Some(root_ca) => {}
        Some(_) => {
            let patch = json!({"data": data});
            let api = ctx.api::<ConfigMap>(&key.name);
            api.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        None => {
            let map = ConfigMap { metadata: meta(ROOT_CA), data: Some(data), ..Default::default() };
            fine(ctx.api::<ConfigMap>(&key.name).create(&PostParams::default(), &map).await)?;
        }
    }
    Ok(Next::OnChange)
}

/// A create that found the object there, or the namespace going, is fine.
fn fine<T>(result: kube::Result<T>) -> Result<(), Error> {
    match result.map_err(Error::from) {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(()),
        Err(error) => Err(error),
    }
}
