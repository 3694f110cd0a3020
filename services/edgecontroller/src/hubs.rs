//! What is to be told to each hub: fences and the list of revoked keys.
//!
//! Filled by `sessions` and by the revocation watch, emptied by each hub's Registry stream. Level
//! triggered: of several fences of one node only the newest is kept, so that a slow hub costs one entry per
//! node at most.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_common::NodeName;
use skerry_kubesync::OnFence;
use tokio::sync::Notify;

/// The outgoing side of one hub.
#[derive(Debug, Default)]
pub(crate) struct HubOut {
    fences: Mutex<BTreeMap<NodeName, u64>>,
    notify: Notify,
}

impl HubOut {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, u64>> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells this hub about one fence.
    pub(crate) fn fence(&self, node: &NodeName, session: u64) {
        let mut fences = self.lock();
        let newest = fences.entry(node.clone()).or_insert(session);
        *newest = session.max(*newest);
        drop(fences);
        self.notify.notify_one();
    }

    /// Waits for the next fence. Cancel safe.
    pub(crate) async fn next(&self) -> (NodeName, u64) {
        loop {
            let notified = self.notify.notified();
            if let Some(fence) = self.lock().pop_first() {
                return fence;
            }
            notified.await;
        }
    }
}

/// All hubs.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    hubs: Mutex<HashMap<u64, Arc<HubOut>>>,
}

impl Hubs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<HubOut>>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, connection: u64) -> Arc<HubOut> {
        let out = Arc::new(HubOut::default());
        self.lock().insert(connection, Arc::clone(&out));
        out
    }

    pub(crate) fn remove(&self, connection: u64) {
        self.lock().remove(&connection);
    }
}

impl OnFence for Hubs {
    fn fence(&self, node: &NodeName, session: u64) {
        for hub in self.lock().values() {
            hub.fence(node, session);
        }
    }
}
