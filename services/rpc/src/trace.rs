//! W3C trace context on calls: the `traceparent` header.
//!
//! The client writes the current span's context, the server makes the handler's span its child. A
//! process that does not trace sends nothing.

use http::{HeaderMap, HeaderName, HeaderValue};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) fn inject(headers: &mut HeaderMap) {
    let context = skerry_telemetry::trace::traceparent();
    if !context.is_empty()
        && let Ok(value) = HeaderValue::from_str(&context)
    {
        headers.insert(TRACEPARENT.clone(), value);
    }
}

pub(crate) fn adopt(span: &tracing::Span, headers: &HeaderMap) {
    if let Some(context) = headers.get(&TRACEPARENT).and_then(|value| value.to_str().ok()) {
        skerry_telemetry::trace::set_parent(span, context);
    }
}
