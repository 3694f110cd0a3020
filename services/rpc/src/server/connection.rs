//! The life of one connection of a server: admission, handshake, identity, HTTP/2, end.
//!
//! Admission and handshake run on a task that ends before HTTP/2 starts, so their state is gone when
//! the connection is idle. What remains is [`ConnTask`]: hyper's connection and a few pointers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use hyper_util::rt::{TokioExecutor, TokioIo};
use skerry_identity::{CredentialWatch, spki_fingerprint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::gate::Place;
use super::service::Calls;
use super::{Shared, sweep};
use crate::connection::{ConnState, ConnectionHandle, Order};
use crate::io::{Counted, Socket, Transport};
use crate::listen::Origin;
use crate::metrics::{ServerClass, ServerReason};
use crate::peer::{Identity, Peer};

/// A connection that the listener gave.
pub(super) struct Accepted {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Socket,
    pub(super) origin: Origin,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Who is at the other end, and the bytes to and from there.
struct Opened {
    transport: Transport,
    identity: Identity,
    key_fingerprint: Option<Box<str>>,
}

/// Why a handshake failed: the reason for the metrics, and a detail for the log.
type Failure = (&'static str, String);

impl Accepted {
    pub(super) fn start(self) {
        let shared = Arc::clone(&self.shared);
        shared.tasks.spawn(self.run());
    }

    async fn run(self) {
        let Self { shared, socket, origin, permit } = self;
        let mut place = None;
        if let Some(remote) = origin.remote {
            place = shared.gate.enter(remote.ip());
            if place.is_none() {
                shared.refuse("too_many_per_address", &format_args!("{}", remote.ip()));
                return;
            }
        }
        let state = Arc::new(ConnState::new(shared.next_connection.fetch_add(1, Relaxed), shared.clock));
        let counted = Counted::new(socket, Arc::clone(&state));
        let opened = tokio::select! {
            opened = open(&shared, counted, &origin) => opened,
            () = shared.stopping.cancelled() => return,
        };
        let Opened { transport, identity, key_fingerprint } = match opened {
            Ok(opened) => opened,
            Err((reason, detail)) => {
                shared.metrics.handshake_failed(shared.name, reason);
                shared.log_refusal(reason, &format_args!("{:?}: {detail}", origin.remote));
                return;
            }
        };
        if identity == Identity::Anonymous && !shared.policy.serves_anonymous() {
            shared.refuse("anonymous", &format_args!("{:?}", origin.remote));
            return;
        }
        if identity != Identity::Anonymous {
            place = None;
        }
        state.ready();
        let connection = ConnectionHandle(state);
        let peer = Arc::new(Peer { identity, remote: origin.remote, connection, key_fingerprint });
        ConnTask::start(shared, peer, transport, permit, place);
    }
}

async fn open(shared: &Shared, counted: Counted, origin: &Origin) -> Result<Opened, Failure> {
    if let Some((uid, pid)) = origin.local {
        let identity = Identity::Local { uid, pid };
        return Ok(Opened { transport: Transport::Plain(counted), identity, key_fingerprint: None });
    }
    let Some(tls) = &shared.tls else {
        let transport = Transport::Plain(counted);
        return Ok(Opened { transport, identity: Identity::Anonymous, key_fingerprint: None });
    };
    let accept = TlsAcceptor::from(tls.server_config()).accept(counted);
    let stream = match tokio::time::timeout(shared.limits.handshake_timeout, accept).await {
        Err(_) => return Err(("handshake_timeout", String::new())),
        Ok(Err(error)) => return Err(("tls", error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    let (identity, key_fingerprint) = who(tls, stream.get_ref().1.peer_certificates())?;
    let transport = Transport::Tls(Box::new(TlsStream::Server(stream)));
    Ok(Opened { transport, identity, key_fingerprint })
}

/// The identity that the verified chain names. Doubt means refuse.
fn who(
    tls: &CredentialWatch,
    chain: Option<&[rustls::pki_types::CertificateDer<'_>]>,
) -> Result<(Identity, Option<Box<str>>), Failure> {
    let Some(chain) = chain else { return Ok((Identity::Anonymous, None)) };
    let identity = skerry_identity::Identity::from_peer_certificates(chain, tls.trust_domain())
        .map_err(|error| ("identity", error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| ("identity", "no certificate".to_owned()))?;
    if tls.revocations().refuses(leaf, &identity) {
        return Err(("revoked", identity.to_string()));
    }
    let print = spki_fingerprint(leaf).map_err(|error| ("identity", error.to_string()))?;
    let identity = match identity {
        skerry_identity::Identity::Node(name) => Identity::Node(name),
        skerry_identity::Identity::Service(name) => Identity::Service(name),
    };
    Ok((identity, Some(print.into())))
}

type Http = hyper::server::conn::http2::Connection<TokioIo<Transport>, Calls, TokioExecutor>;

/// Drives one connection, and obeys its orders.
pub(super) struct ConnTask {
    http: Http,
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    draining: bool,
    ended: &'static str,
    #[allow(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
    #[allow(dead_code, reason = "held for its drop")]
    place: Option<Box<Place>>,
}

/// Bytes that one idle connection's task takes, for the test that keeps it small.
#[cfg(test)]
pub(crate) fn task_size() -> usize {
    size_of::<ConnTask>()
}

impl ConnTask {
    fn start(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        transport: Transport,
        permit: OwnedSemaphorePermit,
        place: Option<Place>,
    ) {
        let class = ServerClass { server: shared.name, class: peer.identity.class() };
        let bucket = shared.registry.join(&peer, shared.limits.max_connections_per_identity);
        shared.metrics.0.connections.get_or_create(&class).inc();
        let streams = shared.metrics.0.streams.get_or_create(&class).clone();
        let requests = shared.metrics.0.requests.get_or_create(&class).clone();
        tracing::debug!(server = shared.name, peer = %peer.identity, connection = peer.connection.id(), "connected");
        let calls = Calls { shared: Arc::clone(&shared), peer: Arc::clone(&peer), bucket, streams, requests };
        let http = match peer.identity {
            Identity::Anonymous => &shared.pinging_http,
            _ => &shared.quiet_http,
        };
        let http = http.serve_connection(TokioIo::new(transport), calls);
        let place = place.map(Box::new);
        let tracker = shared.tasks.clone();
        let task = Self { http, shared, peer, draining: false, ended: "dropped", permit, place };
        // These may have happened between the handshake and the entry in the registry.
        if task.shared.stopping.is_cancelled() {
            task.peer.connection.0.give(Order::Drain, "stopping", "the server is stopping");
        }
        if task.shared.tls.as_ref().is_some_and(|tls| sweep::is_revoked(&task.peer, tls.revocations())) {
            task.peer.connection.0.give(Order::Abort, "revoked", "the certificate was revoked");
        }
        if task.shared.cut.is_cancelled() {
            task.peer.connection.0.give(Order::Abort, "stopping", "the server is stopping");
        }
        tracker.spawn(task);
    }
}

impl Future for ConnTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let state = &this.peer.connection.0;
        state.register_task(cx);
        let order = state.order();
        if order == Order::Abort {
            this.ended = "aborted";
            return Poll::Ready(());
        }
        if order >= Order::Drain && !this.draining {
            this.draining = true;
            Pin::new(&mut this.http).graceful_shutdown();
        }
        let Poll::Ready(result) = Pin::new(&mut this.http).poll(cx) else { return Poll::Pending };
        match result {
            Ok(()) => this.ended = "closed",
            Err(error) => {
                this.ended = if error.is_timeout() { "ping_unanswered" } else { "http2_error" };
                tracing::debug!(
                    server = this.shared.name,
                    peer = %this.peer.identity,
                    error = crate::error::chain(&error),
                    "connection failed"
                );
            }
        }
        Poll::Ready(())
    }
}

impl Drop for ConnTask {
    fn drop(&mut self) {
        let (shared, peer) = (&self.shared, &self.peer);
        shared.registry.leave(peer);
        let class = peer.identity.class();
        shared.metrics.0.connections.get_or_create(&ServerClass { server: shared.name, class }).dec();
        let [received, sent] = sweep::uncounted(&peer.connection.0);
        sweep::count_bytes(shared, class, received, sent);
        let reason = peer.connection.0.label().unwrap_or(self.ended);
        shared.metrics.0.ended.get_or_create(&ServerReason { server: shared.name, reason }).inc();
        tracing::debug!(server = shared.name, peer = %peer.identity, connection = peer.connection.id(), reason, "gone");
    }
}
