//! `Source` for the services of the node: the same protocol, read from the store.
//!
//! One task per stream, on a socket that only this machine can reach. The subscriber says what it
//! holds and gets the difference, then every change. With the cloud away it works the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_server::Source;
use skerry_proto::sync::v1::subscribe_request::Message as Down;
use skerry_proto::sync::v1::subscribe_response::Message as M;
use skerry_sync::{Out, Publisher, SubscriptionId};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::listeners::Listener;
use crate::objects::{KindView, Objects};
use crate::uplink::agent;

/// Answers that wait for a subscriber.
const ANSWER_QUEUE: usize = 16;

/// Subscriptions of one stream.
const MAX_SUBSCRIPTIONS: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct LocalSource(pub(crate) Arc<Objects>);

type Answer = Result<pb::SubscribeResponse, Status>;

#[tonic::async_trait]
impl Source for LocalSource {
    type SubscribeStream = ReceiverStream<Answer>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (answers, queue) = mpsc::channel(ANSWER_QUEUE);
        let stream = LocalStream {
            objects: self.0.clone(),
            answers,
            signal: Arc::new(Notify::new()),
            subscriptions: BTreeMap::new(),
        };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

struct Subscription {
    kind: String,
    publisher: Publisher,
    listener: Arc<Listener>,
    started: bool,
}

struct LocalStream {
    objects: Arc<Objects>,
    answers: mpsc::Sender<Answer>,
    signal: Arc<Notify>,
    subscriptions: BTreeMap<u64, Subscription>,
}

/// The subscriber is gone.
struct Gone;

impl LocalStream {
    async fn run(mut self, mut incoming: Streaming<pb::SubscribeRequest>) {
        let answers = self.answers.clone();
        let work = async {
            if let Err(status) = self.serve(&mut incoming).await {
                let _ = self.answers.send(Err(status)).await;
            }
        };
        tokio::select! {
            () = work => {}
            // Without this a stream whose reader left would stay until the next change.
            () = answers.closed() => {}
        }
    }

    async fn serve(&mut self, incoming: &mut Streaming<pb::SubscribeRequest>) -> Result<(), Status> {
        let hello = skerry_rpc::hello(incoming, |first| match first.message {
            Some(Down::Hello(hello)) => Some(hello),
            _ => None,
        });
        let Some(hello) = hello.await? else { return Ok(()) };
        if self.answer(M::Welcome(welcome(&hello)?)).await.is_err() {
            return Ok(());
        }
        let signal = self.signal.clone();
        loop {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(pb::SubscribeRequest { message: Some(message) }) => self.handle(message).await?,
                    // A message of a newer service.
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = signal.notified() => self.collect(),
            }
            if self.publish().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, message: Down) -> Result<(), Status> {
        match message {
            Down::Hello(_) => return Err(Status::invalid_argument("hello may come only once")),
            Down::Open(open) => self.open(open).await?,
            Down::Held(held) => {
                let Some(subscription) = self.subscriptions.get_mut(&held.subscription) else { return Ok(()) };
                subscription.publisher.hold_wire(&held.held).map_err(protocol)?;
                if !held.more {
                    start(&self.objects, subscription);
                }
            }
            Down::Ack(ack) => {
                if let Some(subscription) = self.subscriptions.get_mut(&ack.subscription) {
                    subscription.publisher.ack(ack.nonce).map_err(protocol)?;
                }
            }
            Down::Nack(nack) => {
                if let Some(subscription) = self.subscriptions.get_mut(&nack.subscription) {
                    for (key, reason) in subscription.publisher.nack(nack.nonce, nack.failures).map_err(protocol)? {
                        tracing::warn!(kind = subscription.kind, %key, reason, "a service of this node refused an object");
                    }
                }
            }
            Down::Close(close) => {
                self.subscriptions.remove(&close.subscription);
            }
        }
        Ok(())
    }

    async fn open(&mut self, open: pb::Open) -> Result<(), Status> {
        skerry_sync::wire::check_open(&open).map_err(protocol)?;
        let id = open.subscription;
        let known =
            open.kind == skerry_common::kinds::LINK || skerry_common::kinds::down().any(|kind| kind == open.kind);
        let refusal = if !known {
            Some((pb::CloseCode::UnknownKind, format!("edgehub does not hold the kind {:?}", open.kind)))
        } else if !open.selector.is_empty() {
            Some((pb::CloseCode::Denied, "edgehub does not select by label".to_owned()))
        } else if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            Some((pb::CloseCode::Limit, "too many subscriptions on this stream".to_owned()))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            let closed = pb::Closed { subscription: id, code: code.into(), reason, newest_session: 0 };
            let _ = self.answer(M::Closed(closed)).await;
            return Ok(());
        }
        let mut publisher = Publisher::new(SubscriptionId(id), Default::default());
        publisher.hold_wire(&open.held).map_err(protocol)?;
        let listener = self.objects.listeners.listen(&open.kind, self.signal.clone());
        let mut subscription = Subscription { kind: open.kind, publisher, listener, started: false };
        if !open.more {
            start(&self.objects, &mut subscription);
        }
        self.subscriptions.insert(id, subscription);
        Ok(())
    }

    /// Gives each publisher the keys that changed.
    fn collect(&mut self) {
        for subscription in self.subscriptions.values_mut().filter(|subscription| subscription.started) {
            for key in subscription.listener.take() {
                subscription.publisher.changed(key);
            }
            // What could not be told before may be known now: the kind became complete.
            subscription.publisher.recheck();
        }
    }

    /// Sends what there is to send.
    async fn publish(&mut self) -> Result<(), Gone> {
        let ids: Vec<u64> = self.subscriptions.keys().copied().collect();
        for id in ids {
            while let Some(subscription) = self.subscriptions.remove(&id) {
                let objects = self.objects.clone();
                // The view reads the disk.
                let polled = tokio::task::spawn_blocking(move || poll(&objects, subscription)).await;
                let Ok((subscription, out)) = polled else { return Err(Gone) };
                self.subscriptions.insert(id, subscription);
                match out {
                    Some(Out::Delta(delta)) => self.answer(M::Delta(delta)).await?,
                    Some(Out::InSync(mark)) => self.answer(M::InSync(mark)).await?,
                    Some(Out::Oversize { key, bytes, .. }) => {
                        tracing::error!(%key, bytes, "an object in the store is too large to be sent");
                    }
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, message: M) -> Result<(), Gone> {
        self.answers.send(Ok(pb::SubscribeResponse { message: Some(message) })).await.map_err(|_| Gone)
    }
}

/// Answers the hello of a service of this node.
pub(crate) fn welcome(hello: &pb::Hello) -> Result<pb::Welcome, Status> {
    skerry_sync::version::welcome(&agent(), hello).map_err(|error| Status::failed_precondition(error.to_string()))
}

fn start(objects: &Objects, subscription: &mut Subscription) {
    let mut view = KindView { objects, kind: &subscription.kind };
    subscription.publisher.start(&mut view);
    subscription.started = true;
}

fn poll(objects: &Objects, mut subscription: Subscription) -> (Subscription, Option<Out>) {
    if !subscription.started {
        return (subscription, None);
    }
    let mut view = KindView { objects, kind: &subscription.kind };
    let out = subscription.publisher.poll(&mut view);
    (subscription, out)
}

fn protocol(error: skerry_sync::ProtocolError) -> Status {
    Status::invalid_argument(error.to_string())
}
