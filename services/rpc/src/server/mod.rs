//! Servers: binding, serving, stopping.
//!
//! A service binds with [`Server::bind`] before it spawns anything, and then awaits [`Bound::serve`]
//! on a task of its own. Serving consists of the accept loop (here), one task per connection
//! (`connection.rs`), one task per call (`service.rs`) and one sweeper (`sweep.rs`).
//!
//! Invariants: no request reaches a handler before the authorization table allowed it; a connection
//! holds its permit from accept to its end; after `serve` returned, no connection and no handler of
//! the server is left.
//!
//! Stopping: no further connections, health says NOT_SERVING, GOAWAY to all; after
//! [`ServerLimits::stream_grace`] streams end with `UNAVAILABLE`; calls that are still running may
//! finish until the drain is forced, then everything is cut. Dropping the future of `serve` cuts at
//! once.

mod connection;
mod gate;
mod rate;
mod registry;
mod service;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use hyper_util::rt::{TokioExecutor, TokioTimer};
use skerry_common::drain;
use skerry_identity::CredentialWatch;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::connection::{Clock, Order};
use crate::descriptors;
use crate::error::BindError;
use crate::health::{self, Health};
use crate::limits::{self, ServerLimits};
use crate::listen::{Listen, Listener};
use crate::metrics::{Metrics, ServerName};
use crate::policy::Policy;

use self::connection::Accepted;
use self::gate::Gate;
use self::registry::Registry;

#[cfg(test)]
pub(crate) use self::connection::task_size;

/// What a server is made of.
#[derive(Debug)]
pub struct ServerConfig {
    /// Short constant name, for logs and metrics.
    pub name: &'static str,
    /// Where to listen.
    pub listen: Listen,
    /// Who may call what.
    pub policy: Policy,
    /// TLS; without it, TCP is served on loopback only and callers on it are anonymous.
    pub tls: Option<CredentialWatch>,
    /// Limits.
    pub limits: ServerLimits,
    /// Where to count.
    pub metrics: Metrics,
}

impl ServerConfig {
    /// A server without TLS, with default limits (for sockets and pipes: [`ServerLimits::local`]).
    #[must_use]
    pub fn new(name: &'static str, listen: Listen, policy: Policy) -> Self {
        let limits = if matches!(listen, Listen::Tcp(_)) { ServerLimits::default() } else { ServerLimits::local() };
        Self { name, listen, policy, tls: None, limits, metrics: Metrics::default() }
    }

    /// Sets the credentials.
    #[must_use]
    pub fn tls(mut self, credentials: CredentialWatch) -> Self {
        self.tls = Some(credentials);
        self
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets where to count.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }
}

/// Binds servers.
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Binds the listener and checks the table. Nothing is accepted yet.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(config: ServerConfig) -> Result<Bound, BindError> {
        let ServerConfig { name, listen, policy, tls, limits, metrics } = config;
        if let (Listen::Tcp(address), None) = (&listen, &tls)
            && !address.ip().is_loopback()
        {
            return Err(BindError::Plaintext(*address));
        }
        descriptors::check(&policy)?;
        let health = Health::new(&policy).await;
        let policy = health::allow(policy);
        let listener = Listener::bind(listen)?;
        Ok(Bound { name, listener, policy, tls, limits, metrics, health })
    }
}

/// A server that is bound and does not serve yet.
pub struct Bound {
    name: &'static str,
    listener: Listener,
    policy: Policy,
    tls: Option<CredentialWatch>,
    limits: ServerLimits,
    metrics: Metrics,
    health: Health,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Every call ended by itself or was told the reason.
    Clean,
    /// The drain's deadline passed with connections open; they were cut.
    Forced,
}

/// What all connections of a server share.
pub(crate) struct Shared {
    name: &'static str,
    policy: Policy,
    tls: Option<CredentialWatch>,
    limits: ServerLimits,
    metrics: Metrics,
    clock: Clock,
    routes: Routes,
    registry: Registry,
    gate: Gate,
    /// Handlers that have not returned yet.
    in_flight: AtomicUsize,
    /// When a refusal was last logged, and how many were not.
    refusal_logged_ms: AtomicU64,
    refusals_unlogged: AtomicU64,
    next_connection: AtomicU64,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Ends handshakes, when the drain begins.
    stopping: CancellationToken,
    /// Ends the sweeper and everything else.
    cut: CancellationToken,
    /// HTTP/2 for peers that ping by themselves, and for those that must be pinged.
    quiet_http: hyper::server::conn::http2::Builder<TokioExecutor>,
    pinging_http: hyper::server::conn::http2::Builder<TokioExecutor>,
}

impl Shared {
    fn give_all(&self, order: Order) {
        for peer in self.registry.all() {
            peer.connection.0.give(order, "stopping", "the server is stopping");
        }
    }
}

/// Cuts everything when serving ends in any way.
struct CutOnDrop(Arc<Shared>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.metrics.0.servers.dec();
        self.0.stopping.cancel();
        self.0.cut.cancel();
        self.0.give_all(Order::Abort);
    }
}

impl Bound {
    /// The address that TCP was bound to.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr()
    }

    /// To say whether the services are ready.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `stop`, then drains. Health and reflection are added to `routes`.
    ///
    /// # Errors
    /// [`BindError::Descriptors`] when reflection cannot be built.
    pub async fn serve(self, routes: Routes, mut stop: drain::Watch) -> Result<Served, BindError> {
        let Self { name, mut listener, policy, tls, limits, metrics, health } = self;
        let routes = health::add(routes, &health, &policy)?.prepare();
        let shared = Arc::new(Shared {
            name,
            clock: Clock::new(),
            routes,
            registry: Registry::default(),
            gate: Gate::new(limits.max_unauthenticated_per_ip),
            in_flight: AtomicUsize::new(0),
            refusal_logged_ms: AtomicU64::new(0),
            refusals_unlogged: AtomicU64::new(0),
            next_connection: AtomicU64::new(1),
            permits: Arc::new(Semaphore::new(limits.max_connections)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            quiet_http: http2(&limits, false),
            pinging_http: http2(&limits, true),
            policy,
            tls,
            limits,
            metrics,
        });
        let _cut = CutOnDrop(Arc::clone(&shared));
        shared.metrics.0.servers.inc();
        tokio::spawn(sweep::run(Arc::clone(&shared)));
        let _guard = tokio::select! {
            guard = stop.stopped() => guard,
            () = accept(&shared, &mut listener) => {
                // The last connector of a pipe is gone; open connections are served to their end.
                stop.stopped().await
            }
        };
        drop(listener);
        let started = Instant::now();
        let served = drain_connections(&shared, &health, &mut stop).await;
        shared.metrics.drained(name, started.elapsed());
        tracing::info!(server = name, result = ?served, took = ?started.elapsed(), "server stopped");
        Ok(served)
    }
}

async fn drain_connections(shared: &Arc<Shared>, health: &Health, stop: &mut drain::Watch) -> Served {
    health.set_all(false).await;
    shared.stopping.cancel();
    shared.give_all(Order::Drain);
    shared.tasks.close();
    let patient = async {
        tokio::select! {
            () = shared.tasks.wait() => return,
            () = tokio::time::sleep(shared.limits.stream_grace) => {}
        }
        shared.give_all(Order::EndStreams);
        shared.tasks.wait().await;
    };
    tokio::select! {
        () = patient => Served::Clean,
        () = stop.forced() => {
            shared.cut.cancel();
            shared.give_all(Order::Abort);
            shared.tasks.wait().await;
            Served::Forced
        }
    }
}

/// Accepts for ever; returns when the listener can give no further connection.
async fn accept(shared: &Arc<Shared>, listener: &mut Listener) {
    let mut pause = limits::ACCEPT_BACKOFF_MIN;
    loop {
        if shared.permits.available_permits() == 0 {
            shared.refuse("too_many_connections", &"new connections wait");
        }
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&shared.permits).acquire_owned().await else { return };
        match listener.accept().await {
            None => return,
            Some(Ok((socket, origin))) => {
                pause = limits::ACCEPT_BACKOFF_MIN;
                Accepted { shared: Arc::clone(shared), socket, origin, permit }.start();
            }
            Some(Err(error)) => {
                shared.metrics.0.accept_errors.get_or_create(&ServerName { server: shared.name }).inc();
                if out_of_resources(&error) {
                    tracing::warn!(server = shared.name, %error, ?pause, "cannot accept");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(limits::ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }
}

/// Errors of this process or machine; others concern only the connection that was to be accepted.
fn out_of_resources(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

fn http2(limits: &ServerLimits, pings: bool) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(limits::PENDING_ACCEPT_RESETS)
        .max_local_error_reset_streams(limits::LOCAL_ERROR_RESETS)
        .max_header_list_size(limits.max_header_list)
        .max_frame_size(limits::FRAME_BYTES)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(limits.max_send_buffer)
        .auto_date_header(false)
        .timer(TokioTimer::new());
    if pings {
        builder.keep_alive_interval(limits.keepalive.0).keep_alive_timeout(limits.keepalive.1);
    }
    builder
}
