//! What comes from the broker, sorted before it waits for anything.
//!
//! What is no request to this node, and what is above the rate of its device, is thrown away and counted here: a
//! flood takes no place in the queue from others. Limits: [`Limits`]; the queue is [`super::INBOUND`] long, and what
//! finds it full is thrown away too.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::Ended;
use super::limits::{About, Admission, Limits};
use super::topic::Asked;
use super::wire::{Events, Message, Receipt};
use crate::node::Node;

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) asked: Asked,
    pub(super) payload: Bytes,
    /// It is above the rate, and to be told so.
    pub(super) too_many: bool,
    pub(super) receipt: Receipt,
}

/// Turns the connection until it ends.
pub(super) async fn turn(mut events: Events, mut sorter: Sorter, queue: mpsc::Sender<Inbound>) -> Ended {
    loop {
        let message = match events.next().await {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(ended) => return ended,
        };
        let Some((asked, too_many)) = sorter.sort(&message) else {
            events.settle(message.receipt);
            continue;
        };
        let inbound = Inbound { asked, payload: message.payload, too_many, receipt: message.receipt };
        match queue.try_send(inbound) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(inbound)) => {
                sorter.node.metrics.bus_dropped.inc();
                events.settle(inbound.receipt);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Ended::Closed,
        }
    }
}

/// Says which messages are requests to this node.
pub(super) struct Sorter {
    node: Arc<Node>,
    limits: Limits,
    shared: bool,
}

impl Sorter {
    pub(super) fn new(node: Arc<Node>, per_second: u32, shared: bool) -> Self {
        Self { node, limits: Limits::new(per_second), shared }
    }

    /// The request, and whether it is above the rate. `None`: there is nothing to be said to it.
    fn sort(&mut self, message: &Message) -> Option<(Asked, bool)> {
        let metrics = &self.node.metrics;
        let topic = std::str::from_utf8(&message.topic).unwrap_or_default();
        // A retained message is what somebody said once, to nobody in particular.
        let Some(asked) = Asked::parse(topic, &self.node.name).filter(|_| !message.retained) else {
            metrics.bus_dropped.inc();
            return None;
        };
        metrics.bus_messages.inc();
        let about = match asked.key() {
            None => About::Members,
            Some(key) if self.node.read(|fleet, _| fleet.has_device(key)) => About::Device(key),
            Some(_) if self.shared => return None,
            Some(_) => About::Nobody,
        };
        match self.limits.admit(about, self.node.now().mono.saturating_mul(1000)) {
            Admission::Admitted => Some((asked, false)),
            Admission::Refused => Some((asked, true)),
            Admission::Ignored => {
                metrics.bus_dropped.inc();
                None
            }
        }
    }
}
