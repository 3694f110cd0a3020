//! The proxy's typed events. What every connection does is logged at debug, unless an access log is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::NodeName;
use skerry_mesh_core::Protocol;
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

/// A client of SOCKS5 that named itself wrongly.
pub(crate) struct WrongPassword {
    pub(crate) client: SocketAddr,
}

impl Event for WrongPassword {
    type Metrics = Metrics;

    fn log(&self) {
        tracing::warn!(target: "skerry::audit", client = %self.client, "wrong user name or password");
    }

    fn count(&self, metrics: &Metrics) {
        metrics.wrong_passwords.inc();
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

/// A flow that was served has ended: a line of the access log.
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
        let Flow { client, destination, protocol } = self.flow;
        let protocol = protocol.as_str();
        let (end, target) = (self.end.name(), Place(self.target));
        let took_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        let (up, down) = (self.up, self.down);
        tracing::info!(
            target: "skerry::access", protocol, %client, %destination, endpoint = %target, end, up, down, took_ms, "flow"
        );
    }

    fn count(&self, metrics: &Metrics) {
        let ended = match self.flow.protocol {
            Protocol::Tcp => &metrics.ended,
            Protocol::Udp => &metrics.flows_ended,
        };
        ended.get_or_create(&Reason { reason: self.end.name() }).inc();
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use skerry_telemetry::{Registry, emit};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::flow::Destination;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_flow_is_a_line_of_the_access_log_where_it_is_wanted_and_always_counted() {
        let (log, registry) = (Log::default(), Registry::new());
        let metrics = Metrics::new(&registry);
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let client = SocketAddr::from(([10, 0, 0, 7], 4_321));
        let destination = Destination::Address(SocketAddr::from(([10, 96, 0, 1], 80)));
        let flow = Flow { protocol: Protocol::Tcp, client, destination };
        let target = Target::Local(SocketAddr::from(([10, 244, 0, 9], 8_080)));
        tracing::subscriber::with_default(subscriber, || {
            for access_log in [false, true] {
                let took = Duration::from_millis(12);
                let ended = Ended { flow: &flow, target: &target, end: End::Closed, up: 3, down: 5, took, access_log };
                emit(ended, &metrics);
            }
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = "skerry::access: flow protocol=\"tcp\" client=10.0.0.7:4321 destination=10.96.0.1:80 \
                    endpoint=10.244.0.9:8080 end=\"closed\" up=3 down=5 took_ms=12";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(registry.encode().contains("skerry_mesh_proxy_connections_ended_total{reason=\"closed\"} 2"));
    }
}
