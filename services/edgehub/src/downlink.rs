//! One stream of subscriptions to the hub: what comes down is stored, then acknowledged.
//!
//! Runs as part of a session's task, once for control kinds and once for bulk kinds. Deltas of a stream
//! are committed in the order in which they came. What breaks the protocol ends the session and
//! changes nothing. A subscription that the hub closes because a source is away is opened again, after
//! a wait with jitter, with what the node holds then.

use std::sync::Arc;
use std::time::Duration;

use skerry_common::{Backoff, Key};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_proto::sync::v1::subscribe_request::Message as Down;
use skerry_proto::sync::v1::subscribe_response::Message as M;
use skerry_store::{Change, StoreError};
use skerry_sync::{Apply, Subscriber, SubscriptionId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::body;
use crate::error::SessionError;
use crate::objects::Objects;
use crate::uplink::{Session, agent};

/// Requests that wait for the stream: acknowledgements and the opening lists.
const REQUEST_QUEUE: usize = 32;

/// Waits before a closed subscription is opened again.
const REOPEN_MIN: Duration = Duration::from_millis(200);
const REOPEN_MAX: Duration = Duration::from_secs(5);

/// Wait before a subscription is opened again that the hub refused, or that did not fit into the store.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

struct Subscription {
    kind: &'static str,
    subscriber: Subscriber,
    backoff: Backoff,
    reopen_at: Option<Instant>,
    /// Something was refused since it was opened: what the node holds is not all there is.
    refused: bool,
}

/// See the module documentation.
pub(crate) struct Downlink {
    objects: Arc<Objects>,
    requests: mpsc::Sender<pb::SubscribeRequest>,
    subscriptions: Vec<Subscription>,
    /// Numbers of subscriptions are never used again, so that late messages of an earlier opening are
    /// known as such.
    next_id: u64,
    metrics: crate::metrics::Metrics,
}

impl Downlink {
    /// Runs the stream until it ends. `welcomed` is called when the hub has answered.
    pub(crate) async fn run(
        session: &Session,
        objects: Arc<Objects>,
        kinds: &[&'static str],
        metrics: crate::metrics::Metrics,
        welcomed: impl FnOnce(),
    ) -> Result<std::convert::Infallible, SessionError> {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let _ = requests.try_send(request(Down::Hello(session.hello())));
        let mut client = SourceClient::new(session.channel())
            .max_decoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES)
            .max_encoding_message_size(skerry_rpc::limits::SYNC_MESSAGE_BYTES);
        let (mut stream, first) = skerry_rpc::begin(client.subscribe(ReceiverStream::new(queue))).await?;
        let first = first.and_then(|first| first.message);
        match first {
            Some(M::Welcome(welcome)) => drop(skerry_sync::version::welcomed(&agent(), &welcome)?),
            Some(M::Closed(closed)) if closed.code() == pb::CloseCode::StaleSession => {
                return Err(SessionError::Stale { newest: closed.newest_session });
            }
            other => return Err(SessionError::Unexpected { got: name(other.as_ref()), expected: "welcome" }),
        }
        welcomed();
        let subscriptions = kinds.iter().map(|kind| Subscription {
            kind,
            // Replaced when it is opened.
            subscriber: Subscriber::new(SubscriptionId(0), *kind, Default::default()),
            backoff: Backoff::new(REOPEN_MIN, REOPEN_MAX),
            reopen_at: Some(Instant::now()),
            refused: false,
        });
        let mut downlink = Self { objects, requests, subscriptions: subscriptions.collect(), next_id: 1, metrics };
        loop {
            let wake = downlink.open_due().await?;
            tokio::select! {
                message = stream.message() => match message? {
                    Some(pb::SubscribeResponse { message: Some(message) }) => downlink.handle(message).await?,
                    // A message of a newer hub.
                    Some(_) => {}
                    None => return Err(SessionError::Ended("the hub ended the stream".to_owned())),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Opens the subscriptions whose time has come; returns when the next one's comes.
    async fn open_due(&mut self) -> Result<Option<Instant>, SessionError> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for subscription in &mut self.subscriptions {
            match subscription.reopen_at {
                Some(at) if at <= now => {
                    subscription.reopen_at = None;
                    subscription.refused = false;
                    let id = SubscriptionId(self.next_id);
                    self.next_id += 1;
                    let earlier = std::mem::replace(
                        &mut subscription.subscriber,
                        Subscriber::new(id, subscription.kind, Default::default()),
                    );
                    if earlier.id().0 != 0 {
                        // Closed already where the hub did it, which the hub does not mind.
                        let close = pb::Close { subscription: earlier.id().0 };
                        send(&self.requests, request(Down::Close(close))).await?;
                    }
                    let held = self.objects.held(subscription.kind).await;
                    for message in subscription.subscriber.open("", 0, "", held) {
                        send(&self.requests, message).await?;
                    }
                }
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        Ok(next)
    }

    async fn handle(&mut self, message: M) -> Result<(), SessionError> {
        let (objects, metrics) = (self.objects.clone(), self.metrics.clone());
        match message {
            M::Delta(delta) => {
                let Some(subscription) = self.find(delta.subscription)? else { return Ok(()) };
                let apply = subscription.subscriber.delta(delta)?;
                let answer = commit(&objects, &metrics, subscription, apply).await?;
                send(&self.requests, request(answer)).await?;
                self.sync_mark_settled().await
            }
            M::InSync(mark) => {
                let Some(subscription) = self.find(mark.subscription)? else { return Ok(()) };
                subscription.subscriber.in_sync(mark)?;
                subscription.backoff.reset();
                self.sync_mark_settled().await
            }
            M::Closed(closed) => self.closed(&closed),
            M::Welcome(_) => Err(SessionError::Unexpected { got: "welcome", expected: "a delta" }),
        }
    }

    /// Writes down which kinds are complete now.
    async fn sync_mark_settled(&mut self) -> Result<(), SessionError> {
        for subscription in &self.subscriptions {
            // With a refusal the node does not hold everything, and must not say that it does.
            if subscription.subscriber.is_in_sync() && !subscription.refused {
                self.objects.completed(subscription.kind).await?;
            }
        }
        Ok(())
    }

    /// The open subscription of this number; none for one that was open before.
    fn find(&mut self, id: u64) -> Result<Option<&mut Subscription>, SessionError> {
        if id == 0 || id >= self.next_id {
            return Err(SessionError::Unexpected { got: "an unknown subscription", expected: "one of ours" });
        }
        Ok(self.subscriptions.iter_mut().find(|subscription| subscription.subscriber.id().0 == id))
    }

    fn closed(&mut self, closed: &pb::Closed) -> Result<(), SessionError> {
        let code = closed.code();
        if code == pb::CloseCode::StaleSession {
            return Err(SessionError::Stale { newest: closed.newest_session });
        }
        let Some(subscription) = self.find(closed.subscription)? else { return Ok(()) };
        let wait = match code {
            pb::CloseCode::Unavailable | pb::CloseCode::Unspecified | pb::CloseCode::Protocol => {
                subscription.backoff.jittered()
            }
            _ => REFUSED_WAIT,
        };
        tracing::debug!(kind = subscription.kind, ?code, reason = closed.reason, "subscription closed by the hub");
        subscription.reopen_at = Some(Instant::now() + wait);
        Ok(())
    }
}

/// Commits a delta and makes its answer.
async fn commit(
    objects: &Arc<Objects>,
    metrics: &crate::metrics::Metrics,
    subscription: &mut Subscription,
    apply: Apply,
) -> Result<Down, SessionError> {
    let mut failures: Vec<(Key, String)> = Vec::new();
    let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
    for change in apply.changes {
        match change {
            skerry_sync::Change::Delete { key } => deletes.push(Change::Delete { key }),
            skerry_sync::Change::Upsert { key, version, body, encoding, .. } => {
                match body::check(&key, &body, encoding) {
                    Ok(uid) => upserts.push(Change::Upsert { key, uid: uid.into(), version, body, encoding }),
                    Err(error) => {
                        metrics.bodies_refused.inc();
                        failures.push((key, skerry_common::chain(&error)));
                    }
                }
            }
        }
    }
    let all = deletes.iter().chain(&upserts).cloned().collect();
    match objects.apply(subscription.kind, all).await {
        Ok(()) => objects.link.store_problem(""),
        Err(StoreError::Full { reason: limit }) => {
            // Deletions make room and are always taken.
            objects.apply(subscription.kind, deletes).await?;
            let reason = format!("the node's store is full: {limit}");
            objects.link.store_problem(&reason);
            failures.extend(upserts.iter().map(|change| (key_of(change).clone(), reason.clone())));
            // Asked for again when there may be room.
            subscription.reopen_at = Some(Instant::now() + REFUSED_WAIT);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(if failures.is_empty() {
        Down::Ack(subscription.subscriber.committed(apply.nonce))
    } else {
        subscription.refused = true;
        tracing::warn!(kind = subscription.kind, objects = failures.len(), "objects refused");
        Down::Nack(subscription.subscriber.refused(apply.nonce, failures))
    })
}

fn key_of(change: &Change) -> &Key {
    match change {
        Change::Upsert { key, .. } | Change::Delete { key } => key,
    }
}

async fn send(
    requests: &mpsc::Sender<pb::SubscribeRequest>,
    request: pb::SubscribeRequest,
) -> Result<(), SessionError> {
    requests.send(request).await.map_err(|_| SessionError::Ended("the stream takes no more".to_owned()))
}

fn request(message: Down) -> pb::SubscribeRequest {
    pb::SubscribeRequest { message: Some(message) }
}

fn name(message: Option<&M>) -> &'static str {
    match message {
        Some(M::Welcome(_)) => "a welcome",
        Some(M::Delta(_)) => "a delta",
        Some(M::InSync(_)) => "a sync mark",
        Some(M::Closed(_)) => "a refusal",
        None => "nothing",
    }
}

/// Sleeps until the instant, or for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
