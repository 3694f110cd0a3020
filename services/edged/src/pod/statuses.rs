//! The newest status of every pod on this node, for whoever asks: admission, eviction, the node's API.
//!
//! Each pod's worker writes its own; anybody reads. A lock is held for a map access only. Invariant: an
//! entry lives as long as its worker. Bounded by the number of pods.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::PodStatus;

/// By uid.
#[derive(Debug, Default)]
pub(crate) struct Statuses(RwLock<BTreeMap<String, Arc<PodStatus>>>);

impl Statuses {
    pub(crate) fn set(&self, uid: &str, status: Arc<PodStatus>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), status);
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodStatus>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Whether the pod has come to its end: nothing of it runs, and nothing will.
    pub(crate) fn ended(&self, uid: &str) -> bool {
        self.get(uid).is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")))
    }
}
