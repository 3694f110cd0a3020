//! Tells the registry of sessions which nodes are here, and hears whom to end.
//!
//! The registry learns the present state of each node whose session changed, never a history. After
//! every reconnect it gets all sessions anew.

use std::sync::Arc;

use skerry_common::{Backoff, NodeName};
use skerry_identity::{RevocationPublisher, RevocationSet};
use skerry_proto::hub::v1 as pb;
use skerry_proto::hub::v1::hub_update::Message as Up;
use skerry_proto::hub::v1::registry_client::RegistryClient;
use skerry_proto::hub::v1::registry_update::Message as DownMessage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sessions::{Session, Sessions};
use crate::upstream::{self, Upstream, agent};

/// Updates that wait for the registry.
const QUEUE: usize = 256;

/// Changes that are read at a time.
const BATCH: usize = 128;

/// The link to the registry.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) hub: String,
    pub(crate) channel: skerry_rpc::Channel,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) revocations: RevocationPublisher,
}

impl Registry {
    async fn send(&self, updates: mpsc::Sender<pb::HubUpdate>) {
        let hello = Up::Hello(pb::HubHello { hub: self.hub.clone(), agent: agent() });
        if updates.send(update(hello)).await.is_err() {
            return;
        }
        self.sessions.all_changed();
        let mut snapshot = true;
        loop {
            let changes = self.sessions.changes(BATCH);
            if changes.is_empty() {
                if std::mem::take(&mut snapshot) {
                    if updates.send(update(Up::SnapshotDone(pb::SnapshotDone {}))).await.is_err() {
                        return;
                    }
                    continue;
                }
                self.sessions.wait().await;
            }
            for node in changes {
                let message = match self.sessions.get(&node) {
                    Some(session) => Up::Joined(describe(&session)),
                    None => Up::Left(pb::SessionLeft { node: node.to_string(), session: 0, reason: String::new() }),
                };
                if updates.send(update(message)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn update(&self, update: pb::RegistryUpdate) {
        match update.message {
            Some(DownMessage::Fence(fence)) => {
                if let Ok(node) = NodeName::parse(&fence.node) {
                    self.sessions.fence(&node, fence.session);
                }
            }
            // Whoever serves connections watches the list and ends those that are on it.
            Some(DownMessage::Revocations(list)) => {
                let fingerprints = list.key_fingerprints.into_iter().collect();
                self.revocations.set(RevocationSet { fingerprints, ..RevocationSet::default() });
            }
            None => {}
        }
    }
}

impl Upstream for Registry {
    async fn connect(&self, backoff: &mut Backoff) -> String {
        let (updates, queue) = mpsc::channel(QUEUE);
        let mut client = RegistryClient::new(self.channel.clone());
        let mut stream = match client.connect(ReceiverStream::new(queue)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        backoff.reset();
        tokio::select! {
            reason = upstream::each(&mut stream, |update| self.update(update)) => reason,
            () = self.send(updates) => "the stream to the registry is closed".to_owned(),
        }
    }

    fn ended(&self, reason: &str) {
        tracing::warn!(reason, "registry not connected");
    }
}

/// A session as it is told to others.
pub(crate) fn describe(session: &Session) -> pb::Session {
    pb::Session {
        node: session.node.to_string(),
        session: session.number,
        connected_unix_ms: session.connected_unix_ms,
        remote: session.remote.map(|remote| remote.to_string()).unwrap_or_default(),
        agent: session.agent.to_string(),
    }
}

fn update(message: Up) -> pb::HubUpdate {
    pb::HubUpdate { message: Some(message) }
}
