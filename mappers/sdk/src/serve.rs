//! HTTP servers of a mapper: its DMI socket for KubeEdge's nodes, and REST.
//!
//! A bounded number of connections; headers and TLS handshakes have a deadline, so a client that sends slowly or
//! nothing costs a place for seconds, not for ever. A connection ends with `stop`, after its open requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::rest::Tls;

/// Connections at once; a mapper has a handful of clients.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// How long the headers of a request or a TLS handshake may take.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a TCP connection may exist: one whose client does not read is closed by then.
const CONNECTION_AGE: Duration = Duration::from_secs(60);
/// Bytes of the headers of a request.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 32;
/// How long open requests may take when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// After a failed accept: file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(crate) enum Listener {
    /// A unix socket; HTTP/2 only, without a limit to the age of a connection.
    Unix(UnixListener),
    /// TCP, with TLS or without; HTTP/1 only.
    Tcp(TcpListener, Option<Arc<Tls>>),
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: Listener, router: Router, metrics: Metrics, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            match &listener {
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
                Listener::Tcp(listener, tls) => {
                    listener.accept().await.map(|(stream, _)| Stream::Tcp(stream, tls.clone()))
                }
            }
        };
        let stream = tokio::select! {
            stream = accepted => stream,
            () = stop.cancelled() => return,
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics.rest_refused.inc();
            continue;
        };
        tokio::spawn(connection(stream, router.clone(), stop.clone(), place));
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, Option<Arc<Tls>>),
}

async fn connection(stream: Stream, router: Router, stop: CancellationToken, place: OwnedSemaphorePermit) {
    match stream {
        Stream::Unix(stream) => requests(stream, router, true, stop).await,
        Stream::Tcp(stream, None) => requests(stream, router, false, stop).await,
        Stream::Tcp(stream, Some(tls)) => {
            match tokio::time::timeout(HEADER_TIMEOUT, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => requests(stream, router, false, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
    drop(place);
}

async fn requests<S>(stream: S, router: Router, local: bool, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(HEADER_TIMEOUT)
        .keep_alive_timeout(HEADER_TIMEOUT);
    // Only one version each: finding out which one it is has no deadline.
    let builder = if local { builder.http2_only() } else { builder.http1_only() };
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let age = async {
        if local {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(CONNECTION_AGE).await;
    };
    tokio::select! {
        // How it ended is the client's business.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = age => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(STOP_DEADLINE, connection).await;
}
