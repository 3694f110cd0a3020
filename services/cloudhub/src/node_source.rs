//! `Source` as a node sees it: its subscriptions, relayed to the lanes of their kinds.
//!
//! One value per stream, without a task or a timer of its own: it is polled as the response stream,
//! and reads the node's messages between sending. A stream whose first message is not Hello within
//! [`skerry_rpc::HELLO_TIMEOUT`] ends. A node may name only itself.

use std::sync::Arc;
use std::time::SystemTime;

use futures::stream;
use skerry_common::NodeName;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_server::Source;
use skerry_telemetry::emit;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::events::Refused;
use crate::lane::{NODE_QUEUE, Opened, Route, ToNode, closed};
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::sessions::{Arrival, Attached, Sessions, Stale};
use crate::upstream::agent;

/// Subscriptions on one stream of a node. There are about a dozen kinds.
const MAX_SUBSCRIPTIONS: usize = 64;

/// What all node streams share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Routes,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) totals: Arc<crate::usage::Usage>,
    pub(crate) metrics: Metrics,
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct NodeSource(pub(crate) Arc<Shared>);

type Answer = Result<pb::SubscribeResponse, Status>;

#[tonic::async_trait]
impl Source for NodeSource {
    type SubscribeStream = stream::BoxStream<'static, Answer>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Caller::of(&request)?;
        let stream = NodeStream::new(self.0.clone(), caller, request.into_inner());
        Ok(Response::new(Box::pin(stream::unfold(stream, |mut stream| async move {
            let answer = stream.next().await?;
            Some((answer, stream))
        }))))
    }
}

/// Who calls, by the certificate.
pub(crate) struct Caller {
    pub(crate) node: NodeName,
    pub(crate) peer: Arc<skerry_rpc::Peer>,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let node = skerry_rpc::require_node(request)?;
        Ok(Self { node, peer: skerry_rpc::shared_peer(request)? })
    }

    /// Joins the stream to its session, after its Hello; returns what to answer.
    pub(crate) fn attach(&self, shared: &Shared, hello: &pb::Hello) -> Result<(Attached, pb::Welcome), Box<Refusal>> {
        if !hello.node.is_empty() && hello.node != self.node.as_str() {
            emit(Refused { node: &self.node, reason: "other node in hello" }, &shared.metrics);
            return Err(Refusal::status(Status::permission_denied("a node may speak only for itself")));
        }
        let welcome = skerry_sync::version::welcome(&agent(), hello).map_err(|error| {
            emit(Refused { node: &self.node, reason: "protocol version" }, &shared.metrics);
            tracing::warn!(node = %self.node, %error, "node refused");
            Refusal::status(Status::failed_precondition(error.to_string()))
        })?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let arrival = Arrival {
            node: self.node.clone(),
            number: hello.session,
            agent: hello.agent.chars().take(MAX_AGENT).collect(),
            remote: self.peer.remote,
            connection: self.peer.connection.clone(),
            now_unix_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        };
        let attached = shared.sessions.attach(arrival).map_err(|Stale { newest }| Box::new(Refusal::Stale(newest)))?;
        Ok((attached, welcome))
    }
}

/// Characters of the agent's version that are kept.
const MAX_AGENT: usize = 64;

/// Why a stream may not join a session.
pub(crate) enum Refusal {
    /// A newer session is known.
    Stale(u64),
    /// Anything else.
    Status(Status),
}

impl Refusal {
    fn status(status: Status) -> Box<Self> {
        Box::new(Self::Status(status))
    }
}

struct NodeStream {
    shared: Arc<Shared>,
    caller: Option<Caller>,
    attached: Option<Attached>,
    incoming: Streaming<pb::SubscribeRequest>,
    to_node: mpsc::Sender<ToNode>,
    queue: mpsc::Receiver<ToNode>,
    // A dozen entries: a list is smaller than a map.
    subscriptions: Vec<(u64, Opened)>,
    ended: bool,
}

impl NodeStream {
    fn new(shared: Arc<Shared>, caller: Caller, incoming: Streaming<pb::SubscribeRequest>) -> Self {
        let (to_node, queue) = mpsc::channel(NODE_QUEUE);
        Self {
            shared,
            caller: Some(caller),
            attached: None,
            incoming,
            to_node,
            queue,
            subscriptions: Vec::new(),
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Answer> {
        if self.ended {
            return None;
        }
        if let Some(caller) = self.caller.take() {
            return self.hello(&caller).await;
        }
        loop {
            tokio::select! {
                Some(message) = self.queue.recv() => {
                    self.forget_closed(&message);
                    return Some(Ok(*message));
                }
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => {
                        if let Some(answer) = self.handle(message).await {
                            return Some(answer);
                        }
                    }
                    Ok(None) | Err(_) => return None,
                }
            }
        }
    }

    async fn hello(&mut self, caller: &Caller) -> Option<Answer> {
        let hello = skerry_rpc::hello(&mut self.incoming, |first| match first.message {
            Some(pb::subscribe_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        let hello = match hello.await {
            Ok(hello) => hello?,
            Err(status) => return self.fail(status),
        };
        match caller.attach(&self.shared, &hello) {
            Ok((attached, welcome)) => {
                self.attached = Some(attached);
                let welcome = pb::subscribe_response::Message::Welcome(welcome);
                Some(Ok(pb::SubscribeResponse { message: Some(welcome) }))
            }
            Err(refusal) => match *refusal {
                Refusal::Status(status) => self.fail(status),
                Refusal::Stale(newest) => {
                    self.ended = true;
                    let mut answer = closed(0, pb::CloseCode::StaleSession, "a newer session of this node exists");
                    if let Some(pb::subscribe_response::Message::Closed(closed)) = &mut answer.message {
                        closed.newest_session = newest;
                    }
                    Some(Ok(answer))
                }
            },
        }
    }

    /// Relays one message of the node; an answer is for the node itself.
    async fn handle(&mut self, request: pb::SubscribeRequest) -> Option<Answer> {
        use pb::subscribe_request::Message as M;
        match request.message {
            Some(M::Open(open)) => self.open(open).await,
            Some(M::Held(mut held)) => {
                let opened = self.find(held.subscription)?;
                held.subscription = opened.id;
                opened.send(M::Held(held)).await;
                None
            }
            Some(M::Ack(mut ack)) => {
                let opened = self.find(ack.subscription)?;
                ack.subscription = opened.id;
                opened.send(M::Ack(ack)).await;
                None
            }
            Some(M::Nack(mut nack)) => {
                let opened = self.find(nack.subscription)?;
                nack.subscription = opened.id;
                opened.send(M::Nack(nack)).await;
                None
            }
            Some(M::Close(close)) => {
                self.subscriptions.retain(|(id, _)| *id != close.subscription);
                None
            }
            Some(M::Hello(_)) => self.fail(Status::invalid_argument("hello may come only once")),
            // A message of a newer node.
            None => None,
        }
    }

    async fn open(&mut self, mut open: pb::Open) -> Option<Answer> {
        let session = self.attached.as_ref()?.session.clone();
        if !open.node.is_empty() && open.node != session.node.as_str() {
            emit(Refused { node: &session.node, reason: "other node in open" }, &self.shared.metrics);
            return self.fail(Status::permission_denied("a node may subscribe only for itself"));
        }
        if self.find(open.subscription).is_some() {
            return self.fail(Status::invalid_argument("the subscription is open already"));
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Some(Ok(closed(open.subscription, pb::CloseCode::Limit, "too many subscriptions on this stream")));
        }
        let Some(down) = self.shared.routes.down(&open.kind) else {
            let reason = format!("no source serves the kind {:?}", open.kind);
            return Some(Ok(closed(open.subscription, pb::CloseCode::UnknownKind, &reason)));
        };
        let route = Route {
            subscription: open.subscription,
            kind: down.kind,
            session: session.clone(),
            to: self.to_node.clone(),
        };
        let Ok(opened) = down.lane.open(route) else {
            return Some(Ok(closed(open.subscription, pb::CloseCode::Unavailable, "the source is not connected")));
        };
        let bytes = prost::Message::encoded_len(&open);
        session.usage.up(down.kind, bytes);
        self.shared.totals.up(down.kind, bytes);
        let subscription = std::mem::replace(&mut open.subscription, opened.id);
        open.node = session.node.to_string();
        open.session = session.number;
        opened.send(pb::subscribe_request::Message::Open(open)).await;
        self.subscriptions.push((subscription, opened));
        None
    }

    fn find(&self, subscription: u64) -> Option<&Opened> {
        self.subscriptions.iter().find(|(id, _)| *id == subscription).map(|(_, opened)| opened)
    }

    fn forget_closed(&mut self, message: &pb::SubscribeResponse) {
        if let Some(pb::subscribe_response::Message::Closed(closed)) = &message.message {
            self.subscriptions.retain(|(id, _)| *id != closed.subscription);
        }
    }

    fn fail(&mut self, status: Status) -> Option<Answer> {
        self.ended = true;
        Some(Err(status))
    }
}
