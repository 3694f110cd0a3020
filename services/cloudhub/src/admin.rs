//! `Hub`: what people and their tools ask a replica.

use std::sync::Arc;

use skerry_common::NodeName;
use skerry_proto::hub::v1 as pb;
use skerry_proto::hub::v1::hub_server::Hub;
use tonic::{Request, Response, Status};

use crate::node_source::Shared;
use crate::registry::describe;

/// Sessions in one answer.
const MAX_PAGE: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct HubAdmin {
    pub(crate) hub: String,
    pub(crate) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Hub for HubAdmin {
    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let sessions = &self.shared.sessions;
        let limit = match usize::try_from(request.limit).unwrap_or(MAX_PAGE) {
            0 => MAX_PAGE,
            limit => limit.min(MAX_PAGE),
        };
        let page = if request.node.is_empty() {
            sessions.page(&request.after, limit)
        } else {
            sessions.get(&node(&request.node)?).into_iter().collect()
        };
        let next = if page.len() == limit { page.last().map(|s| s.node.to_string()) } else { None };
        let sessions_page = page
            .iter()
            .map(|session| {
                let (received_bytes, sent_bytes) = session.connection.bytes();
                pb::SessionStatus {
                    session: Some(describe(session)),
                    received_bytes,
                    sent_bytes,
                    silent_ms: u64::try_from(session.connection.silent_for().as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect();
        Ok(Response::new(pb::ListSessionsResponse {
            hub: self.hub.clone(),
            sessions: sessions_page,
            next: next.unwrap_or_default(),
            total: sessions.len() as u64,
        }))
    }

    async fn get_usage(&self, request: Request<pb::GetUsageRequest>) -> Result<Response<pb::GetUsageResponse>, Status> {
        let request = request.into_inner();
        let name = |kind| self.shared.routes.name(kind);
        let kinds = if request.node.is_empty() {
            self.shared.totals.report(name)
        } else {
            let session = self.shared.sessions.get(&node(&request.node)?);
            session.ok_or_else(|| Status::not_found("the node is not connected here"))?.usage.report(name)
        };
        Ok(Response::new(pb::GetUsageResponse { kinds }))
    }

    async fn disconnect_node(
        &self,
        request: Request<pb::DisconnectNodeRequest>,
    ) -> Result<Response<pb::DisconnectNodeResponse>, Status> {
        let request = request.into_inner();
        let ended = self.shared.sessions.disconnect(&node(&request.node)?, &request.reason);
        Ok(Response::new(pb::DisconnectNodeResponse { ended: u32::from(ended) }))
    }
}

fn node(name: &str) -> Result<NodeName, Status> {
    NodeName::parse(name).map_err(|error| Status::invalid_argument(error.to_string()))
}
