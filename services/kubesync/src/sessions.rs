//! Which session of a node may speak: the newest that anybody here has seen.
//!
//! Called by all three streams (Source, Sink, Registry) before they do anything for a node. Admitting a
//! newer session ends the older one's subscriptions at once and tells [`OnFence`]. The newest session is also
//! the annotation [`SESSION`] of the node's Lease, which EdgeController writes with a precondition before the first API write of
//! a session; so a restart, or another replica, fences as well.
//! Limits: one number per node ever seen since the start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::NodeName;
use skerry_proto::sync::v1::CloseCode;
use skerry_sync::{Admit, Fence, Stale};

use crate::cache::Cache;
use crate::kinds::Scope;
use crate::metrics::Metrics;
use crate::subs::Subs;

/// Annotation of a node's Lease: its newest session.
pub const SESSION: &str = "skerry.io/session";

/// Who wants to know that older sessions of a node must end.
pub trait OnFence: std::fmt::Debug + Send + Sync {
    /// Sessions of the node below this number are over.
    fn fence(&self, node: &NodeName, session: u64);
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    fence: Mutex<Fence>,
    subs: Arc<Subs>,
    cache: Cache,
    on_fence: Option<Arc<dyn OnFence>>,
    metrics: Arc<Metrics>,
}

impl Sessions {
    /// `on_fence` is told whenever sessions older than a number must end.
    pub fn new(subs: Arc<Subs>, cache: Cache, on_fence: Option<Arc<dyn OnFence>>, metrics: Arc<Metrics>) -> Self {
        Self { fence: Mutex::default(), subs, cache, on_fence, metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Fence> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May this session speak? A newer one ends the older.
    pub fn admit(&self, node: &NodeName, session: u64) -> Result<(), Stale> {
        let admit = self.lock().admit(node, session);
        match admit {
            Ok(Admit::Same) => Ok(()),
            Ok(Admit::Newer) => {
                self.end_older(node, session);
                Ok(())
            }
            Err(stale) => {
                self.metrics.refuse("stale_session");
                tracing::info!(%node, session, newest = stale.newest, "session is fenced");
                Err(stale)
            }
        }
    }

    /// Whether it is still the newest, right before a write.
    pub fn is_current(&self, node: &NodeName, session: u64) -> bool {
        self.lock().is_current(node, session)
    }

    /// Takes over what a Lease says.
    pub fn seed(&self, node: &NodeName, session: u64) {
        self.lock().seed(node.clone(), session);
        self.end_older(node, session);
    }

    fn end_older(&self, node: &NodeName, session: u64) {
        for old in self.subs.take_older(node, session) {
            if old.kind.scope() == Scope::Bound {
                self.cache.undeclare(node);
            }
            if old.close() {
                old.stream.send_closed(old.id, CloseCode::StaleSession, "a newer session exists", session);
            }
        }
        if let Some(on_fence) = &self.on_fence {
            on_fence.fence(node, session);
        }
    }
}
