//! Objects in: one subscription for each kind, over one stream.
//!
//! A service gives the kinds and a channel of batches, applies each batch and answers. Invariants: a delta
//! is acknowledged after it was applied; an object that cannot be used is refused by name and the old one
//! stays; what was applied is named when the stream opens again, so only differences travel. Limits: one
//! batch at a time; bodies of [`MAX_JSON_BYTES`]. On a crash of either side the other notices the end of
//! the stream.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use skerry_common::{Backoff, Encoding, Key, Version, chain, kinds};
use skerry_proto::sync::v1 as pb;
use skerry_proto::sync::v1::source_client::SourceClient;
use skerry_rpc::limits::SYNC_MESSAGE_BYTES;
use skerry_sync::{SubscribeLimits, Subscriber, SubscriptionId};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, protocol, status};
use crate::{Client, RETRY_MAX, RETRY_MIN, SEND_QUEUE};

/// Largest body after decompression, as in EdgeHub.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// A change as it comes from edgehub; bodies are plain JSON.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is now this.
    Upsert {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        key: Key,
        /// Its JSON.
        body: Bytes,
    },
    /// The object is gone, or no longer the node's.
    Delete {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        key: Key,
    },
    /// Everything there is of the kind was told; from now on what is missing is not there.
    InSync {
        /// The kind.
        kind: &'static str,
    },
}

/// Changes for the service, and where it says what it could not take.
#[derive(Debug)]
pub struct Batch {
    /// In order; all of one kind.
    pub changes: Vec<Change>,
    /// One entry per change: why it was refused.
    pub done: oneshot::Sender<Vec<Option<String>>>,
}

/// Batches that wait for the service; one per stream is enough.
pub const BATCHES: usize = 2;

/// What the service holds, by kind.
type Held = BTreeMap<&'static str, BTreeMap<Key, Version>>;

/// Keeps subscribing to the kinds, in their order, until it is dropped.
pub async fn follow(client: Client, of: &'static [&'static str], batches: mpsc::Sender<Batch>) {
    let mut held = Held::new();
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let error = subscribe(&client, of, &batches, &mut held, &mut backoff).await;
        client.reconnects.inc();
        tracing::debug!(error = chain(&error), "subscription to edgehub ended");
        tokio::time::sleep(backoff.jittered()).await;
    }
}

async fn subscribe(
    client: &Client,
    of: &'static [&'static str],
    batches: &mpsc::Sender<Batch>,
    held: &mut Held,
    backoff: &mut Backoff,
) -> Error {
    // Its versions count from the start of EdgeHub's process.
    held.remove(kinds::LINK);
    let (tx, rx) = mpsc::channel(SEND_QUEUE);
    let send = async |message| tx.send(message).await.map_err(|_| Error::Hub("the stream ended".into()));
    let run = async {
        send(pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Hello(client.hello())) }).await?;
        let mut source = SourceClient::new(client.channel.clone()).max_decoding_message_size(SYNC_MESSAGE_BYTES);
        let mut stream = source.subscribe(ReceiverStream::new(rx)).await.map_err(status)?.into_inner();
        let mut subscribers = Vec::new();
        for (index, kind) in (1_u64..).zip(of.iter().copied()) {
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
    let (done, answer) = oneshot::channel();
    batches.send(Batch { changes, done }).await.map_err(|_| Error::Service)?;
    answer.await.map_err(|_| Error::Service)
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
