//! The hub's typed events.

use skerry_common::NodeName;
use skerry_telemetry::Event;

use crate::metrics::{Metrics, Reason, Source};

/// A node's session began.
pub(crate) struct SessionStarted<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) session: u64,
    pub(crate) agent: &'a str,
}

impl Event for SessionStarted<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::info!(node = %self.node, session = self.session, agent = self.agent, "node connected");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.sessions.inc();
        metrics.sessions_started.inc();
    }
}

/// A node's session ended.
pub(crate) struct SessionEnded<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) session: u64,
    pub(crate) reason: &'static str,
}

impl Event for SessionEnded<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::info!(node = %self.node, session = self.session, reason = self.reason, "node disconnected");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.sessions.dec();
        metrics.sessions_ended.get_or_create(&Reason { reason: self.reason }).inc();
    }
}

/// A node asked for something that it may not have. The identity is the certificate's.
pub(crate) struct Refused<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) reason: &'static str,
}

impl Event for Refused<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::warn!(target: "skerry::audit", node = %self.node, reason = self.reason, "request of a node refused");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.refused.get_or_create(&Reason { reason: self.reason }).inc();
    }
}

/// The connection to a source came up or went down.
pub(crate) struct SourceLink<'a> {
    pub(crate) source: &'a str,
    pub(crate) up: bool,
    pub(crate) reason: &'a str,
}

impl Event for SourceLink<'_> {
    type Metrics = Metrics;

    fn log(&self) {
        if self.up {
            tracing::info!(source = self.source, "source connected");
        } else {
            tracing::warn!(source = self.source, reason = self.reason, "source not connected");
        }
    }

    fn count(&self, metrics: &Metrics) {
        let label = Source { source: self.source.to_owned() };
        metrics.source_up.get_or_create(&label).set(i64::from(self.up));
    }
}
