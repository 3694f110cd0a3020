//! The channel that generated clients take: `SourceClient::new(channel)`.
//!
//! Adds to each call what every call needs: the origin, a deadline for unary calls, the trace
//! context, a bound on open calls and on the size of replies. Clones share one connection.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::reconnect::Reconnect;
use super::{ClientTls, Target};
use crate::body::{LimitedBody, broken};
use crate::error::ConnectError;
use crate::limits::{ClientLimits, max_message_bytes};
use crate::pipe::PipeConnector;
use crate::{deadline, descriptors, trace};

/// See the module documentation. Cheap to clone.
#[derive(Clone)]
pub struct Channel(Arc<Inner>);

pub(super) struct Inner {
    mode: Mode,
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    limits: ClientLimits,
    open_calls: AtomicUsize,
}

enum Mode {
    Once(SendRequest<Body>),
    Lazy(Box<Reconnect>),
}

impl Channel {
    /// A channel to a Skerry service over TCP and TLS; see [`Target::tcp`].
    ///
    /// # Errors
    /// As [`Target::tcp`]. Nothing is dialled yet.
    pub fn tcp<I, A>(
        addresses: I,
        service: &str,
        tls: impl Into<ClientTls>,
        limits: ClientLimits,
    ) -> Result<Self, ConnectError>
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        Ok(Self::lazy(&Target::tcp(addresses, service, tls)?, limits))
    }

    /// A channel to a unix socket, with [`ClientLimits::local`].
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::lazy(&Target::unix(path), ClientLimits::local())
    }

    /// A channel to a server of this process, with [`ClientLimits::local`].
    #[must_use]
    pub fn pipe(connector: PipeConnector) -> Self {
        Self::lazy(&Target::pipe(connector), ClientLimits::local())
    }

    /// A channel that connects when it is first used, and again after a loss.
    #[must_use]
    pub fn lazy(target: &Target, limits: ClientLimits) -> Self {
        let mode = Mode::Lazy(Box::new(Reconnect::new(target.clone(), limits.clone())));
        Self::new(target, limits, mode)
    }

    pub(super) fn once(target: &Target, limits: ClientLimits, sender: SendRequest<Body>) -> Self {
        Self::new(target, limits, Mode::Once(sender))
    }

    fn new(target: &Target, limits: ClientLimits, mode: Mode) -> Self {
        let (scheme, authority) = target.origin();
        Self(Arc::new(Inner { mode, scheme, authority, limits, open_calls: AtomicUsize::new(0) }))
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// Asks the server's health, so that it hears from us.
    pub(super) async fn heartbeat(self, within: Duration) -> Result<(), Status> {
        let mut client = tonic_health::pb::health_client::HealthClient::new(self);
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        client.check(deadline::deadline(request, within)).await.map(drop)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.0.authority)
    }
}

/// Counts a call as open.
struct OpenCall(Arc<Inner>);

impl OpenCall {
    fn new(inner: &Arc<Inner>) -> Result<Self, Status> {
        if inner.open_calls.fetch_add(1, Relaxed) >= inner.limits.max_in_flight {
            inner.open_calls.fetch_sub(1, Relaxed);
            return Err(Status::resource_exhausted("too many open calls on this channel"));
        }
        Ok(Self(Arc::clone(inner)))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.fetch_sub(1, Relaxed);
    }
}

/// The body of a reply.
pub struct ReplyBody {
    inner: LimitedBody<Incoming>,
    #[allow(dead_code, reason = "held for its drop")]
    open: OpenCall,
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyBody")
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

type CallFuture = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, Status>> + Send>>;

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<ReplyBody>;
    type Error = Status;
    type Future = CallFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> CallFuture {
        let inner = Arc::clone(&self.0);
        // Here and not in the future, because the span of the caller is entered now.
        let request = inner.prepare(request);
        Box::pin(async move {
            let (request, deadline) = request?;
            let open = OpenCall::new(&inner)?;
            match deadline {
                None => inner.send(request, open).await,
                Some(deadline) => {
                    let mut response = tokio::time::timeout_at(deadline, inner.send(request, open))
                        .await
                        .map_err(|_| Status::deadline_exceeded("the call took longer than its deadline"))??;
                    response.body_mut().inner.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
                    Ok(response)
                }
            }
        })
    }
}

impl Inner {
    fn prepare(&self, request: Request<Body>) -> Result<(Request<Body>, Option<Instant>), Status> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned();
        let mut limit = deadline::requested(&parts.headers)?;
        if limit.is_none() && descriptors::is_unary(parts.uri.path()) {
            limit = Some(self.limits.unary_deadline);
            parts.headers.insert(deadline::header_name(), deadline::header_value(self.limits.unary_deadline));
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = path;
        parts.uri = Uri::from_parts(uri).map_err(|_| Status::internal("the call has no path"))?;
        parts
            .headers
            .insert(http::header::USER_AGENT, HeaderValue::from_static(concat!("skerry/", env!("CARGO_PKG_VERSION"))));
        trace::inject(&mut parts.headers);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        Ok((Request::from_parts(parts, body), deadline))
    }

    async fn send(&self, request: Request<Body>, open: OpenCall) -> Result<Response<ReplyBody>, Status> {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        let limit = max_message_bytes(service);
        let response = match &self.mode {
            Mode::Once(sender) => sender.clone().send_request(request).await.map_err(lost)?,
            Mode::Lazy(reconnect) => {
                let mut link = reconnect.link().await?;
                let response = match link.sender.try_send_request(request).await {
                    Ok(response) => response,
                    Err(mut error) => match error.take_message() {
                        // The connection had ended before anything was sent: once more.
                        Some(request) => {
                            link = reconnect.link().await?;
                            link.sender.send_request(request).await.map_err(lost)?
                        }
                        None => return Err(lost(error.into_error())),
                    },
                };
                link.state.used.store(true, Relaxed);
                response
            }
        };
        Ok(response.map(|body| ReplyBody { inner: LimitedBody::new(body, limit), open }))
    }
}

/// The status of a call that got no response.
fn lost(error: hyper::Error) -> Status {
    if error.is_canceled() || error.is_closed() {
        Status::unavailable(crate::error::chain(&error))
    } else {
        broken(error)
    }
}
