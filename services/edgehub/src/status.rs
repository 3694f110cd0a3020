//! `Edge`: what the node knows about its link, its store and itself.

use std::sync::Arc;

use skerry_common::NodeName;
use skerry_identity::CredentialWatch;
use skerry_proto::edge::v1 as pb;
use skerry_proto::edge::v1::edge_server::Edge;
use tonic::{Request, Response, Status};

use crate::objects::Objects;
use crate::uplink::Traffic;
use crate::upreports::Outbox;

/// The service.
#[derive(Clone)]
pub(crate) struct EdgeStatus {
    pub(crate) node: NodeName,
    pub(crate) objects: Arc<Objects>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) credentials: CredentialWatch,
    pub(crate) traffic: Arc<Traffic>,
}

#[tonic::async_trait]
impl Edge for EdgeStatus {
    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let link = self.objects.link.state();
        let state = if link.connected { pb::LinkState::Connected } else { pb::LinkState::Disconnected };
        let kinds = skerry_common::kinds::down().map(|kind| pb::KindStatus {
            kind: kind.to_owned(),
            objects: self.objects.count(kind) as u64,
            in_sync: self.objects.is_complete(kind),
        });
        let (received_bytes, sent_bytes) = self.traffic.bytes();
        Ok(Response::new(pb::GetStatusResponse {
            node: self.node.to_string(),
            link: state.into(),
            reason: link.reason,
            since_unix_ms: link.since_unix_ms,
            hub: link.hub,
            session: link.session,
            certificate_not_after_unix: self.credentials.current().map_or(0, |c| c.not_after().as_second()),
            kinds: kinds.collect(),
            outbox: self.outbox.len() as u64,
            store_bytes: self.objects.store.usage().total(),
            store_problem: link.store_problem,
            received_bytes,
            sent_bytes,
            agent: format!("edgehub/{}", skerry_telemetry::VERSION),
        }))
    }
}
