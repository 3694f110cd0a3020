//! Where the graph of owners gets its objects from.
//!
//! Kinds that other controllers watch come from their caches; every other kind that discovery shows gets
//! one metadata watch. Discovery is repeated every `discovery_period`, so custom resources are collected
//! too. A kind that vanishes from discovery loses its watch and its items; its objects cannot be asked
//! for any more, so nothing that they own is deleted.
//!
//! Limits: [`MAX_KINDS`] watches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use super::Gc;
use super::graph::Item;
use crate::context::Context;
use crate::machinery::cache::{Cache, Change};
use crate::machinery::informer;
use crate::machinery::lock;
use crate::machinery::tasks::Tasks;
use crate::namespace::kinds;

/// Most kinds with a metadata watch of their own.
const MAX_KINDS: usize = 500;
/// How long to wait before discovery is tried again after a failure.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

type Meta = PartialObjectMeta<DynamicObject>;

/// Feeds the graph from the shared caches and follows discovery.
pub(super) fn install(ctx: &Arc<Context>, tasks: &mut Tasks, gc: &Arc<Gc>) {
    let mut shared = HashSet::new();
    from_cache(gc, &ctx.pods, &mut shared);
    from_cache(gc, &ctx.nodes, &mut shared);
    from_cache(gc, &ctx.leases, &mut shared);
    from_cache(gc, &ctx.replica_sets, &mut shared);
    from_cache(gc, &ctx.deployments, &mut shared);
    from_cache(gc, &ctx.daemon_sets, &mut shared);
    from_cache(gc, &ctx.jobs, &mut shared);
    from_cache(gc, &ctx.services, &mut shared);
    from_cache(gc, &ctx.slices, &mut shared);
    from_cache(gc, &ctx.namespaces, &mut shared);
    from_cache(gc, &ctx.service_accounts, &mut shared);
    tasks.spawn("garbage-collector discovery", follow(ctx.clone(), gc.clone(), shared));
}

fn on_change<K>(gc: &Arc<Gc>, cache: &Cache<K>, resource: ApiResource)
where
    K: Resource + Send + Sync + 'static,
{
    let (gc, resource) = (gc.clone(), Arc::new(resource));
    cache.on_change(move |change: &Change<'_, K>| {
        let mut look = Vec::new();
        {
            let mut graph = lock(&gc.graph);
            let uid = |o: &Arc<K>| o.meta().uid.clone();
            if let Some(old) = change.old.and_then(uid)
                && change.new.and_then(uid).as_ref() != Some(&old)
            {
                look.extend(graph.remove(&old));
            }
            if let Some(item) = change.new.and_then(|o| Item::new(&resource, o.meta())) {
                look.extend(graph.put(item));
            }
        }
        gc.enqueue(look);
    });
}

fn from_cache<K>(gc: &Arc<Gc>, cache: &Cache<K>, shared: &mut HashSet<(String, String)>)
where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let resource = ApiResource::erase::<K>(&());
    shared.insert((resource.group.clone(), resource.plural.clone()));
    on_change(gc, cache, resource);
}

struct Source {
    cache: Arc<Cache<Meta>>,
    task: AbortHandle,
}

/// Events own nothing and are many.
fn ignored(resource: &ApiResource) -> bool {
    resource.plural == "events"
}

async fn follow(ctx: Arc<Context>, gc: Arc<Gc>, shared: HashSet<(String, String)>) {
    let mut watches = JoinSet::new();
    let mut sources: HashMap<(String, String), Source> = HashMap::new();
    loop {
        match Discovery::new(ctx.client.clone()).run().await {
            Ok(discovery) => {
                let found = kinds(&discovery);
                let named = found.iter().map(|(r, c)| (r.clone(), c.scope == Scope::Namespaced)).collect();
                *gc.kinds.write().unwrap_or_else(std::sync::PoisonError::into_inner) = named;
                gc.discovered.send_replace(true);
                let wanted: HashMap<_, _> = found
                    .into_iter()
                    .filter(|(r, c)| {
                        [verbs::LIST, verbs::WATCH, verbs::DELETE].iter().all(|v| c.supports_operation(v))
                            && !ignored(r)
                    })
                    .map(|(r, _)| ((r.group.clone(), r.plural.clone()), r))
                    .filter(|(id, _)| !shared.contains(id))
                    .take(MAX_KINDS)
                    .collect();
                sources.retain(|id, source| {
                    let keep = wanted.contains_key(id);
                    if !keep {
                        source.task.abort();
                        for object in source.cache.list() {
                            lock(&gc.graph).remove(&object.uid().unwrap_or_default());
                        }
                    }
                    keep
                });
                for (id, resource) in wanted {
                    sources.entry(id).or_insert_with(|| {
                        let cache = Cache::new(Vec::new());
                        on_change(&gc, &cache, resource.clone());
                        let api: Api<Meta> = Api::all_with(ctx.client.clone(), &resource);
                        let task = watches.spawn(informer::run(api, watcher::Config::default(), cache.clone(), trim));
                        Source { cache, task }
                    });
                }
                while watches.try_join_next().is_some() {}
            }
            Err(error) => {
                tracing::warn!(cause = %skerry_common::chain(&error), "discovery failed, trying again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        if !*gc.complete.borrow() {
            ctx.wait_synced().await;
            let all = async {
                for source in sources.values() {
                    source.cache.wait_synced().await;
                }
            };
            if tokio::time::timeout(ctx.options.discovery_period, all).await.is_ok() {
                gc.complete.send_replace(true);
            } else {
                tracing::warn!("not all kinds can be listed, orphaning waits for them");
            }
        }
        tokio::time::sleep(ctx.options.discovery_period).await;
    }
}

fn trim(object: &mut Meta) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    object.metadata.labels = None;
}
