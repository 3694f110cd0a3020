//! One informer per kind: the API's list and watch, into the cache.
//!
//! Each runs as one task until cancelled. Built on `kube::runtime::watcher` (paged lists, bookmarks, resume,
//! re-list on 410, its default backoff). Invariants: only a watched DELETE deletes; a key that a re-list has
//! not is handed to the confirmer (N5); a kind is synced when its first list ended, and stays so. A kind
//! outside the core group that the API server does not serve counts as synced and empty, and is tried again.
//!
//! "Synced" lets a node conclude from what is missing, so a first list that is empty needs a second proof:
//! the namespace that every cluster has is there by name, and the kind is empty when it is asked for in other
//! ways ([`KubeApi::is_empty`]). Without it the kind is listed again, and nodes are told nothing meanwhile.
//! (A storage that was emptied has no CA of ours either; one that is made anew is trusted by no node.)
//! Limits: pages of [`PAGE`]. After a crash everything is listed again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event};
use skerry_common::{Backoff, Key};
use skerry_telemetry::Task;

use crate::api::{ApiError, KubeApi};
use crate::cache::Cache;
use crate::confirm::Confirm;
use crate::kinds::Kind;
use crate::metrics::{KindLabel, Metrics};
use crate::subs::Subs;
use crate::trim::trim;

/// Objects per page: the default of client-go.
const PAGE: u32 = 500;

/// How soon a watch that the server cannot resume is listed again, and at most.
const RELIST_MIN: Duration = Duration::from_millis(200);
const RELIST_MAX: Duration = Duration::from_secs(10);

/// How soon a kind that the server does not serve is asked for again.
const MISSING_KIND_RETRY: Duration = Duration::from_secs(60);

/// A namespace of every cluster.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Who looks at objects as the API has them, before they are trimmed.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// The object is so now; `None`: it is gone. Called from the informers' tasks: it must not block.
    fn seen(&self, kind: Kind, key: &Key, object: Option<&DynamicObject>);
}

/// Everything that the informers work with.
#[derive(Debug, Clone)]
pub struct Informer {
    /// What is watched.
    pub api: KubeApi,
    /// What is filled.
    pub cache: Cache,
    /// Proves what a list lacks.
    pub confirm: Arc<Confirm>,
    /// Who are told.
    pub subs: Arc<Subs>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Sees every object.
    pub observer: Arc<dyn Observer>,
}

/// Why a watcher has to be made anew.
enum Restart {
    /// The server cannot resume.
    Gone,
    /// The server does not know the kind.
    Missing,
}

impl Informer {
    /// Watches a kind until cancelled. `task` is ready with the first list.
    pub async fn run(self, kind: Kind, task: Task) {
        let Some(resource) = kind.resource() else { return };
        let mut task = Some(task);
        let mut backoff = Backoff::new(RELIST_MIN, RELIST_MAX);
        loop {
            let started = tokio::time::Instant::now();
            match self.watch(kind, &resource, &mut task).await {
                Restart::Gone => {
                    if started.elapsed() > RELIST_MAX {
                        backoff.reset();
                    }
                    tokio::time::sleep(backoff.jittered()).await;
                }
                // Only something that is not the cluster's API lacks these.
                Restart::Missing if resource.group.is_empty() || !self.is_cluster(kind).await => {
                    tokio::time::sleep(backoff.jittered()).await;
                }
                Restart::Missing => {
                    tracing::warn!(kind = kind.as_str(), "the API server does not serve this kind");
                    self.cache.init(kind);
                    self.listed(kind, &mut task);
                    tokio::time::sleep(MISSING_KIND_RETRY).await;
                }
            }
        }
    }

    async fn watch(&self, kind: Kind, resource: &ApiResource, task: &mut Option<Task>) -> Restart {
        let api: Api<DynamicObject> = Api::all_with(self.api.client(), resource);
        let config = Config { page_size: Some(PAGE), ..Config::default() };
        let mut events = pin!(watcher::watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone) if self.cache.read().first_list_is_empty(kind) && !self.is_empty(kind).await => {
                    tracing::warn!(kind = kind.as_str(), "an empty list is not believed without a second proof");
                    return Restart::Gone;
                }
                Ok(event) => self.event(kind, resource, event, task),
                Err(error) => {
                    tracing::warn!(kind = kind.as_str(), error = skerry_common::chain(&error), "watch interrupted");
                    match api_code(&error) {
                        // The watcher would start again at a version that the server has forgotten.
                        Some((410, _)) => return Restart::Gone,
                        Some((404, true)) => return Restart::Missing,
                        _ => {}
                    }
                }
            }
        }
        Restart::Gone
    }

    /// The second proof for a first list that was empty.
    async fn is_empty(&self, kind: Kind) -> bool {
        self.is_cluster(kind).await && self.told(kind, self.api.is_empty(kind).await)
    }

    /// Whether what answers is a cluster with its storage.
    async fn is_cluster(&self, kind: Kind) -> bool {
        let system = self.api.get(Kind::Namespace, &Key::new("", SYSTEM_NAMESPACE)).await;
        self.told(kind, system.map(|namespace| namespace.is_some()))
    }

    fn told(&self, kind: Kind, answer: Result<bool, ApiError>) -> bool {
        answer.unwrap_or_else(|error| {
            tracing::warn!(kind = kind.as_str(), error = skerry_common::chain(&error), "cannot prove an empty list");
            false
        })
    }

    fn event(&self, kind: Kind, resource: &ApiResource, event: Event<DynamicObject>, task: &mut Option<Task>) {
        let label = KindLabel { kind: kind.as_str() };
        if !matches!(event, Event::Init | Event::InitDone) {
            self.metrics.changes_in.get_or_create(&label).inc();
        }
        let wakes = match event {
            Event::Init => {
                self.cache.init(kind);
                if task.is_none() {
                    self.metrics.resyncs.get_or_create(&label).inc();
                }
                return;
            }
            Event::InitDone => return self.listed(kind, task),
            Event::InitApply(object) => {
                let Some(key) = self.seen(kind, &object) else { return };
                match trim(kind, resource, object) {
                    Some(trimmed) => self.cache.init_apply(kind, trimmed),
                    None => return self.unseen(kind, key, true),
                }
            }
            Event::Apply(object) => {
                let Some(key) = self.seen(kind, &object) else { return };
                match trim(kind, resource, object) {
                    Some(trimmed) => self.cache.apply(kind, trimmed),
                    None => return self.unseen(kind, key, false),
                }
            }
            Event::Delete(object) => match key_of(&object) {
                Some(key) => {
                    self.observer.seen(kind, &key, None);
                    self.cache.delete(kind, &key)
                }
                None => return,
            },
        };
        self.subs.dispatch(&wakes);
    }

    /// An object that no node may see: a pod that is not bound. One that we knew under its name is gone.
    fn unseen(&self, kind: Kind, key: Key, listing: bool) {
        if self.cache.read().get(kind, &key).is_some() {
            let wakes = self.cache.delete(kind, &key);
            self.subs.dispatch(&wakes);
        }
        if listing {
            self.cache.init_seen(kind, key);
        }
    }

    fn listed(&self, kind: Kind, task: &mut Option<Task>) {
        let (wakes, suspects) = self.cache.init_done(kind);
        if !suspects.is_empty() {
            tracing::warn!(kind = kind.as_str(), missing = suspects.len(), "a list lacks known keys, asking by name");
        }
        for key in suspects {
            self.confirm.ask(kind, key);
        }
        self.subs.dispatch(&wakes);
        if let Some(task) = task.take() {
            let (objects, bytes) = self.cache.read().size(kind);
            tracing::info!(kind = kind.as_str(), objects, bytes, "listed");
            task.ready();
        }
    }

    fn seen(&self, kind: Kind, object: &DynamicObject) -> Option<Key> {
        let key = key_of(object)?;
        self.observer.seen(kind, &key, Some(object));
        Some(key)
    }
}

pub(crate) fn key_of(object: &DynamicObject) -> Option<Key> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    Key::checked(namespace, object.metadata.name.as_deref().unwrap_or_default()).ok()
}

/// HTTP status of a watcher's error, and whether the list failed (not the watch).
fn api_code(error: &watcher::Error) -> Option<(u16, bool)> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => Some((status.code, true)),
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some((status.code, false)),
        watcher::Error::WatchError(status) => Some((status.code, false)),
        _ => None,
    }
}
