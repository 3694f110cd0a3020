//! Brings a node's Ready condition back when its link comes back.
//!
//! While a node is away the control plane sets its conditions to Unknown; the node does not know and has no
//! reason to report. When it is connected again, what it reported last is written again. The node is also
//! told: its own Node, as sent down, carries the Unknown (`trim`), so it reports anew where this process
//! remembers nothing.
//!
//! Called by the registry (a node joined), the informer (a Node became Unknown) and the sink (a status was
//! written). One task works. Limits: the last status of at most [`REMEMBERED`] nodes of [`MAX_STATUS`] bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Map, Value};
use skerry_common::{Key, NodeName};
use skerry_kubesync::{Cache, Facts, Kind, NodeFacts, Observer, Trimmed, WorkSet};
use tokio::sync::mpsc;

use crate::apply::Applier;

/// Nodes whose conditions are remembered.
const REMEMBERED: usize = 50_000;

/// A larger status is not remembered; real ones have 2 to 20 KiB, of which the conditions are 1 KiB.
const MAX_STATUS: usize = 256 << 10;

/// Sees in the informer which Nodes became Unknown.
#[derive(Debug)]
pub(crate) struct UnknownNodes(pub(crate) mpsc::Sender<Key>);

impl Observer for UnknownNodes {
    fn seen(&self, kind: Kind, key: &Key, object: Option<&DynamicObject>) {
        if kind == Kind::Node && object.is_some_and(|node| NodeFacts::of(&node.data).ready_unknown) {
            // Full: the node's own next report does the same later.
            let _ = self.0.try_send(key.clone());
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Revive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Cache,
    wanted: WorkSet<NodeName>,
    /// The conditions as they were reported, serialized.
    last: Mutex<HashMap<NodeName, Box<[u8]>>>,
}

impl Revive {
    pub(crate) fn new(cache: Cache) -> Self {
        Self(Arc::new(Inner { cache, wanted: WorkSet::default(), last: Mutex::default() }))
    }

    /// A status was written.
    pub(crate) fn remember(&self, node: &NodeName, status: &Map<String, Value>, bytes: usize) {
        let Some(conditions) = status.get("conditions").filter(|_| bytes <= MAX_STATUS) else { return };
        let Ok(conditions) = serde_json::to_vec(conditions) else { return };
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() < REMEMBERED || last.contains_key(node) {
            last.insert(node.clone(), conditions.into_boxed_slice());
        }
    }

    /// The node may need it.
    pub(crate) fn look(&self, node: &NodeName) {
        if self.is_unknown(node) {
            self.0.wanted.push(node.clone());
        }
    }

    fn is_unknown(&self, node: &NodeName) -> bool {
        let cache = self.0.cache.read();
        let object = cache.get(Kind::Node, &Key::new("", node.as_str()));
        matches!(object, Some(Trimmed { facts: Facts::Node(facts), .. }) if facts.ready_unknown)
    }

    fn status(&self, node: &NodeName) -> Option<Map<String, Value>> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conditions: Value = serde_json::from_slice(last.get(node)?).ok()?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for condition in conditions.as_array_mut()? {
            // Its hub heard it just now.
            condition.as_object_mut()?.insert("lastHeartbeatTime".to_owned(), now.clone().into());
        }
        Some([("conditions".to_owned(), conditions)].into_iter().collect())
    }
}

/// Works until cancelled.
pub(crate) async fn run(revive: Revive, applier: Arc<Applier>, mut unknown: mpsc::Receiver<Key>) {
    loop {
        let node = tokio::select! {
            node = revive.0.wanted.pop() => node,
            Some(key) = unknown.recv() => match NodeName::parse(&key.name) {
                Ok(node) => node,
                Err(_) => continue,
            },
        };
        let connected = applier.leases.presence().is_connected(&node);
        if !connected || !revive.is_unknown(&node) {
            continue;
        }
        let Some(status) = revive.status(&node) else { continue };
        match applier.revive_node(&node, &status).await {
            Ok(()) => tracing::info!(%node, "node is back, its conditions are restored"),
            Err(error) => tracing::warn!(%node, error = skerry_common::chain(&error), "conditions not restored"),
        }
    }
}
