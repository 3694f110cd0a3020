//! `Registry.Connect`: hubs tell their sessions, and are told fences and revocations.
//!
//! One stream per hub replica, one task each until the hub or the process ends. A stale session that a hub
//! announces is answered with its fence. Limits: [`OUT_MESSAGES`] messages wait in the channel; what a slow
//! hub has not read coalesces in `hubs`. When the stream breaks the hub's nodes get the grace of `presence`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skerry_common::{NodeName, drain};
use skerry_identity::RevocationList;
use skerry_kubesync::{HUB_SERVICE, Sessions};
use skerry_proto::hub::v1::registry_server::Registry;
use skerry_proto::hub::v1::{Fence, HubUpdate, RegistryUpdate, Revocations, hub_update, registry_update};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::hubs::{HubOut, Hubs};
use crate::lease::LeaseKeeper;
use crate::revive::Revive;

/// Messages that wait for a hub; more would only be memory.
const OUT_MESSAGES: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct RegistryService {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) leases: Arc<LeaseKeeper>,
    pub(crate) hubs: Arc<Hubs>,
    pub(crate) revocations: RevocationList,
    pub(crate) revive: Revive,
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) stop: drain::Watch,
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type ConnectStream = ReceiverStream<Result<RegistryUpdate, Status>>;

    async fn connect(&self, request: Request<Streaming<HubUpdate>>) -> Result<Response<Self::ConnectStream>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let incoming = request.into_inner();
        let (tx, rx) = mpsc::channel(OUT_MESSAGES);
        let this = self.clone();
        tokio::spawn(async move { this.serve(incoming, tx).await });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl RegistryService {
    async fn serve(self, mut incoming: Streaming<HubUpdate>, tx: mpsc::Sender<Result<RegistryUpdate, Status>>) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut stop = self.stop.clone();
        let hello = skerry_rpc::hello(&mut incoming, |first| match first.message {
            Some(hub_update::Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        let hub = match hello.await {
            Ok(Some(hello)) => hello.hub,
            Ok(None) => return,
            Err(status) => return drop(tx.send(Err(status)).await),
        };
        tracing::info!(hub, connection, "hub connected");
        let out = self.hubs.insert(connection);
        let mut list = self.revocations.clone();
        self.leases.presence().hub_connected(connection);
        let end = tokio::select! {
            end = self.read(&mut incoming, connection, &out) => end,
            () = write(&mut list, &out, &tx) => Ok(()),
            _guard = stop.stopped() => Err(Status::unavailable("edgecontroller is stopping")),
        };
        self.hubs.remove(connection);
        let now = self.leases.now();
        self.leases.presence().hub_lost(connection, now);
        tracing::info!(hub, connection, error = ?end.as_ref().err().map(Status::message), "hub disconnected");
        if let Err(status) = end {
            let _ = tx.try_send(Err(status));
        }
    }

    async fn read(&self, incoming: &mut Streaming<HubUpdate>, connection: u64, out: &HubOut) -> Result<(), Status> {
        while let Some(update) = incoming.message().await? {
            let now = self.leases.now();
            match update.message {
                Some(hub_update::Message::Joined(session)) => {
                    let node = node_name(&session.node)?;
                    if session.session == 0 {
                        return Err(Status::invalid_argument("a session without a number"));
                    }
                    match self.sessions.admit(&node, session.session) {
                        Ok(()) => {
                            self.leases.presence().joined(connection, &node, session.session, now);
                            self.revive.look(&node);
                        }
                        Err(stale) => out.fence(&node, stale.newest),
                    }
                }
                Some(hub_update::Message::Left(left)) => {
                    let node = node_name(&left.node)?;
                    self.leases.presence().left(connection, &node, left.session, now);
                }
                Some(hub_update::Message::SnapshotDone(_)) => self.leases.presence().snapshot_done(connection),
                Some(hub_update::Message::Hello(_)) => return Err(Status::invalid_argument("hello came twice")),
                // A message of a newer hub.
                None => {}
            }
        }
        Ok(())
    }
}

fn node_name(name: &str) -> Result<NodeName, Status> {
    NodeName::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Sends the revocations whenever they change, and fences. Ends when the hub is gone.
async fn write(list: &mut RevocationList, out: &HubOut, tx: &mpsc::Sender<Result<RegistryUpdate, Status>>) {
    let mut message = revocations(list);
    loop {
        if tx.send(Ok(RegistryUpdate { message: Some(message) })).await.is_err() {
            return;
        }
        message = tokio::select! {
            () = tx.closed() => return,
            () = list.changed() => revocations(list),
            (node, session) = out.next() => {
                registry_update::Message::Fence(Fence { node: node.to_string(), session })
            }
        };
    }
}

fn revocations(list: &RevocationList) -> registry_update::Message {
    let key_fingerprints = list.current().fingerprints.into_iter().collect();
    registry_update::Message::Revocations(Revocations { key_fingerprints })
}
