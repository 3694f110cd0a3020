//! Typed events: a log line and a metric that cannot drift apart.
//!
//! Each crate defines its events as structs and says once how they are logged and counted; the code
//! that sees them happen only calls [`emit`].

/// Something worth both a log line and a count.
pub trait Event {
    /// The crate's metrics.
    type Metrics;

    /// Writes the log line: no payload, no secret.
    fn log(&self);

    /// Counts it.
    fn count(&self, metrics: &Self::Metrics);
}

/// Logs and counts an event.
pub fn emit<E: Event>(event: E, metrics: &E::Metrics) {
    event.log();
    event.count(metrics);
}
