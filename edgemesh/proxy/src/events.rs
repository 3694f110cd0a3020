//! The proxy's typed events. What every connection does is logged at debug, unless an access log is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_telemetry::Event;

use crate::dial::{DialError, Place};
use crate::duplex::End;
use crate::flow::{Flow, Target};
use crate::metrics::{Metrics, Reason};

/// A connection over the limit.
pub(crate) struct Shed {
    pub(crate) client: SocketAddr,
}

impl Event for Shed {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::debug!(client = %self.client, "connection reset: too many");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.shed.inc();
    }
}

/// A flow that nobody serves.
pub(crate) struct Refused<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) reason: &'static str,
}

impl Event for Refused<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        let Flow { client, destination, .. } = self.flow;
        tracing::debug!(%client, %destination, reason = self.reason, "flow refused");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.refused.get_or_create(&Reason { reason: self.reason }).inc();
    }
}

/// An endpoint that could not be reached.
pub(crate) struct AttemptFailed<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) target: &'a Target,
    pub(crate) error: DialError,
}

impl Event for AttemptFailed<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        let Flow { destination, .. } = self.flow;
        let target = Place(self.target);
        tracing::debug!(%destination, %target, reason = self.error.name(), "endpoint not reached");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.attempts_failed.get_or_create(&Reason { reason: self.error.name() }).inc();
    }
}

/// A connection that was served has ended: a line of the access log.
pub(crate) struct Ended<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) target: &'a Target,
    pub(crate) end: End,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) took: Duration,
    pub(crate) access_log: bool,
}

impl Event for Ended<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        if !self.access_log {
            return;
        }
        let Flow { client, destination, .. } = self.flow;
        let (end, target) = (self.end.name(), Place(self.target));
        let took_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        let (up, down) = (self.up, self.down);
        tracing::info!(
            target: "skerry::access", %client, %destination, endpoint = %target, end, up, down, took_ms, "connection"
        );
    }

    fn count(&self, metrics: &Metrics) {
        metrics.ended.get_or_create(&Reason { reason: self.end.name() }).inc();
        metrics.bytes(self.up, self.down);
    }
}

/// A stream of another node that was not served. The name is the one that the node has proved.
pub(crate) struct StreamRefused<'a> {
    pub(crate) peer: &'a NodeName,
    pub(crate) reason: &'static str,
    /// Whether the node asked for what it may not have, which an operator wants to see.
    pub(crate) audit: bool,
}

impl Event for StreamRefused<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        let Self { peer, reason, .. } = self;
        if self.audit {
            tracing::warn!(target: "skerry::audit", %peer, reason, "stream of a node refused");
        } else {
            tracing::debug!(%peer, reason, "stream of a node refused");
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.streams_refused.get_or_create(&Reason { reason: self.reason }).inc();
    }
}

/// A stream of another node that was served has ended.
pub(crate) struct StreamEnded<'a> {
    pub(crate) peer: &'a NodeName,
    pub(crate) end: End,
}

impl Event for StreamEnded<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::debug!(peer = %self.peer, end = self.end.name(), "stream of a node ended");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.streams_ended.get_or_create(&Reason { reason: self.end.name() }).inc();
    }
}
