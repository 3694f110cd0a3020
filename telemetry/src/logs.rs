//! Logging and tracing of the process.
//!
//! Logs go to standard error, pretty for people or JSON for machines. Traces go to an OTLP collector
//! when `OTEL_EXPORTER_OTLP_ENDPOINT` (or its `_TRACES_` form) is set, and nowhere otherwise. The
//! filter can be changed while the process runs, through the admin server.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::TelemetryError;

/// Environment variables that ask for traces.
const OTLP_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// What is logged when nobody asked for anything else.
const DEFAULT_FILTER: &str = "info";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// Look of the lines.
    pub format: LogFormat,
    /// As in `info,skerry_cloudhub=debug`; `None` is `info`.
    pub filter: Option<String>,
    /// `service.name` in traces.
    pub service: String,
}

/// Sends what is left of the traces when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard(Option<SdkTracerProvider>);

/// Sets up logging and tracing. To be called once, inside the Tokio runtime.
///
/// # Errors
/// When the filter is wrong, the exporter cannot be made, or logging is set up already.
pub fn init(config: &LogConfig) -> Result<Guard, TelemetryError> {
    let filter = parse_filter(config.filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Pretty => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let provider = exporter(&config.service)?;
    let traces = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("skerry")));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(traces)
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    let _ = FILTER.set(handle);
    Ok(Guard(provider))
}

/// Replaces the filter of the running process.
///
/// # Errors
/// When the filter is wrong or logging was not set up.
pub(crate) fn set_filter(filter: &str) -> Result<(), TelemetryError> {
    let parsed = parse_filter(filter)?;
    let handle = FILTER.get().ok_or(TelemetryError::AlreadySet)?;
    handle.reload(parsed).map_err(|_| TelemetryError::AlreadySet)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

fn exporter(service: &str) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if OTLP_VARIABLES.iter().all(|name| std::env::var_os(name).is_none_or(|v| v.is_empty())) {
        return Ok(None);
    }
    let exporter =
        opentelemetry_otlp::SpanExporter::builder().with_tonic().build().map_err(|e| TelemetryError::Otlp(e.into()))?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name(service.to_owned()).build();
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // The exporter blocks; a runtime thread must not. The thread is waited for, so that the
            // last spans are not lost, and the exporter has a deadline of its own.
            let flush = std::thread::spawn(move || provider.shutdown());
            let _ = flush.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_named() {
        let text = parse_filter("info,[").map(|_| String::new()).unwrap_or_else(|e| e.to_string());
        assert!(text.contains("info,["), "{text}");
        assert!(parse_filter("warn,skerry_edged=trace").is_ok());
    }
}
