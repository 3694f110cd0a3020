//! Tells the registry of sessions which nodes are here, and hears whom to end.
//!
//! The registry learns the present state of each node whose session changed, never a history. After
//! every reconnect it gets all sessions anew.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, NodeName, drain};
use skerry_identity::{RevocationPublisher, RevocationSet};
use skerry_proto::hub::v1 as pb;
use skerry_proto::hub::v1::hub_update::Message as Up;
use skerry_proto::hub::v1::registry_client::RegistryClient;
use skerry_proto::hub::v1::registry_update::Message as DownMessage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sessions::{Session, Sessions};

/// Updates that wait for the registry.
const QUEUE: usize = 256;

/// Changes that are read at a time.
const BATCH: usize = 128;

/// Waits between attempts to reach the registry.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// The link to the registry.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) hub: String,
    pub(crate) channel: skerry_rpc::Channel,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) revocations: RevocationPublisher,
}

impl Registry {
    /// Keeps the link until told to stop.
    pub(crate) async fn run(self, mut stop: drain::Watch) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let reason = tokio::select! {
                reason = self.connect(&mut backoff) => reason,
                _ = stop.stopped() => return,
            };
            tracing::warn!(reason, "registry not connected");
            tokio::select! {
                () = tokio::time::sleep(backoff.jittered()) => {}
                _ = stop.stopped() => return,
            }
        }
    }

    async fn connect(&self, backoff: &mut Backoff) -> String {
        let (updates, queue) = mpsc::channel(QUEUE);
        let mut client = RegistryClient::new(self.channel.clone());
        let mut stream = match client.connect(ReceiverStream::new(queue)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        backoff.reset();
        let send = self.send(updates);
        let receive = async {
            loop {
                match stream.message().await {
                    Ok(Some(update)) => self.update(update),
                    Ok(None) => return "the registry ended the stream".to_owned(),
                    Err(status) => return status.message().to_owned(),
                }
            }
        };
        tokio::select! {
            reason = receive => reason,
            () = send => "the stream to the registry is closed".to_owned(),
        }
    }

    async fn send(&self, updates: mpsc::Sender<pb::HubUpdate>) {
        let agent = format!("cloudhub/{}", skerry_telemetry::VERSION);
        let hello = Up::Hello(pb::HubHello { hub: self.hub.clone(), agent });
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
