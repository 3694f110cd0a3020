//! What edgehub sends: devices, models, and whether the cloud is there.

use std::sync::Arc;

use serde::Deserialize;
use skerry_common::kinds;
use skerry_hubclient::{Batch, Change};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::node::Node;

/// The kinds that dmi follows; models first, so that a device finds its own.
pub(crate) const KINDS: [&str; 3] = [kinds::LINK, kinds::DEVICE_MODEL, kinds::DEVICE];

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    connected: bool,
}

/// Applies what comes until the sender is gone.
pub(crate) async fn run(node: Arc<Node>, mut batches: mpsc::Receiver<Batch>) -> Error {
    while let Some(Batch { changes, done }) = batches.recv().await {
        let answers = changes.iter().map(|change| apply(&node, change).err()).collect::<Vec<_>>();
        node.metrics.objects_refused.inc_by(answers.iter().flatten().count() as u64);
        node.metrics.devices.set(node.read(|fleet, _| fleet.device_count()).try_into().unwrap_or(i64::MAX));
        // Edgehub's stream is gone when nobody waits; it will send again.
        let _ = done.send(answers);
    }
    Error::TaskEnded("subscription to edgehub")
}

fn apply(node: &Node, change: &Change) -> Result<(), String> {
    match change {
        Change::Upsert { kind: kinds::DEVICE, key, body } => node.change(|fleet, _| fleet.upsert_device(key, body)),
        Change::Upsert { kind: kinds::DEVICE_MODEL, key, body } => {
            node.change(|fleet, _| fleet.upsert_model(key, body))
        }
        Change::Upsert { kind: kinds::LINK, body, .. } => {
            let link: Link = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            node.change(|fleet, _| fleet.set_connected(link.connected));
            Ok(())
        }
        Change::Delete { kind: kinds::DEVICE, key } => {
            node.change(|fleet, _| fleet.delete_device(key));
            Ok(())
        }
        Change::Delete { kind: kinds::DEVICE_MODEL, key } => {
            node.change(|fleet, _| fleet.delete_model(key));
            Ok(())
        }
        Change::InSync { kind } => {
            node.change(|fleet, now| fleet.set_in_sync(kind, now));
            Ok(())
        }
        Change::Upsert { .. } | Change::Delete { .. } => Ok(()),
    }
}
