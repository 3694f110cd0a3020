//! `Source.Subscribe`: the objects of many nodes over one stream from a hub.
//!
//! One task per stream: it reads opens and acknowledgements, and writes what the publishers have, in turn
//! over nodes and classes (`subs`). It ends with the hub, with the process, or when the hub breaks the
//! protocol; a bad subscription ends alone, with a `Closed` that says why.
//!
//! Invariants: nothing is sent for a session that is fenced; a publisher is polled only when the channel
//! towards the hub has room, so a slow hub costs at most [`OUT_MESSAGES`] deltas; a slow node is held by its
//! own window. Nothing is kept over a crash: subscribers say again what they hold.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use skerry_common::{Key, NodeName, drain};
use skerry_proto::sync::v1::source_server::Source;
use skerry_proto::sync::v1::{
    CloseCode, HeldObject, Hello, Open, SubscribeRequest, SubscribeResponse, Welcome, subscribe_request,
    subscribe_response,
};
use skerry_sync::{Out, PublishLimits, Publisher, SubscriptionId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cache::Cache;
use crate::confirm::Confirm;
use crate::events::Tell;
use crate::kinds::{Kind, Scope};
use crate::metrics::{KindLabel, Metrics, Refused};
use crate::service::HUB_SERVICE;
use crate::sessions::Sessions;
use crate::subs::{MAX_SUBSCRIPTIONS, Next, Stream, Sub, Subs};
use crate::view::{Derive, NodeView};

/// Deltas that wait in the channel to one hub: 2 MiB at most, and enough to keep the connection busy.
const OUT_MESSAGES: usize = 8;

/// See the module.
#[derive(Debug, Clone)]
pub struct SourceService {
    /// The name of the service.
    pub service: &'static str,
    /// What it is the source of.
    pub kinds: &'static [Kind],
    /// The objects.
    pub cache: Cache,
    /// Proves absence.
    pub confirm: Arc<Confirm>,
    /// Makes objects of derived kinds.
    pub derived: Option<Arc<dyn Derive>>,
    /// All subscriptions.
    pub subs: Arc<Subs>,
    /// Which session may speak.
    pub sessions: Arc<Sessions>,
    /// Tells users what a node could not take.
    pub tell: Tell,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The streams end with it.
    pub stop: drain::Watch,
}

/// A subscription of this stream, with what is needed until its list of held objects is complete.
struct Opened {
    sub: Arc<Sub>,
    held_bound: Vec<Key>,
    started: bool,
}

#[tonic::async_trait]
impl Source for SourceService {
    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        skerry_rpc::require_service(&request, &[HUB_SERVICE])?;
        let incoming = request.into_inner();
        let (tx, rx) = mpsc::channel(OUT_MESSAGES);
        let this = self.clone();
        tokio::spawn(async move { this.serve(incoming, tx).await });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl SourceService {
    async fn serve(
        self,
        mut incoming: Streaming<SubscribeRequest>,
        tx: mpsc::Sender<Result<SubscribeResponse, Status>>,
    ) {
        let mut stop = self.stop.clone();
        let stream = Arc::new(Stream::default());
        let mut open = HashMap::new();
        let end = tokio::select! {
            end = self.read(&mut incoming, &stream, &mut open) => end,
            () = self.write(&stream, &tx) => Ok(()),
            _guard = stop.stopped() => Err(Status::unavailable(format!("{} is stopping", self.service))),
        };
        for (_, opened) in open {
            self.end(&opened.sub);
        }
        stream.clear();
        if let Err(status) = end {
            tracing::info!(reason = status.message(), "source stream ended");
            let _ = tx.try_send(Err(status));
        }
    }

    async fn read(
        &self,
        incoming: &mut Streaming<SubscribeRequest>,
        stream: &Arc<Stream>,
        open: &mut HashMap<u64, Opened>,
    ) -> Result<(), Status> {
        use subscribe_request::Message;
        let hello = skerry_rpc::hello(incoming, |first| match first.message {
            Some(Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        let Some(hello) = hello.await? else { return Ok(()) };
        stream.send(subscribe_response::Message::Welcome(welcome(self.service, &hello)?));
        while let Some(request) = incoming.message().await? {
            match request.message {
                Some(Message::Open(message)) => self.open(message, stream, open),
                Some(Message::Held(message)) => {
                    let Some(opened) = live(open, message.subscription) else { continue };
                    self.hold(opened, &message.held, message.more);
                }
                Some(Message::Ack(ack)) => {
                    let Some(opened) = live(open, ack.subscription) else { continue };
                    let acked = opened.sub.publisher().ack(ack.nonce);
                    match acked {
                        Ok(keys) => self.acked(&opened.sub, &keys),
                        Err(error) => self.close(&opened.sub, CloseCode::Protocol, &error.to_string()),
                    }
                }
                Some(Message::Nack(nack)) => {
                    let Some(opened) = live(open, nack.subscription) else { continue };
                    let refused = opened.sub.publisher().nack(nack.nonce, nack.failures);
                    match refused {
                        Ok(failures) => self.nacked(&opened.sub, failures),
                        Err(error) => self.close(&opened.sub, CloseCode::Protocol, &error.to_string()),
                    }
                }
                Some(Message::Close(message)) => {
                    if let Some(opened) = open.remove(&message.subscription) {
                        self.end(&opened.sub);
                    }
                }
                Some(Message::Hello(_)) => return Err(Status::invalid_argument("hello came twice")),
                // A message of a newer hub.
                None => {}
            }
        }
        Ok(())
    }

    fn open(&self, message: Open, stream: &Arc<Stream>, open: &mut HashMap<u64, Opened>) {
        let id = message.subscription;
        // Subscriptions that were closed here are forgotten when there are many.
        if open.len() >= MAX_SUBSCRIPTIONS {
            open.retain(|_, opened| !opened.sub.is_closed());
        }
        let refuse = |code: CloseCode, reason: &str| {
            let what = reason.to_owned();
            skerry_telemetry::emit(
                Refused { node: &message.node, what: &message.kind, key: &what, reason: code_label(code) },
                &self.metrics,
            );
            stream.send_closed(id, code, reason, 0);
        };
        if open.get(&id).is_some_and(|opened| !opened.sub.is_closed()) {
            return refuse(CloseCode::Protocol, "this number is in use");
        }
        if open.len() >= MAX_SUBSCRIPTIONS {
            return refuse(CloseCode::Limit, "too many subscriptions on one stream");
        }
        let Ok(node) = NodeName::parse(&message.node) else {
            return refuse(CloseCode::Protocol, "the node has no valid name");
        };
        if message.session == 0 {
            return refuse(CloseCode::Protocol, "the session has no number");
        }
        let Some(kind) = Kind::parse(&message.kind).filter(|kind| self.kinds.contains(kind)) else {
            return refuse(CloseCode::UnknownKind, "this source does not serve the kind");
        };
        if !message.selector.is_empty() {
            return refuse(CloseCode::Protocol, "this source does not take selectors");
        }
        if let Err(stale) = self.sessions.admit(&node, message.session) {
            return stream.send_closed(id, CloseCode::StaleSession, "a newer session exists", stale.newest);
        }
        let publisher = Publisher::new(SubscriptionId(id), PublishLimits::default());
        let sub = Sub::new(id, node.clone(), message.session, kind, Arc::clone(stream), publisher);
        match self.subs.insert(Arc::clone(&sub)) {
            Err(newest) => {
                return stream.send_closed(id, CloseCode::StaleSession, "a newer session exists", newest);
            }
            Ok(Some(old)) => {
                if old.close() && Arc::ptr_eq(&old.stream, stream) {
                    stream.send_closed(old.id, CloseCode::Protocol, "the kind was opened again", 0);
                }
            }
            Ok(None) => {}
        }
        if kind.scope() == Scope::Bound {
            self.cache.undeclare(&node);
        }
        self.metrics.subscriptions.set(i64::try_from(self.subs.len()).unwrap_or(i64::MAX));
        let mut opened = Opened { sub, held_bound: Vec::new(), started: false };
        self.hold(&mut opened, &message.held, message.more);
        open.insert(id, opened);
    }

    /// Takes part of the list of what the node holds; starts after the last.
    fn hold(&self, opened: &mut Opened, held: &[HeldObject], more: bool) {
        let sub = Arc::clone(&opened.sub);
        let result = sub.publisher().hold_wire(held);
        if let Err(error) = result {
            return self.close(&sub, CloseCode::Protocol, &error.to_string());
        }
        if sub.kind.scope() == Scope::Bound {
            let keys = held.iter().filter_map(|held| held.key.as_ref());
            opened.held_bound.extend(keys.filter_map(|key| Key::checked(&key.namespace, &key.name).ok()));
        }
        if more || opened.started {
            return;
        }
        opened.started = true;
        if sub.kind.scope() == Scope::Bound {
            let wakes = self.cache.declare(&sub.node, std::mem::take(&mut opened.held_bound));
            self.subs.dispatch(&wakes);
        }
        let mut publisher = sub.publisher();
        publisher.start(&mut self.view(&sub));
        drop(publisher);
        sub.enqueue();
    }

    fn derived_of(&self, kind: Kind) -> Option<&dyn Derive> {
        self.derived.as_deref().filter(|_| kind.scope() == Scope::Derived)
    }

    fn view<'a>(&'a self, sub: &'a Sub) -> NodeView<'a> {
        NodeView {
            cache: self.cache.read(),
            confirm: &self.confirm,
            derived: self.derived.as_deref(),
            node: &sub.node,
            kind: sub.kind,
            now: Timestamp::now().as_second(),
        }
    }

    fn acked(&self, sub: &Arc<Sub>, keys: &[Key]) {
        let count = u64::try_from(keys.len()).unwrap_or(0);
        self.metrics.acked.get_or_create(&KindLabel { kind: sub.kind.as_str() }).inc_by(count);
        if let Some(derived) = self.derived_of(sub.kind) {
            keys.iter().for_each(|key| derived.acked(&sub.node, key));
        }
        sub.enqueue();
    }

    fn nacked(&self, sub: &Arc<Sub>, failures: Vec<(Key, String)>) {
        let kind = sub.kind.as_str();
        for (key, reason) in failures {
            self.metrics.nacked.get_or_create(&KindLabel { kind }).inc();
            tracing::warn!(node = %sub.node, kind, %key, reason, "the node could not store an object");
            self.tell.warn(&sub.node, sub.kind, &key, "NotStoredAtEdge", &reason);
        }
        sub.enqueue();
    }

    /// Writes until the hub is gone.
    async fn write(&self, stream: &Stream, tx: &mpsc::Sender<Result<SubscribeResponse, Status>>) {
        loop {
            let Ok(permit) = tx.reserve().await else { return };
            let next = tokio::select! {
                () = tx.closed() => return,
                next = stream.next() => next,
            };
            match next {
                Next::Message(message) => permit.send(Ok(message)),
                Next::Poll(sub) => {
                    if let Some(message) = self.poll(&sub) {
                        permit.send(Ok(SubscribeResponse { message: Some(message) }));
                        sub.enqueue();
                    }
                }
            }
            // Polling takes no await when there is always something to send.
            tokio::task::consume_budget().await;
        }
    }

    fn poll(&self, sub: &Arc<Sub>) -> Option<subscribe_response::Message> {
        let kind = sub.kind.as_str();
        loop {
            if sub.is_closed() {
                return None;
            }
            let mut publisher = sub.publisher();
            let out = publisher.poll(&mut self.view(sub));
            drop(publisher);
            match out? {
                Out::Delta(mut delta) => {
                    let changes = delta.upserts.len() + delta.tombstones.len();
                    let count = u64::try_from(changes).unwrap_or(0);
                    self.metrics.delivered.get_or_create(&KindLabel { kind }).inc_by(count);
                    delta.traceparent = skerry_telemetry::trace::traceparent();
                    return Some(subscribe_response::Message::Delta(delta));
                }
                Out::InSync(in_sync) => return Some(subscribe_response::Message::InSync(in_sync)),
                Out::Oversize { key, bytes, .. } => {
                    self.metrics.oversize.get_or_create(&KindLabel { kind }).inc();
                    tracing::warn!(node = %sub.node, kind, %key, bytes, "object is too large to send");
                    let text = format!("{bytes} bytes are more than a node can be sent; make the object smaller");
                    self.tell.warn(&sub.node, sub.kind, &key, "PayloadTooLarge", &text);
                }
            }
        }
    }

    fn close(&self, sub: &Arc<Sub>, code: CloseCode, reason: &str) {
        if !sub.is_closed() {
            self.metrics.refuse(code_label(code));
            tracing::warn!(node = %sub.node, kind = sub.kind.as_str(), reason, "subscription closed");
            sub.stream.send_closed(sub.id, code, reason, 0);
        }
        self.end(sub);
    }

    fn end(&self, sub: &Arc<Sub>) {
        sub.close();
        if self.subs.remove(sub) {
            if sub.kind.scope() == Scope::Bound {
                self.cache.undeclare(&sub.node);
            } else if let Some(derived) = self.derived_of(sub.kind) {
                derived.forget(&sub.node);
            }
        }
        self.metrics.subscriptions.set(i64::try_from(self.subs.len()).unwrap_or(i64::MAX));
    }
}

/// An open subscription of the stream; messages for one that was closed here are late, not wrong.
fn live(open: &mut HashMap<u64, Opened>, id: u64) -> Option<&mut Opened> {
    open.get_mut(&id).filter(|opened| !opened.sub.is_closed())
}

/// Answers a hello.
///
/// # Errors
/// When no protocol version is common to both.
pub(crate) fn welcome(service: &str, hello: &Hello) -> Result<Welcome, Status> {
    let agent = format!("{service}/{}", skerry_telemetry::VERSION);
    skerry_sync::version::welcome(&agent, hello).map_err(|error| {
        tracing::warn!(%error, "hub refused");
        Status::failed_precondition(error.to_string())
    })
}

fn code_label(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Unspecified => "unspecified",
        CloseCode::UnknownKind => "unknown_kind",
        CloseCode::Denied => "denied",
        CloseCode::StaleSession => "stale_session",
        CloseCode::Unavailable => "unavailable",
        CloseCode::Protocol => "protocol",
        CloseCode::Limit => "limit",
    }
}
