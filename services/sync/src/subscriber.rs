//! The receiving end of one subscription.
//!
//! **For:** turning a stream of deltas into changes to be committed, and acknowledging them when
//! they are durable, never earlier.
//!
//! **Called by** edgehub towards its hub, by edged and the other services of a node towards
//! edgehub, from the task that owns the stream: [`Subscriber::open`] on a new stream,
//! [`Subscriber::delta`] for each delta, then, when the store has it on disk,
//! [`Subscriber::committed`] or [`Subscriber::refused`], whose result goes on the stream.
//!
//! **What the caller owes.** Deltas are committed in the order in which they came. The held list
//! given to [`Subscriber::open`] is read from the store *after* every change of the earlier stream
//! is committed or abandoned: a list read too early makes an object that was deleted meanwhile
//! stay for ever. Messages of a stream that was replaced are thrown away; to open a subscription
//! anew on a stream that lives on, close it and take a new [`SubscriptionId`], so that what is still
//! on its way to the old one is not taken for the new one's. A store that is new or rebuilt is
//! complete when [`Subscriber::is_in_sync`] is true *and nothing was refused*.
//!
//! **Invariants.** A delta that breaks the protocol changes nothing. An `Ack` exists only for a
//! delta that was handed out and committed. [`Subscriber::is_in_sync`] is true only when all that
//! came before the mark is settled.
//!
//! **Limits.** [`SubscribeLimits`], [`MAX_OBJECT_BYTES`].
//!
//! **Crash, cancel, full.** Nothing is kept here that the store does not know. A full store
//! answers with [`Subscriber::refused`] and opens the subscription anew when it has room.

use std::collections::{BTreeSet, HashSet};

use skerry_common::{Key, Version};
use skerry_proto::sync::v1 as proto;

use crate::error::ProtocolError;
use crate::limits::{HELD_PER_MESSAGE, MAX_DELTA_BYTES, MAX_OBJECT_BYTES, SubscribeLimits};
use crate::object::{Change, SubscriptionId};
use crate::wire::{
    cut_reason, encoding_from_wire, held_to_wire, key_from_wire, key_to_wire, tombstone_cost, upsert_cost,
    version_from_wire,
};

/// What one delta asks to be committed, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// To be given to [`Subscriber::committed`] or [`Subscriber::refused`].
    pub nonce: u64,
    /// No key appears twice. Deletions come first: they make room.
    pub changes: Vec<Change>,
}

/// The receiving end of one subscription; see the module.
#[derive(Debug)]
pub struct Subscriber {
    id: SubscriptionId,
    kind: String,
    limits: SubscribeLimits,
    opened: bool,
    last_nonce: u64,
    /// Handed out and not settled; at most `window_deltas`.
    outstanding: BTreeSet<u64>,
    /// The last nonce before `InSync`.
    in_sync_after: Option<u64>,
}

impl Subscriber {
    /// A subscription to one kind, not yet open.
    #[must_use]
    pub fn new(id: SubscriptionId, kind: impl Into<String>, limits: SubscribeLimits) -> Self {
        Self {
            id,
            kind: kind.into(),
            limits,
            opened: false,
            last_nonce: 0,
            outstanding: BTreeSet::new(),
            in_sync_after: None,
        }
    }

    /// The subscription.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.id
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Begins on a new stream: forgets the earlier one and returns the messages to send, in order.
    /// `node` is empty and `session` zero unless the stream carries many nodes. `held` is what the
    /// store holds durably of this kind and selector.
    pub fn open(
        &mut self,
        node: &str,
        session: u64,
        selector: &str,
        held: impl IntoIterator<Item = (Key, Version)>,
    ) -> Vec<proto::SubscribeRequest> {
        self.opened = true;
        self.last_nonce = 0;
        self.outstanding.clear();
        self.in_sync_after = None;

        let mut chunks: Vec<Vec<proto::HeldObject>> = Vec::new();
        let mut chunk = Vec::new();
        let mut bytes = 0_usize;
        for (key, version) in held {
            let cost = tombstone_cost(&key).saturating_add(version.as_str().len());
            if chunk.len() == HELD_PER_MESSAGE || bytes.saturating_add(cost) > MAX_DELTA_BYTES {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
            bytes = bytes.saturating_add(cost);
            chunk.push(held_to_wire(&key, &version));
        }
        chunks.push(chunk);

        let last = chunks.len().saturating_sub(1);
        let subscription = self.id.0;
        chunks
            .into_iter()
            .enumerate()
            .map(|(at, held)| {
                let more = at < last;
                let message = if at == 0 {
                    proto::subscribe_request::Message::Open(proto::Open {
                        subscription,
                        node: node.to_owned(),
                        session,
                        kind: self.kind.clone(),
                        selector: selector.to_owned(),
                        held,
                        more,
                    })
                } else {
                    proto::subscribe_request::Message::Held(proto::Held { subscription, held, more })
                };
                proto::SubscribeRequest { message: Some(message) }
            })
            .collect()
    }

    /// Takes a delta and hands out what is to be committed.
    ///
    /// # Errors
    /// [`ProtocolError`] for a delta that a correct source never sends; end the stream.
    pub fn delta(&mut self, delta: proto::Delta) -> Result<Apply, ProtocolError> {
        self.check_subscription("delta", delta.subscription)?;
        if delta.nonce <= self.last_nonce {
            return Err(ProtocolError::NonceNotGrowing { last: self.last_nonce, got: delta.nonce });
        }
        if self.outstanding.len() >= self.limits.window_deltas {
            return Err(ProtocolError::WindowExceeded { window: self.limits.window_deltas });
        }
        let objects = delta.upserts.len().saturating_add(delta.tombstones.len());
        if objects == 0 {
            return Err(ProtocolError::EmptyDelta);
        }
        if objects > self.limits.max_delta_objects {
            return Err(ProtocolError::TooLarge {
                what: "changes in a delta",
                got: objects,
                limit: self.limits.max_delta_objects,
            });
        }

        let mut seen = HashSet::with_capacity(objects);
        let mut changes = Vec::with_capacity(objects);
        let mut bytes = 0_usize;
        for tombstone in delta.tombstones {
            let key = key_from_wire(tombstone.key.as_ref())?;
            if !seen.insert(key.clone()) {
                return Err(ProtocolError::DuplicateKey { key: key.to_string() });
            }
            bytes = bytes.saturating_add(tombstone_cost(&key));
            changes.push(Change::Delete { key });
        }
        for upsert in delta.upserts {
            let key = key_from_wire(upsert.key.as_ref())?;
            if !seen.insert(key.clone()) {
                return Err(ProtocolError::DuplicateKey { key: key.to_string() });
            }
            if upsert.body.len() > MAX_OBJECT_BYTES {
                return Err(ProtocolError::TooLarge {
                    what: "object body",
                    got: upsert.body.len(),
                    limit: MAX_OBJECT_BYTES,
                });
            }
            let version = version_from_wire(&upsert.version)?;
            bytes = bytes.saturating_add(upsert_cost(&key, &version, &upsert.body));
            changes.push(Change::Upsert {
                key,
                version,
                encoding: encoding_from_wire(upsert.encoding)?,
                body: upsert.body,
                traceparent: delta.traceparent.clone(),
            });
        }
        // One object alone may be as large as an object may be.
        if objects > 1 && bytes > self.limits.max_delta_bytes {
            return Err(ProtocolError::TooLarge { what: "delta", got: bytes, limit: self.limits.max_delta_bytes });
        }

        self.last_nonce = delta.nonce;
        self.outstanding.insert(delta.nonce);
        Ok(Apply { nonce: delta.nonce, changes })
    }

    /// The delta is durable: returns the acknowledgement to send.
    pub fn committed(&mut self, nonce: u64) -> proto::Ack {
        self.outstanding.remove(&nonce);
        proto::Ack { subscription: self.id.0, nonce }
    }

    /// The delta is durable but for these keys, of which the store kept what it had: returns the
    /// answer to send.
    pub fn refused(&mut self, nonce: u64, failures: Vec<(Key, String)>) -> proto::Nack {
        self.outstanding.remove(&nonce);
        proto::Nack {
            subscription: self.id.0,
            nonce,
            failures: failures
                .into_iter()
                .map(|(key, reason)| proto::Failure { key: Some(key_to_wire(&key)), reason: cut_reason(reason) })
                .collect(),
        }
    }

    /// Takes the mark that the difference was sent. A repetition changes nothing.
    ///
    /// # Errors
    /// [`ProtocolError`] if it is for another subscription or came before the subscription was
    /// opened.
    pub fn in_sync(&mut self, mark: proto::InSync) -> Result<(), ProtocolError> {
        self.check_subscription("in_sync", mark.subscription)?;
        self.in_sync_after.get_or_insert(self.last_nonce);
        Ok(())
    }

    /// Whether the store holds everything that the source had when it said `InSync`.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.in_sync_after.is_some_and(|mark| self.outstanding.first().is_none_or(|nonce| *nonce > mark))
    }

    /// Deltas handed out and not settled.
    #[must_use]
    pub fn outstanding_len(&self) -> usize {
        self.outstanding.len()
    }

    fn check_subscription(&self, message: &'static str, got: u64) -> Result<(), ProtocolError> {
        if got != self.id.0 {
            return Err(ProtocolError::UnknownSubscription { expected: self.id.0, got });
        }
        if !self.opened {
            return Err(ProtocolError::OutOfOrder { message });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "subscriber_tests.rs"]
mod tests;
