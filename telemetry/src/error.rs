//! Why telemetry could not be set up.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not of the form `info,skerry_cloudhub=debug`.
    #[error("the log filter {filter:?} is wrong")]
    Filter {
        /// What was given.
        filter: String,
        /// Where it is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// `init` was called a second time in this process.
    #[error("logging is set up already")]
    AlreadySet,
    /// The OTLP exporter could not be made: check the `OTEL_EXPORTER_OTLP_*` variables.
    #[error("cannot export traces over OTLP")]
    Otlp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The admin address cannot be bound: it is in use, or not of this machine.
    #[error("cannot listen on the admin address {address}")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
