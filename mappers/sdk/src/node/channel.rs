//! One HTTP/2 connection to the node's socket, which tells when it has ended and never dials by itself.
//!
//! Mappers build outside this repository, without the crate that makes all other clients; so the limits are here.

use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// How long the node may take to accept.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that hangs is noticed after both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Header fields of an answer.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// A connection, for generated clients. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Body>,
    ended: CancellationToken,
}

/// Connects.
pub(crate) async fn dial(path: &Path) -> io::Result<Channel> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the node does not accept");
    let stream = tokio::time::timeout(DIAL_TIMEOUT, UnixStream::connect(path)).await.map_err(|_| late())??;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_header_list_size(MAX_HEADER_BYTES);
    let handshake = builder.handshake(TokioIo::new(stream));
    let (sender, connection) =
        tokio::time::timeout(DIAL_TIMEOUT, handshake).await.map_err(|_| late())?.map_err(io::Error::other)?;
    let ended = CancellationToken::new();
    let over = ended.clone().drop_guard();
    tokio::spawn(async move {
        // How it ended is seen by whoever used it.
        let _ = connection.await;
        drop(over);
    });
    Ok(Channel { sender, ended })
}

impl Channel {
    /// Resolves when the connection is over.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut sender = self.sender.clone();
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(http::uri::Authority::from_static("localhost"));
        parts.path_and_query = path;
        if let Ok(uri) = http::Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        Box::pin(async move {
            poll_fn(|context| sender.poll_ready(context)).await?;
            sender.send_request(request).await
        })
    }
}
