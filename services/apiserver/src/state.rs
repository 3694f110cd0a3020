//! What all handlers share: store, registry, PKI, tokens, RBAC, limits, counters.
//!
//! Made by `Config::build`; held by the router behind an `Arc`. Invariants: the registry is replaced as a
//! whole when a CustomResourceDefinition changes; every limit is a constant here.
//! Limits: the constants below. On a crash all of it is rebuilt from the data directory.

use crate::auth::{Rbac, Tokens};
use crate::custom::Schemas;
use crate::kubelet::Kubelets;
use crate::metrics::Metrics;
use crate::pki::Pki;
use crate::services::Allocator;
use crate::snapshots::Snapshots;
use crate::storage::{Storage, WriteError};
use serde_json::Value;
use skerry_apimachinery::{ApiError, Entry, Filter, Registry, Resource};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Largest request body, in bytes: as kube-apiserver's.
pub(crate) const MAX_BODY: usize = 3 << 20;
/// Watches open at once.
pub(crate) const MAX_WATCHERS: usize = 20_000;
/// Other requests under way at once; more are told to come back (429).
pub(crate) const MAX_REQUESTS: usize = 2_000;
/// Largest page of a list; a larger limit is cut. Lists without a limit are streamed.
pub(crate) const MAX_PAGE: usize = 10_000;
/// A request that is no watch is over by then: its body has come and its write is committed.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(60);
/// How long a watch lives when the client does not say.
pub(crate) const WATCH_TIME: Duration = Duration::from_secs(45 * 60);
/// Longest watch.
pub(crate) const MAX_WATCH_TIME: Duration = Duration::from_secs(24 * 3600);
/// How often a watcher that asked for bookmarks gets one.
pub(crate) const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// How often a write that lost against another one is tried again.
pub(crate) const MAX_RETRIES: usize = 16;

/// Where CustomResourceDefinitions are stored.
pub(crate) const CRD: &str = "apiextensions.k8s.io/customresourcedefinitions";

pub(crate) struct Api {
    pub(crate) storage: Storage,
    pub(crate) registry: RwLock<Arc<Registry>>,
    pub(crate) schemas: RwLock<Arc<Schemas>>,
    pub(crate) pki: Arc<Pki>,
    pub(crate) tokens: Tokens,
    pub(crate) rbac: Rbac,
    pub(crate) addresses: Allocator,
    pub(crate) snapshots: Snapshots,
    pub(crate) metrics: Metrics,
    pub(crate) kubelets: Option<Kubelets>,
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) stopping: CancellationToken,
}

impl Api {
    /// The way to the kubelets.
    pub(crate) fn kubelets(&self) -> Result<&Kubelets, ApiError> {
        let none = || ApiError::Unavailable("this API server has no credentials for kubelets".into());
        self.kubelets.as_ref().ok_or_else(none)
    }

    /// The resources that are served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stored CustomResourceDefinitions.
    pub(crate) fn definitions(&self) -> Vec<Value> {
        self.storage.cache(CRD).snapshot(&Filter::default()).entries.iter().map(|entry| entry.value()).collect()
    }

    /// The schemas of the custom resources that are served now.
    pub(crate) fn schemas(&self) -> Arc<Schemas> {
        self.schemas.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the definitions again.
    pub(crate) fn reload_registry(&self) {
        let definitions = self.definitions();
        let schemas = Arc::new(Schemas::new(&definitions, &self.schemas()));
        *self.schemas.write().unwrap_or_else(PoisonError::into_inner) = schemas;
        let fresh = Arc::new(Registry::new(&definitions));
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// One object.
    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.storage.get(&resource.storage, namespace, name)
    }
}

/// The API error for a write that failed, about an object.
pub(crate) fn write_error(error: WriteError, resource: &Resource, name: &str) -> ApiError {
    let about = skerry_apimachinery::About::new(&resource.group, &resource.plural, name);
    match error {
        WriteError::Exists => ApiError::AlreadyExists(about),
        WriteError::Missing => ApiError::NotFound(about),
        WriteError::Changed => ApiError::Conflict {
            about,
            message: "the object has been modified; please apply your changes to the latest version and try again"
                .into(),
        },
        WriteError::Full => ApiError::Unavailable("the disk of the API server is full; nothing was changed".into()),
        WriteError::Failed(why) => ApiError::Internal(why),
        WriteError::Stopped => ApiError::Unavailable("the API server is stopping".into()),
    }
}
