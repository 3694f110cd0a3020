//! One stream of subscriptions to a source, shared by all nodes.
//!
//! A source has two lanes, one for bulk kinds, so that pods and configuration never wait behind
//! them. The lane gives each subscription a number of its own, and sends what comes back to the node
//! that the number belongs to. It never waits for a node: a node whose queue is full does not take
//! what it asked for, and its connection is closed. (A source keeps a small window of unacknowledged
//! deltas per subscription, so a queue that holds [`NODE_QUEUE`] messages cannot fill otherwise.)
//!
//! When the stream to the source breaks, every subscription on it is closed with `UNAVAILABLE`; the
//! nodes open them again, with what they hold then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use skerry_common::Backoff;
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_telemetry::{Task, emit};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::events::SourceLink;
use crate::metrics::Metrics;
use crate::sessions::Session;
use crate::upstream::{self, Upstream};

/// Messages that wait for one stream of a node: a window of deltas for each of its dozen kinds. Memory is taken
/// only for what waits.
pub(crate) const NODE_QUEUE: usize = 96;

/// Messages that wait for a source, from all nodes together. Beyond it node streams wait.
const SOURCE_QUEUE: usize = 1024;

/// What waits for a node's stream. Boxed, because queues of idle nodes should cost nothing.
pub(crate) type ToNode = Box<pb::SubscribeResponse>;

/// Where the answers to one subscription go.
#[derive(Debug)]
pub(crate) struct Route {
    /// The number that the node gave it.
    pub(crate) subscription: u64,
    pub(crate) kind: u16,
    pub(crate) session: Arc<Session>,
    pub(crate) to: mpsc::Sender<ToNode>,
}

/// A subscription as the node's stream keeps it.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The number on the lane.
    pub(crate) id: u64,
    pub(crate) lane: Arc<Lane>,
    requests: mpsc::Sender<pb::SubscribeRequest>,
}

/// The source is not connected.
#[derive(Debug)]
pub(crate) struct Down;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Lane {
    source: String,
    channel: skerry_rpc::Channel,
    state: Mutex<State>,
    /// Until the source was connected for the first time.
    pending: Mutex<Option<Task>>,
    totals: Arc<crate::usage::Usage>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    requests: Option<mpsc::Sender<pb::SubscribeRequest>>,
    routes: HashMap<u64, Route>,
    next: u64,
}

impl Lane {
    pub(crate) fn new(
        source: &str,
        channel: skerry_rpc::Channel,
        pending: Task,
        totals: Arc<crate::usage::Usage>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let pending = Mutex::new(Some(pending));
        Arc::new(Self { source: source.to_owned(), channel, state: Mutex::default(), pending, totals, metrics })
    }

    /// Makes a number for a subscription of a node. Its Open is still to be sent.
    pub(crate) fn open(self: &Arc<Self>, route: Route) -> Result<Opened, Down> {
        let mut state = self.lock();
        let requests = state.requests.clone().ok_or(Down)?;
        state.next += 1;
        let id = state.next;
        state.routes.insert(id, route);
        self.metrics.subscriptions.inc();
        Ok(Opened { id, lane: self.clone(), requests })
    }

    fn deliver(&self, mut response: pb::SubscribeResponse) {
        use pb::subscribe_response::Message as M;
        let bytes = response.encoded_len();
        let (subscription, is_closed) = match &mut response.message {
            Some(M::Delta(delta)) => (&mut delta.subscription, false),
            Some(M::InSync(in_sync)) => (&mut in_sync.subscription, false),
            Some(M::Closed(closed)) => (&mut closed.subscription, true),
            Some(M::Welcome(_)) | None => return,
        };
        let mut state = self.lock();
        // Gone when the node left while the answer was on its way.
        let Some(route) = state.routes.get(subscription) else { return };
        let id = std::mem::replace(subscription, route.subscription);
        route.session.usage.down(route.kind, bytes);
        self.totals.down(route.kind, bytes);
        self.metrics.deltas.inc();
        if let Err(mpsc::error::TrySendError::Full(_)) = route.to.try_send(Box::new(response)) {
            route.session.connection.close("the node does not take what it is sent");
        }
        if is_closed {
            state.routes.remove(&id);
            self.metrics.subscriptions.dec();
        }
    }

    /// Closes all subscriptions, for the source is gone.
    fn down(&self) {
        let mut state = self.lock();
        state.requests = None;
        let routes = std::mem::take(&mut state.routes);
        drop(state);
        for route in routes.into_values() {
            self.metrics.subscriptions.dec();
            let closed = closed(route.subscription, pb::CloseCode::Unavailable, "the source is not connected");
            if route.to.try_send(Box::new(closed)).is_err() {
                route.session.connection.close("the node does not take what it is sent");
            }
        }
    }

    fn forget(&self, id: u64) {
        if self.lock().routes.remove(&id).is_some() {
            self.metrics.subscriptions.dec();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream for Lane {
    async fn connect(&self, backoff: &mut Backoff) -> String {
        let (requests, queue) = mpsc::channel(SOURCE_QUEUE);
        let hello = request(pb::subscribe_request::Message::Hello(upstream::hello()));
        if requests.try_send(hello).is_err() {
            return "the queue is closed".to_owned();
        }
        let mut client = SourceClient::new(self.channel.clone())
            .max_decoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES)
            .max_encoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES);
        let welcome = |first: pb::SubscribeResponse| match first.message {
            Some(pb::subscribe_response::Message::Welcome(welcome)) => Some(welcome),
            _ => None,
        };
        let mut stream = match upstream::begin(client.subscribe(ReceiverStream::new(queue)), welcome).await {
            Ok(stream) => stream,
            Err(reason) => return reason,
        };
        backoff.reset();
        self.lock().requests = Some(requests);
        drop(self.pending.lock().unwrap_or_else(PoisonError::into_inner).take());
        emit(SourceLink { source: &self.source, up: true, reason: "" }, &self.metrics);
        upstream::each(&mut stream, |response| self.deliver(response)).await
    }

    fn ended(&self, reason: &str) {
        self.down();
        emit(SourceLink { source: &self.source, up: false, reason }, &self.metrics);
    }
}

impl Opened {
    /// Sends a message about this subscription to the source; waits while its queue is full. The
    /// source being gone is no error here: the node is told by [`Lane::down`].
    pub(crate) async fn send(&self, message: pb::subscribe_request::Message) {
        let _ = self.requests.send(request(message)).await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.lane.forget(self.id);
        let close = pb::subscribe_request::Message::Close(pb::Close { subscription: self.id });
        // When the queue is full the source learns it from the answers that nobody takes: its window
        // for this subscription stays closed, until the hub's stream ends.
        if let Err(mpsc::error::TrySendError::Full(message)) = self.requests.try_send(request(close)) {
            let requests = self.requests.clone();
            tokio::spawn(async move { drop(requests.send(message).await) });
        }
    }
}

fn request(message: pb::subscribe_request::Message) -> pb::SubscribeRequest {
    pb::SubscribeRequest { message: Some(message) }
}

/// A Closed message.
pub(crate) fn closed(subscription: u64, code: pb::CloseCode, reason: &str) -> pb::SubscribeResponse {
    let closed = pb::Closed { subscription, code: code.into(), reason: reason.to_owned(), newest_session: 0 };
    pb::SubscribeResponse { message: Some(pb::subscribe_response::Message::Closed(closed)) }
}
