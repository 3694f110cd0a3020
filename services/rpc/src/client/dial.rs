//! One dialled connection, up to HTTP/2.
//!
//! All addresses are tried, the next one beside the others when they take too long, and the first
//! whose TLS handshake succeeds wins; the rest is dropped. The whole has one deadline.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::body::Body;

use super::{ClientTls, Kind, Target};
use crate::connection::{Clock, ConnState};
use crate::error::ConnectError;
use crate::io::{Counted, Socket, Transport, tune};
use crate::limits::{self, ClientLimits};

/// Addresses that names may resolve to.
const MAX_RESOLVED: usize = 32;

pub(super) type Http = http2::Connection<TokioIo<Transport>, Body, TokioExecutor>;

/// A connection whose HTTP/2 has begun; `http` must be driven.
pub(super) struct Dialled {
    pub(super) sender: SendRequest<Body>,
    pub(super) http: Http,
    pub(super) state: Arc<ConnState>,
    pub(super) address: String,
}

pub(super) async fn dial(target: &Target, limits: &ClientLimits) -> Result<Dialled, ConnectError> {
    let timeout = limits.connect_timeout;
    match tokio::time::timeout(timeout, open(target, limits)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut { address: target.to_string(), seconds: timeout.as_secs_f32() }),
    }
}

async fn open(target: &Target, limits: &ClientLimits) -> Result<Dialled, ConnectError> {
    let state = || Arc::new(ConnState::new(0, Clock::new()));
    let (transport, state, address) = match &target.0 {
        Kind::Unix { path, held } => {
            let address = path.display().to_string();
            let socket = UnixStream::connect(path)
                .await
                .map_err(|source| ConnectError::Io { address: address.clone(), source })?;
            if let Some(held) = held {
                held.hold(socket.as_fd());
            }
            let state = state();
            (Transport::Plain(Counted::obeying(Socket::Unix(socket), Arc::clone(&state))), state, address)
        }
        Kind::Pipe(connector) => {
            let state = state();
            let socket = Socket::Pipe(connector.connect().await?);
            (Transport::Plain(Counted::obeying(socket, Arc::clone(&state))), state, "pipe".to_owned())
        }
        Kind::Tcp { addresses, tls, .. } => {
            let addresses = resolve(addresses, limits.shuffle).await?;
            race(addresses, tls.as_ref(), limits).await?
        }
    };
    let (sender, http) = builder(limits)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|source| ConnectError::Http { address: address.clone(), source })?;
    Ok(Dialled { sender, http, state, address })
}

/// All socket addresses, in the order to try them.
async fn resolve(addresses: &[String], shuffle: bool) -> Result<Vec<SocketAddr>, ConnectError> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut failed = None;
    for address in addresses {
        if let Ok(address) = address.parse() {
            found.push(address);
            continue;
        }
        match tokio::net::lookup_host(address).await {
            Ok(resolved) => found.extend(resolved),
            Err(source) => failed = Some(ConnectError::Resolve { address: address.clone(), source }),
        }
    }
    found.truncate(MAX_RESOLVED);
    if found.is_empty() {
        return Err(failed.unwrap_or(ConnectError::NoAddress));
    }
    if shuffle {
        let keys: Vec<u64> = found.iter().map(|_| rand::random()).collect();
        let mut keyed: Vec<_> = keys.into_iter().zip(found).collect();
        keyed.sort_by_key(|(key, _)| *key);
        found = keyed.into_iter().map(|(_, address)| address).collect();
    }
    Ok(found)
}

type Attempt = (Transport, Arc<ConnState>, String);

async fn race(
    addresses: Vec<SocketAddr>,
    tls: Option<&(ServerName<'static>, ClientTls)>,
    limits: &ClientLimits,
) -> Result<Attempt, ConnectError> {
    let mut waiting = addresses.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut last = ConnectError::NoAddress;
    loop {
        if let Some(address) = waiting.next() {
            running.push(attempt(address, tls));
        } else if running.is_empty() {
            return Err(last);
        }
        tokio::select! {
            Some(result) = running.next() => match result {
                Ok(attempt) => return Ok(attempt),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(limits.fallback_delay), if waiting.peek().is_some() => {}
        }
    }
}

async fn attempt(address: SocketAddr, tls: Option<&(ServerName<'static>, ClientTls)>) -> Result<Attempt, ConnectError> {
    let text = address.to_string();
    let stream =
        TcpStream::connect(address).await.map_err(|source| ConnectError::Io { address: text.clone(), source })?;
    tune(&stream);
    let state = Arc::new(ConnState::new(0, Clock::new()));
    let counted = Counted::obeying(Socket::Tcp(stream), Arc::clone(&state));
    let transport = match tls {
        None => Transport::Plain(counted),
        Some((name, tls)) => {
            let stream = TlsConnector::from(tls.config())
                .connect(name.clone(), counted)
                .await
                .map_err(|source| ConnectError::Tls { address: text.clone(), source })?;
            Transport::Tls(Box::new(TlsStream::Client(stream)))
        }
    };
    Ok((transport, state, text))
}

fn builder(limits: &ClientLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits::FRAME_BYTES)
        .max_header_list_size(limits.max_header_list)
        .max_send_buf_size(limits.max_send_buffer)
        .timer(TokioTimer::new());
    if let Some((interval, timeout)) = limits.keepalive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
    }
    builder
}
