//! W3C trace context, as text, for the envelopes of our protocols.
//!
//! Without an exporter there is no trace and both functions do nothing, so that an envelope of a
//! process that does not trace carries no bytes for it.

use opentelemetry::trace::TraceContextExt as _;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The current span as a `traceparent`; empty when it is not traced.
pub fn traceparent() -> String {
    let context = tracing::Span::current().context();
    let span = context.span();
    let context = span.span_context();
    if context.is_valid() {
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
    } else {
        String::new()
    }
}

/// Makes the span a child of the `traceparent`. A malformed one is ignored, as the specification says.
pub fn set_parent(span: &tracing::Span, traceparent: &str) {
    if let Some(parent) = parse(traceparent) {
        // Fails only where no exporter is installed, and then there is nothing to connect.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_contexts_are_taken() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(parse(good).is_some_and(|c| c.is_sampled()));
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for bad in ["", "00", zero, "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-zz-b7-01"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_an_exporter_there_is_no_context() {
        assert_eq!(traceparent(), "");
    }
}
