//! The connection to EdgeHub: objects in, reports out.
//!
//! Two tasks, one stream each; a stream that ends is opened again after a short wait, without end,
//! because EdgeHub is on the same machine and comes back. What was applied is named when the stream
//! opens again, so only differences travel. Invariants: a delta is acknowledged after it was applied;
//! an object that cannot be used is refused by name and the old one stays; a report is forgotten only
//! when EdgeHub has it, or refused it for good. Limits: one batch at a time; bodies of
//! [`MAX_JSON_BYTES`]. On a crash of either side the other notices the end of the stream.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_common::{Backoff, COMPRESS_ABOVE, Encoding, Key, Version, chain, kinds};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::sink_client::SinkClient;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::Channel;
use skerry_rpc::limits::SYNC_MESSAGE_BYTES;
use skerry_sync::limits::WINDOW_REPORTS;
use skerry_sync::{Outcome, Reporter, Settled, SubscribeLimits, Subscriber, SubscriptionId};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::context::{Context, now_ms};
use crate::error::Error;
use crate::events::{Kind, Subject};
use crate::objects::{Change, KINDS};

/// The protocol version that edged speaks.
const PROTOCOL: u32 = 1;
/// Largest body after decompression, as in EdgeHub.
const MAX_JSON_BYTES: u64 = 8 << 20;
/// Waits between attempts.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Messages on their way into a stream.
const SEND_QUEUE: usize = 64;
/// Reports looked up at a time.
const OFFER: usize = 256;

/// Changes for the agent, and where it says what it could not take.
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    /// One entry per change: why it was refused.
    pub(crate) done: oneshot::Sender<Vec<Option<String>>>,
}

/// Batches that wait for the agent; one per stream is enough.
pub(crate) const BATCHES: usize = 2;

fn hello(context: &Context) -> pb::Hello {
    pb::Hello {
        protocols: vec![PROTOCOL],
        node: context.node.clone(),
        session: 0,
        agent: format!("edged/{}", skerry_telemetry::VERSION),
    }
}

/// What edged holds, by kind.
type Held = BTreeMap<&'static str, BTreeMap<Key, Version>>;

/// Keeps subscribing until it is dropped.
pub(crate) async fn follow(context: Arc<Context>, channel: Channel, batches: mpsc::Sender<Batch>) {
    let mut held = Held::new();
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let error = subscribe(&context, &channel, &batches, &mut held, &mut backoff).await;
        context.metrics.hub_reconnects.inc();
        tracing::debug!(error = chain(&error), "subscription to edgehub ended");
        tokio::time::sleep(backoff.jittered()).await;
    }
}

async fn subscribe(
    context: &Context,
    channel: &Channel,
    batches: &mpsc::Sender<Batch>,
    held: &mut Held,
    backoff: &mut Backoff,
) -> Error {
    // Its versions count from the start of EdgeHub's process.
    held.remove(kinds::LINK);
    let (tx, rx) = mpsc::channel(SEND_QUEUE);
    let send = async |message| tx.send(message).await.map_err(|_| Error::Hub("the stream ended".into()));
    let run = async {
        send(pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Hello(hello(context))) }).await?;
        let mut client = SourceClient::new(channel.clone()).max_decoding_message_size(SYNC_MESSAGE_BYTES);
        let mut stream = client.subscribe(ReceiverStream::new(rx)).await.map_err(status)?.into_inner();
        let mut subscribers = Vec::new();
        for (index, kind) in (1_u64..).zip(KINDS) {
            let mut subscriber = Subscriber::new(SubscriptionId(index), kind, SubscribeLimits::default());
            let have = held.get(kind).into_iter().flatten().map(|(k, v)| (k.clone(), v.clone()));
            for message in subscriber.open("", 0, "", have.collect::<Vec<_>>()) {
                send(message).await?;
            }
            subscribers.push((kind, subscriber));
        }
        while let Some(reply) = stream.message().await.map_err(status)? {
            use pb::subscribe_response::Message as M;
            let id = match &reply.message {
                Some(M::Delta(m)) => m.subscription,
                Some(M::InSync(m)) => m.subscription,
                // An EdgeHub of another version: the other kinds go on.
                Some(M::Closed(m)) if m.code == pb::CloseCode::UnknownKind as i32 => {
                    tracing::warn!(subscription = m.subscription, reason = m.reason, "edgehub does not serve a kind");
                    continue;
                }
                Some(M::Closed(m)) => {
                    return Err(Error::Hub(format!("a subscription was closed: {}", m.reason)));
                }
                Some(M::Welcome(_)) => {
                    backoff.reset();
                    continue;
                }
                None => continue,
            };
            let index = usize::try_from(id).ok().and_then(|i| i.checked_sub(1));
            let Some((kind, subscriber)) = index.and_then(|i| subscribers.get_mut(i)) else {
                return Err(Error::Hub(format!("an answer to the unknown subscription {id}")));
            };
            match reply.message {
                Some(M::Delta(delta)) => {
                    let answer = take(kind, subscriber, delta, batches, held).await?;
                    send(answer).await?;
                }
                Some(M::InSync(mark)) => {
                    subscriber.in_sync(mark).map_err(protocol)?;
                    if subscriber.is_in_sync() {
                        tracing::debug!(kind, "in sync with edgehub");
                        apply(batches, vec![Change::InSync { kind }]).await?;
                    }
                }
                _ => {}
            }
        }
        Err::<std::convert::Infallible, _>(Error::Hub("edgehub ended the stream".into()))
    };
    match run.await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Applies one delta and makes the answer.
async fn take(
    kind: &'static str,
    subscriber: &mut Subscriber,
    delta: pb::Delta,
    batches: &mpsc::Sender<Batch>,
    held: &mut Held,
) -> Result<pb::SubscribeRequest, Error> {
    let work = subscriber.delta(delta).map_err(protocol)?;
    let mut failures = Vec::new();
    let mut changes = Vec::new();
    let mut versions = Vec::new();
    for change in work.changes {
        match change {
            skerry_sync::Change::Delete { key } => {
                changes.push(Change::Delete { kind, key: key.clone() });
                versions.push((key, None));
            }
            skerry_sync::Change::Upsert { key, version, body, encoding, .. } => match json(body, encoding) {
                Ok(body) => {
                    changes.push(Change::Upsert { kind, key: key.clone(), body });
                    versions.push((key, Some(version)));
                }
                Err(reason) => failures.push((key, reason)),
            },
        }
    }
    let refused = apply(batches, changes).await?;
    let held = held.entry(kind).or_default();
    for ((key, version), refused) in versions.into_iter().zip(refused) {
        match (refused, version) {
            (Some(reason), _) => failures.push((key, reason)),
            (None, Some(version)) => drop(held.insert(key, version)),
            (None, None) => drop(held.remove(&key)),
        }
    }
    let message = if failures.is_empty() {
        pb::subscribe_request::Message::Ack(subscriber.committed(work.nonce))
    } else {
        for (key, reason) in &failures {
            tracing::warn!(kind, %key, reason, "object refused");
        }
        pb::subscribe_request::Message::Nack(subscriber.refused(work.nonce, failures))
    };
    Ok(pb::SubscribeRequest { message: Some(message) })
}

async fn apply(batches: &mpsc::Sender<Batch>, changes: Vec<Change>) -> Result<Vec<Option<String>>, Error> {
    let ended = || Error::Hub("the agent ended".into());
    let (done, answer) = oneshot::channel();
    batches.send(Batch { changes, done }).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())
}

fn json(body: Bytes, encoding: Encoding) -> Result<Bytes, String> {
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Zstd => {
            let mut json = Vec::new();
            let decoder = zstd::stream::Decoder::new(&*body).map_err(|e| e.to_string())?;
            decoder.take(MAX_JSON_BYTES + 1).read_to_end(&mut json).map_err(|e| e.to_string())?;
            if json.len() as u64 > MAX_JSON_BYTES {
                return Err(format!("the body is larger than {MAX_JSON_BYTES} bytes"));
            }
            Ok(json.into())
        }
    }
}

fn status(status: tonic::Status) -> Error {
    Error::Hub(format!("{:?}: {}", status.code(), status.message()))
}

fn protocol(error: skerry_sync::ProtocolError) -> Error {
    Error::Hub(error.to_string())
}

/// Keeps reporting until it is dropped.
pub(crate) async fn report(context: Arc<Context>, channel: Channel) {
    let mut reporter = Reporter::new(WINDOW_REPORTS);
    let mut offered = 0;
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let error = match stream_reports(&context, &channel, &mut reporter, &mut offered, &mut backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        reporter.disconnected();
        tracing::debug!(error = chain(&error), "reporting to edgehub ended");
        tokio::time::sleep(backoff.jittered()).await;
    }
}

async fn stream_reports(
    context: &Context,
    channel: &Channel,
    reporter: &mut Reporter,
    offered: &mut u64,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Error> {
    let ended = |_| Error::Hub("the stream ended".into());
    let (tx, rx) = mpsc::channel(SEND_QUEUE);
    let first = pb::ReportRequest { message: Some(pb::report_request::Message::Hello(hello(context))) };
    tx.send(first).await.map_err(ended)?;
    let mut client = SinkClient::new(channel.clone()).max_decoding_message_size(SYNC_MESSAGE_BYTES);
    let mut answers = client.report(ReceiverStream::new(rx)).await.map_err(status)?.into_inner();
    loop {
        for id in context.outbox.take_superseded() {
            reporter.superseded(id);
        }
        for (id, _) in context.outbox.after(*offered, OFFER) {
            *offered = id;
            reporter.offer(id);
        }
        let now = u64::try_from(now_ms()).unwrap_or_default();
        while let Some(id) = reporter.next(now) {
            let Some(message) = encode(context, id) else {
                // Replaced since it was offered.
                reporter.superseded(id);
                reporter.outcome(id, Outcome::Committed, now);
                continue;
            };
            tx.send(message).await.map_err(ended)?;
        }
        let wait = reporter.wake_at().map_or(RETRY_MAX, |at| Duration::from_millis(at.saturating_sub(now)));
        tokio::select! {
            () = context.outbox.changed() => {}
            () = tokio::time::sleep(wait) => {}
            answer = answers.message() => {
                let Some(answer) = answer.map_err(status)? else {
                    return Err(Error::Hub("edgehub ended the stream".into()));
                };
                backoff.reset();
                let Some(pb::report_response::Message::Outcome(outcome)) = answer.message else { continue };
                let (id, outcome) = Outcome::from_wire(outcome).map_err(protocol)?;
                settle(context, reporter.outcome(id, outcome, now));
            }
        }
    }
}

fn settle(context: &Context, settled: Settled) {
    match settled {
        Settled::Remove(id) => context.outbox.remove(id),
        Settled::Rejected(id, reason) => {
            context.metrics.reports_rejected.inc();
            let report = context.outbox.get(id);
            context.outbox.remove(id);
            let Some(report) = report else { return };
            tracing::warn!(kind = report.kind, key = %report.key, reason, "report refused");
            // An Event about a refused Event would only be refused again.
            if report.kind != kinds::EVENT {
                let message = format!("the {} of {} was refused: {reason}", report.kind, report.key);
                context.events.record(&Subject::node(&context.node), Kind::Warning, "ReportRejected", &message);
            }
        }
        Settled::Later { .. } | Settled::Ignored(_) => {}
    }
}

fn encode(context: &Context, id: u64) -> Option<pb::ReportRequest> {
    let report = context.outbox.get(id)?;
    let compressed = (report.body.len() > COMPRESS_ABOVE).then(|| zstd::bulk::compress(&report.body, 0).ok()).flatten();
    let (encoding, body) = match compressed {
        Some(body) => (pb::Encoding::Zstd, body.into()),
        None => (pb::Encoding::Identity, report.body),
    };
    Some(pb::ReportRequest {
        message: Some(pb::report_request::Message::Report(pb::Report {
            id,
            node: String::new(),
            session: 0,
            kind: report.kind.to_owned(),
            key: Some(skerry_sync::wire::key_to_wire(&report.key)),
            uid: report.uid,
            encoding: encoding.into(),
            body,
            observed_unix_ms: now_ms(),
            traceparent: skerry_telemetry::trace::traceparent(),
        })),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bodies_are_bounded_when_they_are_unpacked() {
        let packed = |bytes: usize| Bytes::from(zstd::bulk::compress(&vec![b' '; bytes], 0).unwrap());
        assert_eq!(json(packed(5_000), Encoding::Zstd).unwrap().len(), 5_000);
        assert!(json(packed(9 << 20), Encoding::Zstd).is_err());
        assert!(json(Bytes::from_static(b"not zstd"), Encoding::Zstd).is_err());
        assert_eq!(json(Bytes::from_static(b"{}"), Encoding::Identity).unwrap(), "{}");
    }
}
