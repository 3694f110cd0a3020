//! One call: the checks before the handler, and the limits around it.
//!
//! In this order, cheapest first: form of the request, the connection's orders, the authorization
//! table, the identity's rate, the deadline, the number of running handlers. Only then the handler's
//! route sees the request, with the [`Peer`] in its extensions.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tonic::Status;
use tower::Service as _;
use tracing::Instrument as _;

use super::Shared;
use super::rate::Bucket;
use crate::body::{LimitedBody, ServerBody, StreamGuard};
use crate::connection::Order;
use crate::peer::{Identity, Peer};
use crate::{deadline, descriptors, trace};

/// Refusals are logged at most once in this time per server.
const REFUSAL_LOG_INTERVAL_MS: u64 = 1000;

/// The calls of one connection.
pub(super) struct Calls {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Arc<Peer>,
    pub(super) bucket: Option<Arc<Bucket>>,
    pub(super) streams: Gauge,
    pub(super) requests: Counter,
}

/// Why a call does not reach its handler: what to answer, and the reason for the metrics.
struct Refusal(&'static str, Status);

/// What the checks found out.
struct Admitted {
    max_message: usize,
    deadline: Option<Duration>,
    flight: Flight,
}

/// Counts a handler as running.
struct Flight(Arc<Shared>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Calls {
    fn admit(&self, request: &Request<Incoming>) -> Result<Admitted, Refusal> {
        let state = &self.peer.connection.0;
        let limits = &self.shared.limits;
        if state.order() >= Order::EndStreams {
            return Err(Refusal("ending", Status::unavailable(state.reason())));
        }
        let max_message = self
            .shared
            .policy
            .check(request.uri().path(), &self.peer.identity)
            .map_err(|denied| Refusal(denied.reason(), Status::permission_denied(denied.message())))?;
        let rated = matches!(self.peer.identity, Identity::Node(_) | Identity::Anonymous);
        if rated && self.bucket.as_ref().is_some_and(|b| !b.take(self.shared.clock.now_ms(), limits.node_rate)) {
            return Err(Refusal("rate", Status::resource_exhausted("too many requests; try again later")));
        }
        let deadline = deadline::requested(request.headers()).map_err(|status| Refusal("deadline", status))?;
        if self.shared.in_flight.fetch_add(1, Relaxed) >= limits.max_in_flight {
            self.shared.in_flight.fetch_sub(1, Relaxed);
            return Err(Refusal("overloaded", Status::resource_exhausted("the server is overloaded; try again later")));
        }
        Ok(Admitted { max_message, deadline, flight: Flight(Arc::clone(&self.shared)) })
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<ServerBody>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let guard = StreamGuard::new(Arc::clone(&self.peer.connection.0), self.streams.clone());
        self.requests.inc();
        if !is_grpc(&request) {
            self.shared.refuse("not_grpc", &self.peer.identity);
            let mut response = Response::new(ServerBody::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Call::Refused(Some(Box::new(response)));
        }
        let Admitted { max_message, deadline, flight } = match self.admit(&request) {
            Ok(admitted) => admitted,
            Err(Refusal(reason, status)) => {
                let what = format_args!("{} calling {}", self.peer.identity, request.uri().path());
                self.shared.refuse(reason, &what);
                return Call::Refused(Some(Box::new(status.into_http::<()>().map(|()| ServerBody::empty()))));
            }
        };
        let path = request.uri().path();
        let unary = descriptors::is_unary(path);
        let span = tracing::info_span!("rpc", method = path, peer = %self.peer.identity);
        trace::adopt(&span, request.headers());
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Arc::clone(&self.peer));
        let request = Request::from_parts(parts, LimitedBody::new(body, max_message));
        let handler = self.shared.routes.clone().call(request);
        let longest = self.shared.limits.unary_deadline;
        let limit = if unary { Some(deadline.map_or(longest, |asked| asked.min(longest))) } else { deadline };
        let run = async move {
            let _flight = flight;
            let started = tokio::time::Instant::now();
            let response = match limit {
                None => handler.await,
                Some(limit) => match tokio::time::timeout(limit, handler).await {
                    Ok(response) => response,
                    Err(_) => {
                        let status = Status::deadline_exceeded("the call took longer than its deadline");
                        return status.into_http::<()>().map(|()| ServerBody::empty());
                    }
                },
            };
            let Ok(response) = response;
            let rest = if unary { None } else { deadline };
            // A deadline that the clock cannot express is none.
            let rest = rest.and_then(|rest| started.checked_add(rest)).map(tokio::time::sleep_until).map(Box::pin);
            response.map(|body| ServerBody::new(body, guard, !unary, rest))
        };
        Call::Running(Box::pin(run.instrument(span)))
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    request.method() == Method::POST && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// The future of a call; small, because it lives in the stream's task for the whole stream.
pub(super) enum Call {
    Refused(Option<Box<Response<ServerBody>>>),
    Running(Pin<Box<dyn Future<Output = Response<ServerBody>> + Send>>),
}

impl Future for Call {
    type Output = Result<Response<ServerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Refused(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(*response)),
                None => Poll::Pending,
            },
            Self::Running(run) => run.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Shared {
    /// Counts a refusal and logs it.
    pub(super) fn refuse(&self, reason: &'static str, what: &dyn fmt::Display) {
        self.metrics.refuse(self.name, reason);
        self.log_refusal(reason, what);
    }

    /// Logs a refusal, unless one was logged just now: attacks must not fill the disk.
    pub(super) fn log_refusal(&self, reason: &'static str, what: &dyn fmt::Display) {
        let now = self.clock.now_ms();
        let last = self.refusal_logged_ms.load(Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= REFUSAL_LOG_INTERVAL_MS;
        if due && self.refusal_logged_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok() {
            let unlogged = self.refusals_unlogged.swap(0, Relaxed);
            tracing::warn!(server = self.name, reason, unlogged, "refused: {what}");
        } else {
            self.refusals_unlogged.fetch_add(1, Relaxed);
        }
    }
}
