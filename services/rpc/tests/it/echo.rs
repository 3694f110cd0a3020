//! Small handlers on the real protocol, so that the tests need no protos of their own.
//!
//! `Source.Subscribe` answers every message with `Welcome{agent: who calls}`; `Hub.ListSessions` tells
//! who calls and does what its `node` field says.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skerry_proto::hub::v1 as hub;
use skerry_proto::sync::v1 as sync;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Counts what reached a handler.
#[derive(Clone, Default)]
pub struct Echo {
    pub calls: Arc<AtomicUsize>,
    pub messages: Arc<AtomicUsize>,
    pub finished: Arc<AtomicUsize>,
}

impl Echo {
    pub fn routes(&self) -> Routes {
        Routes::new(sync::source_server::SourceServer::new(self.clone()))
            .add_service(hub::hub_server::HubServer::new(self.clone()))
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<sync::SubscribeResponse, Status>> + Send>>;

fn who<T>(request: &Request<T>) -> String {
    // The control runs on a server that knows no peers.
    skerry_rpc::peer(request).map_or_else(|_| "nobody".to_owned(), |peer| peer.identity.to_string())
}

pub fn welcome(agent: &str) -> sync::SubscribeResponse {
    let welcome = sync::Welcome { protocol: 1, agent: agent.to_owned() };
    sync::SubscribeResponse { message: Some(sync::subscribe_response::Message::Welcome(welcome)) }
}

pub fn agent(response: sync::SubscribeResponse) -> String {
    match response.message {
        Some(sync::subscribe_response::Message::Welcome(welcome)) => welcome.agent,
        other => panic!("{other:?}"),
    }
}

pub fn hello(node: &str) -> sync::SubscribeRequest {
    let hello = sync::Hello { node: node.to_owned(), ..Default::default() };
    sync::SubscribeRequest { message: Some(sync::subscribe_request::Message::Hello(hello)) }
}

#[tonic::async_trait]
impl sync::source_server::Source for Echo {
    type SubscribeStream = Answers;

    async fn subscribe(
        &self,
        request: Request<Streaming<sync::SubscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let who = who(&request);
        let messages = self.messages.clone();
        let answers = request.into_inner().map(move |message| {
            let message = message?;
            messages.fetch_add(1, Ordering::SeqCst);
            // A large answer, or every 100 ms one without being asked.
            Ok(match message.message {
                Some(sync::subscribe_request::Message::Hello(h)) if h.node == "large" => {
                    welcome(&"x".repeat(usize::try_from(h.session).unwrap()))
                }
                _ => welcome(&who),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl hub::hub_server::Hub for Echo {
    async fn list_sessions(
        &self,
        request: Request<hub::ListSessionsRequest>,
    ) -> Result<Response<hub::ListSessionsResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let who = who(&request);
        if let Some(millis) = request.get_ref().node.strip_prefix("sleep-") {
            tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
        }
        if request.get_ref().node == "close" {
            skerry_rpc::peer(&request)?.connection.close("told to");
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(hub::ListSessionsResponse { hub: who, ..Default::default() }))
    }

    async fn get_usage(&self, _: Request<hub::GetUsageRequest>) -> Result<Response<hub::GetUsageResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(hub::GetUsageResponse::default()))
    }

    async fn disconnect_node(
        &self,
        _: Request<hub::DisconnectNodeRequest>,
    ) -> Result<Response<hub::DisconnectNodeResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(hub::DisconnectNodeResponse::default()))
    }
}
