//! Bodies with limits: of requests and responses, at both ends.
//!
//! [`LimitedBody`] reads the length in front of each gRPC message as it passes and fails before a
//! message over the limit is buffered, whatever the handler's own limit is. [`ServerBody`] keeps a
//! stream counted while it is open, and ends it with a status when its connection is told to end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use crate::connection::{ConnState, Order};
use crate::limits::MESSAGE_PREFIX_BYTES;

/// Follows the message prefixes of a gRPC body.
#[derive(Debug, Default)]
struct Prefixes {
    prefix: [u8; MESSAGE_PREFIX_BYTES],
    have: usize,
    /// Bytes of the current message that are still to come.
    remaining: usize,
}

impl Prefixes {
    /// The length of a message that is over the limit, if one begins in `data`.
    fn follow(&mut self, mut data: &[u8], limit: usize) -> Option<usize> {
        loop {
            let skip = self.remaining.min(data.len());
            self.remaining -= skip;
            data = data.get(skip..).unwrap_or_default();
            let (first, rest) = data.split_first()?;
            data = rest;
            if let Some(place) = self.prefix.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            if self.have == MESSAGE_PREFIX_BYTES {
                let [_, a, b, c, d] = self.prefix;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                if length > limit {
                    return Some(length);
                }
                self.remaining = length;
                self.have = 0;
            }
        }
    }
}

/// A body whose messages have a limit, and which may have a deadline.
pub(crate) struct LimitedBody<B> {
    inner: B,
    prefixes: Prefixes,
    limit: usize,
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    failed: bool,
}

impl<B> LimitedBody<B> {
    pub(crate) fn new(inner: B, limit: usize) -> Self {
        Self { inner, prefixes: Prefixes::default(), limit, deadline: None, failed: false }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        if let Some(sleep) = &mut this.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            this.failed = true;
            return Poll::Ready(Some(Err(Status::deadline_exceeded("the call took longer than its deadline"))));
        }
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                this.failed = true;
                return Poll::Ready(Some(Err(broken(error))));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref()
            && let Some(length) = this.prefixes.follow(data, this.limit)
        {
            this.failed = true;
            let text = format!("a message of {length} bytes is over the limit of {} bytes", this.limit);
            return Poll::Ready(Some(Err(Status::resource_exhausted(text))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The status for a body or call that broke on the way: what HTTP/2 says maps as gRPC prescribes,
/// everything that it does not know is the loss of the connection.
pub(crate) fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    let text = crate::error::chain(&error);
    let status = Status::from_error(Box::new(error));
    match status.code() {
        tonic::Code::Unknown | tonic::Code::Internal => Status::unavailable(text),
        _ => status,
    }
}

/// Keeps a stream counted as open until it is dropped.
pub(crate) struct StreamGuard {
    state: Arc<ConnState>,
    slot: Option<usize>,
    open: prometheus_client::metrics::gauge::Gauge,
}

impl StreamGuard {
    pub(crate) fn new(state: Arc<ConnState>, open: prometheus_client::metrics::gauge::Gauge) -> Self {
        state.stream_opened();
        open.inc();
        Self { state, slot: None, open }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.state.forget_body(&mut self.slot);
        self.state.stream_ended();
        self.open.dec();
    }
}

/// The body of a response of a server.
pub(crate) struct ServerBody {
    inner: tonic::body::Body,
    guard: Option<StreamGuard>,
    /// Set when a streaming call has a deadline.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The answer of a unary call is always sent; a stream may be ended between messages.
    streaming: bool,
    ended: bool,
}

impl ServerBody {
    pub(crate) fn new(
        inner: tonic::body::Body,
        guard: StreamGuard,
        streaming: bool,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        Self { inner, guard: Some(guard), deadline, streaming, ended: false }
    }

    pub(crate) fn empty() -> Self {
        Self { inner: tonic::body::Body::empty(), guard: None, deadline: None, streaming: false, ended: false }
    }

    fn end_with(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        // The handler learns at once that nobody listens any more.
        self.inner = tonic::body::Body::empty();
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn ordered_to_end(&self) -> Option<Status> {
        let state = &self.guard.as_ref()?.state;
        (state.order() >= Order::EndStreams).then(|| Status::unavailable(state.reason()))
    }
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.streaming
            && let Some(status) = this.ordered_to_end()
        {
            return this.end_with(&status);
        }
        if let Some(sleep) = &mut this.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            return this.end_with(&Status::deadline_exceeded("the call took longer than its deadline"));
        }
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        if frame.is_pending() {
            if let Some(guard) = &mut this.guard {
                let StreamGuard { state, slot, .. } = guard;
                state.register_body(slot, cx.waker());
            }
            // After registering, so that an order in between is not missed.
            if let Some(status) = this.ordered_to_end() {
                return this.end_with(&status);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_followed_across_frames() {
        let message = |length: u32| {
            let mut bytes = vec![0];
            bytes.extend(length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, length as usize));
            bytes
        };
        let mut body = message(3);
        body.extend(message(0));
        body.extend(message(100));
        for chunk in 1..body.len() {
            let mut prefixes = Prefixes::default();
            assert!(body.chunks(chunk).all(|data| prefixes.follow(data, 100).is_none()), "{chunk}");
            let mut prefixes = Prefixes::default();
            assert_eq!(body.chunks(chunk).find_map(|data| prefixes.follow(data, 99)), Some(100), "{chunk}");
        }
        // Four gigabytes declared, nothing sent.
        assert_eq!(Prefixes::default().follow(&[0, 255, 255, 255, 255], 1 << 20), Some(u32::MAX as usize));
    }
}
