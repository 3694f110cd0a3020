//! Tracing, typed events, metrics, OpenTelemetry and the admin server.
